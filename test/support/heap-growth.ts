import { GCProfiler, getHeapSpaceStatistics } from 'node:v8'

const ROUNDS = 9
/** Milliseconds after which the compiler is not to blame any more. */
const PATIENCE = 30_000

/**
 * Bytes that one round of some work allocates, in the steady state: what the runtime allocates while it still compiles
 * the work is in a few rounds, what the work allocates is in all of them, so the middle one tells. The compiler is a thread
 * of its own, which a busy machine lets wait: where it is more than `enough`, the work goes on for a while.
 */
export function heapGrowth (work: () => void, enough: number): number {
  const young = new YoungGeneration()
  for (const end = Date.now() + PATIENCE; ;) {
    const middle = middleOf(Array.from({ length: ROUNDS }, () => {
      work()
      return young.growth()
    }))
    if (middle <= enough || Date.now() > end) return middle
  }
}

/** What this thread allocates, from one look to the next. */
export class YoungGeneration {
  #collections!: GCProfiler
  #before!: number

  constructor () {
    this.#begin()
  }

  /** Bytes since the last look; NaN where a collection hides them. */
  growth (): number {
    const grown = youngBytes() - this.#before
    const { statistics } = this.#collections.stop()
    this.#begin()
    return statistics.length === 0 ? grown : NaN
  }

  // What looking allocates does not count.
  #begin (): void {
    this.#collections = new GCProfiler()
    this.#collections.start()
    this.#before = youngBytes()
  }
}

/** The middle one of what was measured; NaN where more than half of it could not be. */
export function middleOf (samples: readonly number[]): number {
  const measured = samples.filter((sample) => !Number.isNaN(sample)).sort((one, other) => one - other)
  return measured.length < samples.length / 2 ? NaN : measured[measured.length >> 1]!
}

function youngBytes (): number {
  return getHeapSpaceStatistics().find((space) => space.space_name === 'new_space')!.space_used_size
}
