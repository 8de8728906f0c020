import { type Clock, monotonicClock } from './clock.ts'

/** Where polling begins, in microseconds. */
const START = 4
const GROWTH = 2

// Places in `#times`.
const DURATION = 0
const DEADLINE = 1
const ASLEEP = 2
const NOW = 3

/**
 * How long to look at the rings before sleeping, learnt as QEMU's AioContext learns it (`aio_poll`): as long as sleeps
 * are short, polling would have saved them, and is made longer; a sleep longer than polling may ever last ends it.
 */
export class AdaptivePolling {
  // Microseconds, in memory: as fields, arguments or results they would be objects.
  readonly #times = new Float64Array(4)
  readonly #max: number
  readonly #clock: Clock

  /** @param max microseconds to poll at most; 0 never polls */
  constructor (max: number, clock: Clock = monotonicClock()) {
    this.#max = max
    this.#clock = clock
  }

  get isWorthIt (): boolean {
    return this.#times[DURATION]! > 0
  }

  begin (): void {
    this.#look()
    this.#times[DEADLINE] = this.#times[NOW]! + this.#times[DURATION]!
  }

  goesOn (): boolean {
    this.#look()
    return this.#times[NOW]! < this.#times[DEADLINE]!
  }

  beforeSleep (): void {
    if (this.#max === 0) return
    this.#look()
    this.#times[ASLEEP] = this.#times[NOW]!
  }

  afterSleep (): void {
    if (this.#max === 0) return
    this.#look()
    const slept = this.#times[NOW]! - this.#times[ASLEEP]!
    const duration = this.#times[DURATION]!
    if (slept > this.#max) this.#times[DURATION] = 0
    else if (slept > duration) this.#times[DURATION] = Math.min(this.#max, Math.max(START, duration * GROWTH))
  }

  #look (): void {
    this.#clock(this.#times, NOW)
  }
}
