import { duplicate } from '@node-vmm/libc'
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import { BlockingRing, COMPLETED, END, SUBMITTED } from './blocking-ring.ts'
import type { CompletionSink } from './engine.ts'

/** What the worker is started with. */
export interface BlockingWorkerData {
  /** Where it is given one engine after the other to work for. */
  readonly port: MessagePort
  /** One 32-bit word, another one after each message. */
  readonly sent: SharedArrayBuffer
}

/** An engine to work for, until its ring says `END`. */
export interface BlockingJob {
  readonly ring: SharedArrayBuffer
  /** The worker's own duplicate of the engine's eventfd: it never writes to a number that means something else by then. */
  readonly completionFd: number
}

/** A worker, as the thread that started it sees it. */
interface BlockingWorker {
  readonly port: MessagePort
  readonly sent: Int32Array
}

// Workers of this thread that no engine needs. They are kept for the next one: what a worker leaves behind is given back
// by the event loop of the thread that started it, and that of a data-plane thread does not turn.
const idle: BlockingWorker[] = []

/**
 * A thread for the calls that block and have no asynchronous form, one at a time. It is had from the first of them on,
 * sleeps in between where it can be terminated (`Atomics.wait`, no system call), and does not keep the process alive.
 */
export class BlockingThread {
  readonly #depth: number
  readonly #completionFd: number
  #ring: BlockingRing | undefined
  #worker: BlockingWorker | undefined
  #reaped = 0

  /** @param completionFd the eventfd to write to when something is done. */
  constructor (depth: number, completionFd: number) {
    this.#depth = depth
    this.#completionFd = completionFd
  }

  /** Has a blocking call made: see `blockingCall`. */
  submit (id: number, fd: number, method: number, offset: number, length: number): void {
    const ring = this.#ring ??= this.#start()
    ring.fd[id] = fd
    ring.method[id] = method
    ring.offset[id] = offset
    ring.length[id] = length
    push(ring, id)
  }

  /** Hands out what is done, without waiting. */
  reap (sink: CompletionSink): void {
    // A callback may reap or close too: where we are is kept in the object, never in a local variable across a callback.
    for (let ring = this.#ring; ring !== undefined; ring = this.#ring) {
      if (this.#reaped === Atomics.load(ring.control, COMPLETED)) return
      const id = ring.completions[this.#reaped & ring.mask]!
      this.#reaped = (this.#reaped + 1) | 0
      sink(id, ring.result[id]!)
    }
  }

  /** Lets go of the thread. Nothing may be in flight. */
  close (): void {
    if (this.#ring === undefined) return
    push(this.#ring, END)
    idle.push(this.#worker!)
    this.#ring = this.#worker = undefined
  }

  #start (): BlockingRing {
    const ring = BlockingRing.allocate(this.#depth)
    const { port, sent } = this.#worker = idle.pop() ?? startWorker()
    port.postMessage({ ring, completionFd: duplicate(this.#completionFd) } satisfies BlockingJob)
    Atomics.add(sent, 0, 1)
    Atomics.notify(sent, 0)
    return new BlockingRing(ring)
  }
}

function startWorker (): BlockingWorker {
  const { port1, port2 } = new MessageChannel()
  const sent = new SharedArrayBuffer(4)
  const workerData: BlockingWorkerData = { port: port2, sent }
  new Worker(workerEntry(), { workerData, transferList: [port2], ...execArgvOption(), name: 'ioq-blocking' }).unref()
  return { port: port1, sent: new Int32Array(sent) }
}

function push (ring: BlockingRing, entry: number): void {
  const tail = ring.control[SUBMITTED]!
  ring.submissions[tail & ring.mask] = entry
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
