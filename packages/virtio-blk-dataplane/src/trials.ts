import { type Clock, monotonicClock } from './clock.ts'

/** Batches that are timed together, to compare one choice with another. */
const EPOCH = 32
/** Of epochs, one in as many tries another choice than the best. */
const TRIAL = 32
/** The weight of what was timed before, against the last epoch. */
const MEMORY = 8
/** Of choices that cost nearly the same the later one is taken: how much of another's cost its own may seem. */
const BIAS = 0.97

// Places in `#times`.
const BEGIN = 0
const END = 1

/**
 * Finds out by trying which of a few choices costs least time a request, and goes on trying, since that changes with the
 * load. The time is all that passes, a guest's answer being waited for included: what is to be compared is how well
 * device and guest work together. Epochs in which the thread sleeps are no measure: they take as long as the guest likes.
 */
export class Trials {
  /** The choice for now. */
  current = 0
  // Microseconds, in memory: as fields, arguments or results they would be objects.
  readonly #times = new Float64Array(2)
  /** By choice, what a request costs. 0: not tried yet. */
  readonly #costs: Float64Array
  readonly #clock: Clock
  #batches = 0
  #requests = 0
  /** This epoch is no measure: nor is the first one, which began at no time. */
  #spoilt = true
  #epochs = 0
  /** The last choice that was tried. */
  #tried = 0

  /** @param choices how many; the first one is taken until others were tried */
  constructor (choices: number, clock: Clock = monotonicClock()) {
    this.#costs = new Float64Array(choices)
    this.#clock = clock
  }

  /** A batch of so many requests, at least one, is done. @returns whether an epoch ended with it */
  count (requests: number): boolean {
    this.#requests += requests
    if (++this.#batches < EPOCH) return false
    this.#endEpoch()
    return true
  }

  /** What is going on now says nothing about choices. */
  spoil (): void {
    this.#spoilt = true
  }

  #endEpoch (): void {
    const times = this.#times
    this.#clock(times, END)
    this.current = this.#spoilt ? this.#best() : this.#learn()
    times[BEGIN] = times[END]!
    this.#spoilt = false
    this.#batches = this.#requests = 0
  }

  /** An epoch that takes many times as long as usual was interrupted by others: it counts as two of the usual. @returns the next choice */
  #learn (): number {
    const times = this.#times
    const costs = this.#costs
    const known = costs[this.current]!
    const cost = (times[END]! - times[BEGIN]!) / this.#requests
    costs[this.current] = known === 0 ? cost : known + (Math.min(cost, 2 * known) - known) / MEMORY
    this.#epochs = (this.#epochs + 1) % TRIAL
    if (this.#epochs !== 0) return this.#best()
    this.#tried = (this.#tried + 1) % costs.length
    return this.#tried
  }

  #best (): number {
    const costs = this.#costs
    let best = 0
    for (let choice = 1; choice < costs.length; choice++) {
      if (costs[choice]! > 0 && costs[choice]! * BIAS <= costs[best]!) best = choice
    }
    return best
  }
}
