import { type Clock, monotonicClock } from './clock.ts'

/** Batches that are timed together, to compare one choice with another. */
const EPOCH = 32
/** Epochs of each choice, taking turns, before one is preferred: the first ones are slow by whichever, while guest and device warm up. */
const ROUNDS = 24
/** Of the epochs after that, one in as many tries another choice than the best. */
const TRIAL = 32
/** The weight of what was timed before, against the last epoch; of choices that are seldom timed. */
const MEMORY = 16
const MEMORY_TRIED = 4
/** What an interrupt costs the guest, in microseconds: it is woken, enters its handler, and sleeps again. */
const INTERRUPT = 9

// Places in `#times`.
const BEGIN = 0
const END = 1

/**
 * Finds out by trying which of a few choices costs least a request, and goes on trying, since that changes with the load.
 * The cost is all the time that passes, a guest's answer being waited for included, and what interrupts cost the guest: what is
 * to be compared is how well device and guest work together. Epochs in which the guest has nothing to do are no measure, unless that time
 * is left out.
 */
export class Trials {
  /** The choice for now. */
  current = 0
  // Microseconds, in memory: as fields, arguments or results they would be objects.
  readonly #times = new Float64Array(2)
  /** By choice, what a request costs, and from how many epochs that is known. */
  readonly #costs: Float64Array
  readonly #known: Uint8Array
  readonly #clock: Clock
  readonly #margin: number
  readonly #epoch: number
  #batches = 0
  #requests = 0
  #interrupts = 0
  /** This epoch is no measure: nor is the first one, which began at no time. */
  #spoilt = true
  /** Epochs that choices take turns in, from the next one on. */
  #turns: number
  /** Epochs since a choice was last tried that is not the best. */
  #epochs = 0
  /** The choice for now is not taken for being the best. */
  #tries = false
  /** The last choice that was tried. */
  #tried = 0

  /**
   * @param choices how many; the first one is taken until something is known
   * @param clock goes on as choices cost. @default as time does
   * @param margin how many times as dear as a later one a choice may be and still be taken. @default 1
   * @param epoch batches that are timed together. @default 32
   */
  constructor (choices: number, clock: Clock = monotonicClock(), margin = 1, epoch = EPOCH) {
    this.#costs = new Float64Array(choices)
    this.#known = new Uint8Array(choices)
    this.#clock = clock
    this.#margin = margin
    this.#epoch = epoch
    this.#turns = ROUNDS * choices - 1
  }

  /** A batch of so many requests, at least one, is done. @returns whether an epoch ended with it */
  count (requests: number): boolean {
    this.#requests += requests
    if (++this.#batches < this.#epoch) return false
    this.#endEpoch()
    return true
  }

  /** The guest was interrupted. */
  interrupt (): void {
    this.#interrupts++
  }

  /** The time from one look at the clock to another, in microseconds at these places, is not to count: the guest had nothing to do. */
  leaveOut (times: Float64Array, from: number, to: number): void {
    this.#times[BEGIN]! += times[to]! - times[from]!
  }

  /** What is going on now says nothing about choices. */
  spoil (): void {
    this.#spoilt = true
  }

  /** The load is another one: what was known means nothing any more. */
  forget (): void {
    this.#known.fill(0)
    this.#costs.fill(0)
    this.#turns = ROUNDS * this.#costs.length - 1
    this.spoil()
  }

  #endEpoch (): void {
    const times = this.#times
    this.#clock(times, END)
    if (!this.#spoilt) this.#learn()
    this.current = this.#spoilt ? this.#prefer() : this.#next()
    times[BEGIN] = times[END]!
    this.#spoilt = false
    this.#batches = this.#requests = this.#interrupts = 0
  }

  /** An epoch that takes many times as long as usual was interrupted by others: it counts as two of the usual. */
  #learn (): void {
    const times = this.#times
    const costs = this.#costs
    const choice = this.current
    const known = costs[choice]!
    const cost = (times[END]! - times[BEGIN]! + INTERRUPT * this.#interrupts) / this.#requests
    // As many as count: not a number that grows for ever.
    const epochs = this.#known[choice] = Math.min(this.#known[choice]! + 1, MEMORY)
    const weight = Math.min(epochs, this.#tries ? MEMORY_TRIED : MEMORY)
    costs[choice] = known === 0 ? cost : known + (Math.min(cost, 2 * known) - known) / weight
    if (!this.#tries && known > 0) this.#scaleOthers(choice, costs[choice]! / known)
  }

  /** What makes the best choice dearer, such as a guest's requests becoming larger, makes the others so too, which are seldom tried. */
  #scaleOthers (best: number, factor: number): void {
    const costs = this.#costs
    for (let choice = 0; choice < costs.length; choice++) if (choice !== best) costs[choice]! *= factor
  }

  #next (): number {
    if (this.#turns > 0) {
      this.#turns--
      return this.#try()
    }
    this.#epochs = (this.#epochs + 1) % TRIAL
    if (this.#epochs > 0) return this.#prefer()
    return this.#try(this.#best())
  }

  #prefer (): number {
    this.#tries = false
    return this.#best()
  }

  /** @param but not this one */
  #try (but = -1): number {
    const choices = this.#costs.length
    this.#tries = true
    this.#tried = (this.#tried + 1) % choices
    if (this.#tried === but) this.#tried = (this.#tried + 1) % choices
    return this.#tried
  }

  /** Among those that are known. */
  #best (): number {
    const costs = this.#costs
    let best = 0
    for (let choice = 1; choice < costs.length; choice++) {
      if (costs[choice]! > 0 && costs[choice]! * this.#margin < costs[best]!) best = choice
    }
    return best
  }
}
