// A logarithmic histogram of latencies, allocated once: 64 buckets for each doubling, so 1.6 % of a value at most.
const SUB_BITS = 6
const SUB = 1 << SUB_BITS
const BUCKETS = (32 - SUB_BITS) * SUB

/** Latencies in nanoseconds, up to 2.1 s: what is longer counts as that. */
export class Histogram {
  readonly #counts = new Uint32Array(BUCKETS)
  #max = 0

  add (nanoseconds: number): void {
    const value = nanoseconds < 0x7fffffff ? nanoseconds | 0 : 0x7fffffff
    if (value > this.#max) this.#max = value
    const shift = Math.max(0, 31 - Math.clz32(value) - SUB_BITS)
    this.#counts[(shift << SUB_BITS) + (value >>> shift)]++
  }

  clear (): void {
    this.#counts.fill(0)
    this.#max = 0
  }

  /** Largest value that was added. */
  get max (): number {
    return this.#max
  }

  /** @param share 0.5 for the median @returns nanoseconds, the middle of a bucket; 0 when nothing was added */
  percentile (share: number): number {
    const total = this.#counts.reduce((sum, count) => sum + count, 0)
    const rank = Math.ceil(total * share)
    for (let bucket = 0, seen = 0; bucket < BUCKETS && rank > 0; bucket++) {
      seen += this.#counts[bucket]
      if (seen >= rank) return Math.min(middle(bucket), this.#max)
    }
    return 0
  }
}

function middle (bucket: number): number {
  // The first two rows of buckets hold the values themselves; from there on each row is twice as coarse.
  const shift = Math.max(0, (bucket >>> SUB_BITS) - 1)
  const low = (bucket - (shift << SUB_BITS)) * 2 ** shift
  return low + (2 ** shift - 1) / 2
}
