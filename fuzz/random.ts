/** Random choices that a number alone decides (mulberry32). */
export class Random {
  #state: number

  constructor (seed: number) {
    this.#state = seed | 0
  }

  /** 32 random bits. */
  word (): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let value = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return (value ^ (value >>> 14)) >>> 0
  }

  /** 0 to `bound - 1`. */
  below (bound: number): number {
    return this.word() % bound
  }

  /** `low` to `high`, both included. */
  between (low: number, high: number): number {
    return low + this.below(high - low + 1)
  }

  /** True once in so many. */
  oneIn (times: number): boolean {
    return times !== Infinity && this.below(times) === 0
  }

  pick<T> (list: readonly T[]): T {
    return list[this.below(list.length)]!
  }

  /** The list in another order. */
  shuffle<T> (list: readonly T[]): T[] {
    const shuffled = [...list]
    for (let last = shuffled.length - 1; last > 0; last--) {
      const other = this.below(last + 1)
      ;[shuffled[last], shuffled[other]] = [shuffled[other]!, shuffled[last]!]
    }
    return shuffled
  }

  bytes (length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.word())
  }
}
