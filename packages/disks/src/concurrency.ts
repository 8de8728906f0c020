/** Never aborts: for requests that no queue made. */
export const NEVER: AbortSignal = new AbortController().signal

/**
 * Waits for all of them, also when one fails: guest memory is in use until the last has settled.
 *
 * @throws what the first in the list that failed has thrown
 */
export async function allDone (promises: readonly (void | Promise<void>)[]): Promise<void> {
  for (const result of await Promise.allSettled(promises)) {
    if (result.status === 'rejected') throw result.reason
  }
}

interface HeldRange {
  readonly first: number
  readonly last: number
  readonly released: Promise<void>
}

/** Mutual exclusion by range: of two that overlap, the later waits for the earlier. */
export class RangeLock {
  readonly #held = new Set<HeldRange>()

  /** Waits until nobody holds any of it. A holder is not to wait for a second range, or two may wait for each other. @returns what releases it */
  async lock (first: number, last: number): Promise<() => void> {
    for (let other; (other = this.#overlapping(first, last)) !== undefined;) await other.released
    let release!: () => void
    const range = { first, last, released: new Promise<void>((resolve) => { release = resolve }) }
    this.#held.add(range)
    return () => {
      this.#held.delete(range)
      release()
    }
  }

  #overlapping (first: number, last: number): HeldRange | undefined {
    for (const range of this.#held) {
      if (range.first <= last && range.last >= first) return range
    }
    return undefined
  }
}
