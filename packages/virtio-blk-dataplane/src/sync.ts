// The mutex and condition variable of the 2012 data plane, over a SharedArrayBuffer. One 32-bit word each.

/** A futex-style mutex: 0 free, 1 locked, 2 locked and somebody waits. Hold it for a few instructions only. */
export class Mutex {
  readonly #words: Int32Array
  readonly #at: number

  constructor (words: Int32Array, at: number) {
    this.#words = words
    this.#at = at
  }

  lock (): void {
    if (Atomics.compareExchange(this.#words, this.#at, 0, 1) === 0) return
    while (Atomics.exchange(this.#words, this.#at, 2) !== 0) Atomics.wait(this.#words, this.#at, 2)
  }

  unlock (): void {
    if (Atomics.exchange(this.#words, this.#at, 0) === 2) Atomics.notify(this.#words, this.#at, 1)
  }
}

/** Somebody waits, or has waited, since the last wake-up. */
const WAITED_FOR = 1
const WAKE_UP = 2

/**
 * A condition variable: a word that counts the wake-ups, and says in its lowest bit whether there is anybody to wake. As
 * with any, look at the condition again after each wait.
 */
export class Condition {
  readonly #words: Int32Array
  readonly #at: number

  constructor (words: Int32Array, at: number) {
    this.#words = words
    this.#at = at
  }

  /** Wakes all who wait. Call it with the mutex held. */
  broadcast (): void {
    const word = this.#words[this.#at]!
    if ((word & WAITED_FOR) === 0) return
    Atomics.store(this.#words, this.#at, word + WAKE_UP - WAITED_FOR)
    Atomics.notify(this.#words, this.#at)
  }

  /** Gives the mutex up, blocks until a broadcast or for `milliseconds`, and takes the mutex again. */
  wait (mutex: Mutex, milliseconds: number): void {
    const seen = this.#announce()
    mutex.unlock()
    Atomics.wait(this.#words, this.#at, seen, milliseconds)
    mutex.lock()
  }

  /**
   * Waits for a broadcast, or for `milliseconds`, or until the signal aborts, without blocking the thread. Call it with
   * the mutex held, and give the mutex up before awaiting: held meanwhile, it would block this thread, which alone
   * could give it up.
   */
  async waitAsync (milliseconds: number, signal?: AbortSignal): Promise<void> {
    const wait = Atomics.waitAsync(this.#words, this.#at, this.#announce(), milliseconds)
    if (wait.async) await keepAlive(signal === undefined ? wait.value : untilAborted(wait.value, signal))
  }

  /** @returns the word, as it is until the next wake-up */
  #announce (): number {
    const word = this.#words[this.#at]! | WAITED_FOR
    Atomics.store(this.#words, this.#at, word)
    return word
  }
}

/** Atomics.waitAsync alone does not keep the process alive. */
async function keepAlive (promise: Promise<unknown>): Promise<void> {
  const timer = setInterval(() => {}, 0x7fffffff)
  try {
    await promise
  } finally {
    clearInterval(timer)
  }
}

async function untilAborted (promise: Promise<unknown>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  let abort!: () => void
  const aborted = new Promise<void>((resolve) => { abort = resolve })
  signal.addEventListener('abort', abort)
  try {
    await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
