// Run by sync.test.ts: nothing but the wait keeps this process alive until a thread, unreferenced, broadcasts.
import { Worker } from 'node:worker_threads'
import { Condition } from '../../src/sync.ts'

const words = new Int32Array(new SharedArrayBuffer(8))
const condition = new Condition(words, 1)
new Worker(`
  const { workerData: words } = require('node:worker_threads')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
  Atomics.add(words, 1, 1)
  Atomics.notify(words, 1)
`, { eval: true, workerData: words }).unref()

condition.waitAsync(60_000).then(() => console.log(Atomics.load(words, 1) === 2 ? 'woken' : 'woken without a broadcast'))
