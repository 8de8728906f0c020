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

/** A condition variable: a word that counts the wake-ups. As with any, look at the condition again after each wait. */
export class Condition {
  readonly #words: Int32Array
  readonly #at: number

  constructor (words: Int32Array, at: number) {
    this.#words = words
    this.#at = at
  }

  /** Wakes all who wait. Call it with the mutex held. */
  broadcast (): void {
    Atomics.add(this.#words, this.#at, 1)
    Atomics.notify(this.#words, this.#at)
  }

  /** Gives the mutex up, blocks until a broadcast or for `milliseconds`, and takes the mutex again. */
  wait (mutex: Mutex, milliseconds: number): void {
    const seen = Atomics.load(this.#words, this.#at)
    mutex.unlock()
    Atomics.wait(this.#words, this.#at, seen, milliseconds)
    mutex.lock()
  }

  /** The same without blocking the thread: the mutex is free while the promise is pending. */
  async waitAsync (mutex: Mutex, milliseconds: number, signal?: AbortSignal): Promise<void> {
    const seen = Atomics.load(this.#words, this.#at)
    mutex.unlock()
    try {
      const wait = Atomics.waitAsync(this.#words, this.#at, seen, milliseconds)
      if (wait.async) await keepAlive(signal === undefined ? wait.value : Promise.race([wait.value, aborted(signal)]))
    } finally {
      mutex.lock()
    }
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

function aborted (signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
