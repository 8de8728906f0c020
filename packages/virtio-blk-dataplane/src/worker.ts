// The entry of a data-plane thread.
import { workerData } from 'node:worker_threads'
import { loadEngine } from './engine.ts'
import type { ThreadInit } from './messages.ts'
import { ThreadLoop } from './thread-loop.ts'

const init = workerData as ThreadInit
try {
  new ThreadLoop(init, await loadEngine(init.engine)).run()
} finally {
  const done = new Int32Array(init.done)
  Atomics.store(done, 0, 1)
  Atomics.notify(done, 0)
}
