// Run by gate.test.ts in another thread: plays the data-plane thread, or somebody who drains.
import { parentPort, workerData } from 'node:worker_threads'
import { Gate } from '../../src/gate.ts'

/** What the thread does. */
export interface GateJob {
  readonly state: SharedArrayBuffer
  readonly kind: 'serve' | 'drain'
  /** Words that both sides see: 0 ends the serving, 1 is 1 while a batch is half taken in, 2 counts batches. */
  readonly flags: SharedArrayBuffer
}

const job = workerData as GateJob
const flags = new Int32Array(job.flags)
if (job.kind === 'serve') serve(Gate.attach(job.state))
else drain(Gate.attach(job.state, () => parentPort!.postMessage('opened')))

/** Takes in batches of 3 on queue 1, of which one finishes at once, and completes them a little later. */
function serve (gate: Gate): void {
  const nap = new Int32Array(new SharedArrayBuffer(4))
  while (Atomics.load(flags, 0) === 0) {
    if (gate.enter()) {
      Atomics.store(flags, 1, 1)
      Atomics.wait(nap, 0, 0, 0.01)
      Atomics.store(flags, 1, 0)
      gate.leave(1, 2)
      Atomics.add(flags, 2, 1)
      Atomics.wait(nap, 0, 0, 0.01)
      gate.complete(1, 1)
      gate.complete(1, 1)
    }
  }
}

function drain (gate: Gate): void {
  parentPort!.postMessage('draining')
  gate.drainSync()
  parentPort!.postMessage('drained')
}
