// Run by trace-ring.test.ts: writes as many records as it is told, each made of its number.
import { workerData } from 'node:worker_threads'
import { TraceWriter } from '../../src/trace-ring.ts'

const { state, total } = workerData as { readonly state: SharedArrayBuffer, readonly total: number }
const writer = new TraceWriter(state)
const now = new Float64Array(1)
for (let index = 0; index < total; index++) writer.processRequest(now, index % 251, index % 32749, index, -index)
