// Run by drain.test.ts: drains from a thread that is neither the data plane's nor its owner's.
import { parentPort, workerData } from 'node:worker_threads'
import { attachDrain, type DrainHandle } from '../../src/index.ts'

const drainable = attachDrain(workerData as DrainHandle)
for (let round = 0; round < 20; round++) drainable.drainSync({ timeout: 60_000 })
for (let round = 0; round < 20; round++) await drainable.drain({ timeout: 60_000 })
parentPort!.postMessage('drained')
