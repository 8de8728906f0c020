import { duplicate } from '@node-vmm/libc'
import { Worker } from 'node:worker_threads'
import { BEGIN, BlockingRing, COMPLETED, COMPLETION_MASK, END, SUBMISSION_MASK, SUBMITTED } from './blocking-ring.ts'
import type { CompletionSink } from './engine.ts'
import type { RequestTable } from './request-table.ts'

// Rings of workers of this thread that no engine needs now. They are kept for the next one: a worker takes tens of
// milliseconds to start, and what it leaves behind only the event loop of its starter gives back.
const idle: BlockingRing[] = []

/**
 * A thread for the calls that block and have no asynchronous form, one at a time. It is had from the first of them on,
 * sleeps in between where it can be terminated (`Atomics.wait`, no system call), and does not keep the process alive.
 */
export class BlockingThread {
  readonly #completionFd: number
  #ring: BlockingRing | undefined
  #reaped = 0

  /** @param completionFd the eventfd to write to when something is done. */
  constructor (completionFd: number) {
    this.#completionFd = completionFd
  }

  /** Has a blocking call made for a request: see `blockingCall`. */
  submit (id: number, fd: number, method: number, table: RequestTable): void {
    const ring = this.#ring ??= this.#begin()
    ring.fd[id] = fd
    ring.method[id] = method
    ring.offset[id] = table.offset[id]!
    ring.length[id] = table.length[id]!
    push(ring, id)
  }

  /** Hands out what is done, without waiting. */
  reap (sink: CompletionSink): void {
    // A callback may reap or close too: where we are is kept in the object, never in a local variable across a callback.
    for (let ring = this.#ring; ring !== undefined; ring = this.#ring) {
      if (this.#reaped === Atomics.load(ring.control, COMPLETED)) return
      const id = ring.completions[this.#reaped & COMPLETION_MASK]!
      this.#reaped = (this.#reaped + 1) | 0
      sink(id, ring.result[id]!)
    }
  }

  /** Lets go of the thread. Nothing may be in flight. */
  close (): void {
    if (this.#ring === undefined) return
    push(this.#ring, END)
    idle.push(this.#ring)
    this.#ring = undefined
  }

  #begin (): BlockingRing {
    const ring = idle.pop() ?? startWorker()
    this.#reaped = ring.control[COMPLETED]!
    // Its own duplicate, which it closes: it never writes to a number that means something else by then.
    push(ring, BEGIN - duplicate(this.#completionFd))
    return ring
  }
}

function startWorker (): BlockingRing {
  const ring = new BlockingRing()
  new Worker(workerEntry(), { workerData: ring.control.buffer, ...execArgvOption(), name: 'ioq-blocking' }).unref()
  return ring
}

function push (ring: BlockingRing, entry: number): void {
  const tail = ring.control[SUBMITTED]!
  ring.submissions[tail & SUBMISSION_MASK] = entry
  Atomics.store(ring.control, SUBMITTED, (tail + 1) | 0)
  Atomics.notify(ring.control, SUBMITTED)
}

/**
 * A worker inherits the options of the process. Of these, `--input-type`, which is about a program from the command
 * line, would make it refuse its file; given explicitly, options of V8 would too, so what need not be given is not.
 */
function execArgvOption (): { execArgv?: string[] } {
  const execArgv = process.execArgv.filter((argument) => !argument.startsWith('--input-type'))
  return execArgv.length === process.execArgv.length ? {} : { execArgv }
}

function workerEntry (): URL {
  return new URL(import.meta.url.endsWith('.ts') ? './blocking-worker.ts' : './blocking-worker.js', import.meta.url)
}
