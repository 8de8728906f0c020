// Buckets are linear within each doubling and logarithmic beyond: 8 a row. The first two rows hold units as they are,
// from there on each row is twice as coarse. What is longer than the last bucket begins belongs to it.
const UNITS_A_MICROSECOND = 8
const ROW_BITS = 3
const ROWS = 26
export const LATENCY_BUCKETS = ROWS << ROW_BITS
const UNITS_MAX = 2 ** (ROWS + ROW_BITS - 1) - 1

// In shared memory the buckets come first.
/** Where the microseconds of all requests together are. */
export const LATENCY_SUM = LATENCY_BUCKETS
/** 64-bit floats of one queue, in whole cache lines. */
export const LATENCY_WORDS = LATENCY_BUCKETS + 8

/** Of a request that began while nobody measured. */
const NOT_TIMED = -1

/**
 * Times the requests of one queue. The clock is looked at once a batch, not once a request: when it is taken off the ring,
 * and when its first request is complete.
 */
export class LatencyRecorder {
  readonly #latencies: Float64Array
  /** Of each request, by head. */
  readonly #began: Float64Array

  /**
   * @param latencies of the queue: `LATENCY_WORDS` words
   * @param size entries of the ring
   */
  constructor (latencies: Float64Array, size: number) {
    this.#latencies = latencies
    this.#began = new Float64Array(size).fill(NOT_TIMED)
  }

  /** What is in flight was not timed. */
  forget (): void {
    this.#began.fill(NOT_TIMED)
  }

  begin (head: number, now: Float64Array): void {
    this.#began[head] = now[0]!
  }

  end (head: number, now: Float64Array): void {
    const began = this.#began[head]!
    if (began === NOT_TIMED) return
    const microseconds = now[0]! - began
    const units = Math.min(microseconds * UNITS_A_MICROSECOND, UNITS_MAX) | 0
    const shift = Math.max(0, 31 - Math.clz32(units) - ROW_BITS)
    this.#latencies[(shift << ROW_BITS) + (units >>> shift)]!++
    this.#latencies[LATENCY_SUM]! += microseconds
  }
}

/**
 * How long requests took, from when they were taken off the ring to when their end was shown to the guest: what the guest
 * sees beside, its own queueing and its interrupt, is not in it. A snapshot.
 */
export class LatencyHistogram {
  /** Upper bounds of the buckets, in microseconds: eight a doubling from 1 µs on. The last, from 31 s on, is `Infinity`. */
  static readonly bounds: readonly number[] = Array.from({ length: LATENCY_BUCKETS }, (_, bucket) => upperBound(bucket))

  /** Requests, by bucket. */
  readonly counts: Float64Array
  /** Microseconds of all requests together. */
  readonly sum: number

  /** @param counts as many as there are bounds. @default none */
  constructor (counts: Float64Array = new Float64Array(LATENCY_BUCKETS), sum = 0) {
    this.counts = counts
    this.sum = sum
  }

  /** Requests in all buckets. */
  get count (): number {
    return this.counts.reduce((total, count) => total + count, 0)
  }

  /**
   * How long that share of the requests took at most, in microseconds.
   *
   * @param share 0.5 for the median, 1 for the longest
   * @returns the upper bound of a bucket: up to an eighth too much, `Infinity` beyond 31 s, 0 where nothing was measured
   */
  percentile (share: number): number {
    const rank = Math.ceil(this.count * share)
    let seen = 0
    const bucket = rank === 0 ? -1 : this.counts.findIndex((count) => (seen += count) >= rank)
    return LatencyHistogram.bounds[bucket] ?? 0
  }

  /** Of both together. */
  plus (other: LatencyHistogram): LatencyHistogram {
    return new LatencyHistogram(this.counts.map((count, bucket) => count + other.counts[bucket]!), this.sum + other.sum)
  }

  /** What came since an earlier one. */
  minus (earlier: LatencyHistogram): LatencyHistogram {
    return new LatencyHistogram(this.counts.map((count, bucket) => count - earlier.counts[bucket]!), this.sum - earlier.sum)
  }
}

function upperBound (bucket: number): number {
  if (bucket === LATENCY_BUCKETS - 1) return Infinity
  const shift = Math.max(0, (bucket >>> ROW_BITS) - 1)
  return (bucket - (shift << ROW_BITS) + 1) * 2 ** shift / UNITS_A_MICROSECOND
}
