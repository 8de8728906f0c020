import { DataPlaneError, DrainTimeoutError } from './errors.ts'
import { Condition, Mutex } from './sync.ts'

// 32-bit words of the shared state; the requests in flight of queue n are at IN_FLIGHT + n.
const MUTEX = 0
const DRAINED = 1
const HOLDS = 2
const TOTAL = 3
const ABANDONED = 4
const IN_FLIGHT = 5

// What the word ABANDONED says.
const DIED = 1
const GIVEN_UP = 2

/** How long to wait, and how to give up. */
export interface WaitOptions {
  /** Milliseconds. @default Infinity */
  readonly timeout?: number
  /** Rejects with the signal's reason when it aborts. @default none */
  readonly signal?: AbortSignal
}

/** Who can wait for the requests in flight: a data plane, and what `attachDrain` gives to another thread. */
export interface Drainable {
  /**
   * Waits until every request that was taken in so far is complete. New ones wait in their rings meanwhile, so that
   * this ends even if the guest never stops sending.
   *
   * @throws DrainTimeoutError when the time is over: the requests go on; the signal's reason; DataPlaneError ERR_THREAD
   * when the data-plane thread died, ERR_ABANDONED when the data plane was given up
   */
  drain (options?: WaitOptions): Promise<void>
  /** The same, blocking the calling thread. @throws DrainTimeoutError, or DataPlaneError ERR_THREAD, ERR_ABANDONED */
  drainSync (options?: Pick<WaitOptions, 'timeout'>): void
}

/**
 * The requests in flight, counted in memory that all threads share, and the hold that keeps new ones out.
 *
 * The data-plane thread asks to `enter` before it pops a batch, and says with `leave` how many requests of it are now
 * in flight: whoever drains sees the batch as a whole, never half taken in. While somebody holds, no batch enters: so a
 * drain ends even if the guest never stops sending.
 */
export class Gate implements Drainable {
  /** What another thread needs for a gate of its own on the same state. */
  readonly state: SharedArrayBuffer
  readonly #words: Int32Array
  readonly #mutex: Mutex
  readonly #drained: Condition
  readonly #onOpen: () => void

  private constructor (state: SharedArrayBuffer, onOpen: () => void) {
    this.state = state
    this.#onOpen = onOpen
    this.#words = new Int32Array(state)
    this.#mutex = new Mutex(this.#words, MUTEX)
    this.#drained = new Condition(this.#words, DRAINED)
  }

  /** @param onOpen wakes the data-plane thread, when the last hold was let go */
  static create (queues: number, onOpen: () => void): Gate {
    return new Gate(new SharedArrayBuffer(4 * (IN_FLIGHT + queues)), onOpen)
  }

  /** The gate of another thread, from its `state`. */
  static attach (state: SharedArrayBuffer, onOpen: () => void = () => {}): Gate {
    return new Gate(state, onOpen)
  }

  /** Requests in flight, by queue. */
  get inFlight (): number[] {
    return Array.from(this.#words.subarray(IN_FLIGHT))
  }

  /** Begins a batch. @returns false while somebody holds, and once it was given up: nothing may be popped then */
  enter (): boolean {
    this.#mutex.lock()
    const open = this.#words[HOLDS] === 0 && !this.isGivenUp
    if (open) this.#words[TOTAL]!++
    this.#mutex.unlock()
    return open
  }

  /** Ends a batch of which `requests` are in flight now. */
  leave (queue: number, requests: number): void {
    this.#mutex.lock()
    this.#words[IN_FLIGHT + queue]! += requests
    this.#add(requests - 1)
    this.#mutex.unlock()
  }

  /** Requests were completed. */
  complete (queue: number, requests: number): void {
    this.#mutex.lock()
    this.#words[IN_FLIGHT + queue]! -= requests
    this.#add(-requests)
    this.#mutex.unlock()
  }

  #add (requests: number): void {
    const total = this.#words[TOTAL]! + requests
    this.#words[TOTAL] = total
    if (total === 0) this.#drained.broadcast()
  }

  /** Keeps new batches out until as many `letGo`s. */
  hold (): void {
    this.#mutex.lock()
    this.#words[HOLDS]!++
    this.#mutex.unlock()
  }

  /** Takes a hold back. After the last one the data-plane thread is woken, to look at its rings. */
  letGo (): void {
    this.#mutex.lock()
    const open = --this.#words[HOLDS]! === 0
    this.#mutex.unlock()
    if (open) this.#onOpen()
  }

  /** The data-plane thread dies: nothing that is in flight will be completed, and nobody shall wait for it. */
  abandon (): void {
    this.#end(DIED)
  }

  /**
   * What is in flight was given up: nobody shall wait for it, and whatever becomes of it, the guest is not to be told,
   * for its ring may be another's by then. For good: a new start has a new gate.
   */
  giveUp (): void {
    this.#end(GIVEN_UP)
  }

  /** Whether it was given up: no queue may touch its ring any more. */
  get isGivenUp (): boolean {
    return this.#words[ABANDONED] === GIVEN_UP
  }

  #end (how: number): void {
    this.#mutex.lock()
    this.#words[ABANDONED] = how
    this.#drained.broadcast()
    this.#mutex.unlock()
  }

  async drain (options: WaitOptions = {}): Promise<void> {
    this.hold()
    try {
      await this.settle(options)
    } finally {
      this.letGo()
    }
  }

  drainSync ({ timeout = Infinity }: Pick<WaitOptions, 'timeout'> = {}): void {
    const end = Date.now() + timeout
    this.hold()
    this.#mutex.lock()
    try {
      while (!this.#isSettled()) this.#drained.wait(this.#mutex, this.#timeLeft(end, timeout))
    } finally {
      this.#mutex.unlock()
      this.letGo()
    }
  }

  /** Waits until nothing is in flight; with a hold, that stays so. @throws as `drain` */
  async settle ({ timeout = Infinity, signal }: WaitOptions = {}): Promise<void> {
    const end = Date.now() + timeout
    for (;;) {
      let woken: Promise<void>
      this.#mutex.lock()
      try {
        if (this.#isSettled()) return
        signal?.throwIfAborted()
        woken = this.#drained.waitAsync(this.#timeLeft(end, timeout), signal)
      } finally {
        this.#mutex.unlock()
      }
      await woken
    }
  }

  #isSettled (): boolean {
    if (this.isGivenUp) throw new DataPlaneError('ERR_ABANDONED', 'the data plane was given up with requests in flight, and stopped')
    if (this.#words[ABANDONED] === DIED) throw new DataPlaneError('ERR_THREAD', 'the data-plane thread died: what was in flight will not be completed')
    return this.#words[TOTAL] === 0
  }

  #timeLeft (end: number, timeout: number): number {
    const left = end - Date.now()
    if (left <= 0) throw new DrainTimeoutError(timeout, this.inFlight)
    return left
  }
}
