// Run by drain.test.ts: drains from a thread that is neither the data plane's nor its owner's.
import { parentPort, workerData } from 'node:worker_threads'
import { attachDrain, type DrainHandle } from '../../src/index.ts'

const drainable = attachDrain(workerData as DrainHandle)
for (let round = 0; round < 20; round++) drainable.drainSync({ timeout: 5000 })
for (let round = 0; round < 20; round++) await drainable.drain({ timeout: 5000 })
parentPort!.postMessage('drained')
