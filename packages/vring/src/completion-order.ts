const NONE = -1

/** Holds completions back until those of all chains made available before are there: what IN_ORDER promises (virtio 1.2, 2.7.9, 2.8.8). */
export class CompletionOrder {
  // Heads in the order of their pops, as a circle: at most one entry for each chain in flight.
  readonly #popped: Uint16Array
  #first = 0
  #count = 0
  /** By head: bytes written, or NONE while in flight. */
  readonly #written: Float64Array

  constructor (size: number) {
    this.#popped = new Uint16Array(size)
    this.#written = new Float64Array(size).fill(NONE)
  }

  popped (head: number): void {
    this.#popped[this.#wrapped(this.#first + this.#count++)] = head
  }

  completed (head: number, written: number): void {
    this.#written[head] = written
  }

  /** The next chain whose turn it is, or -1 while the oldest one is in flight. */
  next (): number {
    if (this.#count === 0) return NONE
    const head = this.#popped[this.#first]!
    return this.#written[head] === NONE ? NONE : head
  }

  /** Forgets the next chain. @returns the bytes that were written to it */
  take (head: number): number {
    const written = this.#written[head]!
    this.#written[head] = NONE
    this.#first = this.#wrapped(this.#first + 1)
    this.#count--
    return written
  }

  /** Where a place less than two laps from the start is in the circle. No `%`: dividing by a variable is slow. */
  #wrapped (place: number): number {
    return place < this.#popped.length ? place : place - this.#popped.length
  }

  clear (): void {
    this.#count = 0
    this.#written.fill(NONE)
  }
}
