import { EventNotifier } from '@node-vmm/event-poll'
import { Worker } from 'node:worker_threads'
import { checkInteger } from './check.ts'
import type { Runner } from './data-plane-thread.ts'
import type { ThreadInit } from './messages.ts'
import { workerEntry } from './worker-entry.ts'

/** Microseconds that a data-plane thread polls at most, unless told otherwise. */
export const POLL_DEFAULT = 100
/** The highest that this may be set to. */
export const POLL_MAX = 1000

/** How a data-plane thread runs. */
export interface IoThreadOptions {
  /** Processors to pin it to. @default those of the thread that starts it */
  readonly cpus?: readonly number[] | undefined
  /** How long it may look at its rings before it sleeps, 0 to 1000: see `DataPlaneOptions`. @default 100 */
  readonly pollMaxMicroseconds?: number | undefined
}

/** What the thread is started with; its devices come as messages. */
export interface IoThreadData {
  /** An eventfd: a device has come. */
  readonly wakeFd: number
  /** One 32-bit word: see `ThreadLoop`. */
  readonly members: SharedArrayBuffer
  readonly cpus: readonly number[] | undefined
  readonly pollMaxMicroseconds: number
}

/** Has a device served by a thread: for `DataPlane`. @returns what runs it, and others beside it perhaps */
export let launchOn: (thread: IoThread, init: ThreadInit) => Runner

/**
 * A data-plane thread that disks share, as QEMU's devices share an `iothread`: with more disks than processors, fewer
 * threads wake, poll and have a JavaScript heap each. Disks that share one wait for each other where one blocks it, and if
 * it dies, which is a fault of this software, all of them are dead.
 *
 * It runs while one of them is served, and holds nothing otherwise.
 */
export class IoThread {
  static {
    launchOn = (thread, init) => thread.#launch(init)
  }

  readonly #options: IoThreadOptions
  #worker: IoWorker | undefined

  /** @throws DataPlaneError ERR_OPTION */
  constructor (options: IoThreadOptions = {}) {
    checkInteger('pollMaxMicroseconds', options.pollMaxMicroseconds ?? POLL_DEFAULT, 0, POLL_MAX)
    this.#options = options
  }

  #launch (init: ThreadInit): Runner {
    if (this.#worker?.join() !== true) this.#worker = new IoWorker(this.#options)
    this.#worker.serve(init)
    return this.#worker
  }
}

/** One life of an `IoThread`. */
class IoWorker extends Worker implements Runner {
  readonly #wake: EventNotifier
  readonly #members: Int32Array
  /** It is over, or not waited for any more. */
  #hasFailed = false

  /** Begins, for one member. */
  constructor ({ cpus, pollMaxMicroseconds = POLL_DEFAULT }: IoThreadOptions) {
    const members = new SharedArrayBuffer(4)
    const wake = EventNotifier.create()
    const workerData: IoThreadData = { wakeFd: wake.fd, members, cpus, pollMaxMicroseconds }
    super(workerEntry('worker'), { workerData, name: 'virtio-blk-data-plane' })
    this.#wake = wake
    this.#members = new Int32Array(members)
    this.#members[0] = 1
    // Each device listens.
    this.setMaxListeners(0)
    this.once('error', () => { this.#hasFailed = true })
    this.once('exit', () => {
      this.#hasFailed = true
      wake.close()
    })
  }

  /** Adds a member, unless the thread ends or is abandoned. */
  join (): boolean {
    if (this.#hasFailed) return false
    for (let count = Atomics.load(this.#members, 0); count > 0;) {
      const seen = Atomics.compareExchange(this.#members, 0, count, count + 1)
      if (seen === count) return true
      count = seen
    }
    return false
  }

  /** Sends a member in. */
  serve (init: ThreadInit): void {
    this.postMessage(init, [init.port])
    this.#wake.notify()
  }

  abandon (): void {
    this.#hasFailed = true
    this.unref()
  }
}
