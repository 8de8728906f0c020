// The entry of a data-plane thread.
import { workerData } from 'node:worker_threads'
import { loadEngine } from './engine.ts'
import type { ThreadInit } from './messages.ts'
import { OwnDisk } from './own-disk.ts'
import { ThreadLoop } from './thread-loop.ts'

const init = workerData as ThreadInit
try {
  if (init.diskModule === undefined) await new ThreadLoop(init, await loadEngine(init.engine)).run()
  else await new ThreadLoop(init, OwnDisk.from(init.diskModule)).serve()
} finally {
  const done = new Int32Array(init.done)
  Atomics.store(done, 0, 1)
  Atomics.notify(done, 0)
}
// What the disk has left open, a socket or a timer, would keep this thread.
if (init.diskModule !== undefined) process.exit()
