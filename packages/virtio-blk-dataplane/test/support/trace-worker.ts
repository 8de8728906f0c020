// Run by trace-ring.test.ts: when told to begin, writes as many records as it is told, each made of its number.
import { parentPort, workerData } from 'node:worker_threads'
import { TraceWriter } from '../../src/trace-ring.ts'

/** What `phase` has: 0 before. */
export const BEGIN = 1
export const DONE = 2

if (parentPort !== null) {
  const { state, total, phase } = workerData as { readonly state: SharedArrayBuffer, readonly total: number, readonly phase: Int32Array }
  const writer = new TraceWriter(state)
  const now = new Float64Array(1)
  parentPort.postMessage('ready')
  Atomics.wait(phase, 0, 0)
  for (let index = 0; index < total; index++) writer.processRequest(now, index % 251, index % 32749, index, -index)
  Atomics.store(phase, 0, DONE)
}
