// The entry of a data-plane thread.
import { workerData } from 'node:worker_threads'
import { loadEngine } from './engine.ts'
import type { ThreadInit } from './messages.ts'
import { ThreadLoop } from './thread-loop.ts'

const init = workerData as ThreadInit
new ThreadLoop(init, await loadEngine(init.engine)).run()
