import type { Virtqueue } from '@node-vmm/vring'
import { type Clock, monotonicClock } from './clock.ts'
import { Trials } from './trials.ts'

/** The first batch of requests that take their time, and how many times as large each one is that follows at once. */
const FIRST = 4
const GROWTH = 3
/** Of requests that are complete at once, the bounds of a batch, and what a queue's depth may be divided by to make one. */
const MIN = 2
const MAX = 64
const DIVISORS = Float64Array.of(4, 3, 1.75, 1.3, 1)
/**
 * A queue is as deep as it was while its depth divided by this is available at some time of two epochs of the trials: the rest is
 * with the guest, where batches of 19 and 13 take turns.
 */
const SHALLOWER = 1.75
/** What was found for one depth counts for another one that differs by less. */
const SIMILAR = 0.7
/** More than these make no larger batch. */
const ENOUGH = MAX * DIVISORS[0]!
/** Or, where that is more, all but what takes as long as a slow guest needs to wake up, in microseconds. */
const WAKE_UP = 60
/** What a request is taken to cost before one was timed, in microseconds. */
const COST = 1
/** Of batches that are complete at once, one in as many is timed. */
const TIMED = 16
/** The weight of the batches timed before, against the last one. */
const MEMORY = 8
/** A guest that keeps its queue busy answers in less, in microseconds: a longer sleep is as long as the guest likes. */
const LONG = 150

// Places in `#times`.
const BEGIN = 0
const END = 1
const MEAN = 2
const ASLEEP = 3
const AWAKE = 4

/**
 * How many requests of a queue to take in at once.
 *
 * A disk that takes its time begins with the first of them while the others are being submitted. Where requests are
 * complete as soon as they are submitted, guest and device would take turns, each asleep while the other works: so the
 * guest is woken by the first part of what is there, and by the time that it is awake the device has done the others.
 * How large a part is best depends on how long a guest needs to wake up, and that on the machine: several from a quarter to
 * all of the queue's depth are tried. Where many are there, or where they take long, a batch is all but as many as
 * are done in that time, for fewer interrupts are less work.
 */
export class BatchSize {
  /**
   * The batch that began last is to be one with the next, if more is available when it is done: the guest is told of both at once.
   * What device and guest have in two parts would never come together otherwise, however large a batch may be.
   */
  isJoined = false
  // Microseconds, in memory: as fields, arguments or results they would be objects.
  readonly #times = Float64Array.of(0, 0, COST, 0, 0)
  readonly #clock: Clock
  readonly #trials: Trials
  /** The last requests were complete as soon as they were submitted. */
  #isInline = false
  #isTimed = false
  #isAsleep = false
  #turn = 0
  /**
   * The next batch is a small one, or joined. Where batches of 19 and 13 take turns, one with the device and one with the guest, there
   * are never more than 19: no larger batch would ever be tried.
   */
  #isOutOfStep = false
  /** The most that was available at once for long now; and what it was when the trials began. */
  #depth = 0
  #depthOfTrials = 0
  /** The most that was available at once in this epoch of the trials, and in the one before. */
  #most = 0
  #mostBefore = 0

  constructor (clock: Clock = monotonicClock()) {
    this.#clock = clock
    this.#trials = new Trials(DIVISORS.length, clock)
  }

  /**
   * A batch begins.
   *
   * @param batches how many preceded it without a look at anything else
   * @returns how many requests it may have
   */
  begin (batches: number, vring: Pick<Virtqueue, 'countAvailable'>): number {
    if (this.#isAsleep) this.#wakeUp()
    this.isJoined = false
    if (!this.#isInline) return Math.min(MAX, FIRST * GROWTH ** batches)
    this.#turn = (this.#turn + 1) % TIMED
    this.#isTimed = this.#turn === 0
    if (this.#isTimed) this.#clock(this.#times, BEGIN)
    const available = vring.countAvailable(ENOUGH)
    this.#most = Math.max(this.#most, available)
    this.#depth = Math.max(this.#depth, available)
    // Of what is there at most, not of what there is just now: the fewer were left, the smaller batches would become.
    const divisor = DIVISORS[this.#trials.current]!
    this.isJoined = this.#isOutOfStep && divisor === 1 && this.#depth <= MAX
    const part = Math.ceil(this.#depth / (this.#isOutOfStep && !this.isJoined ? DIVISORS[0]! : divisor))
    this.#isOutOfStep = false
    const others = Math.trunc(WAKE_UP / this.#times[MEAN]!)
    return Math.min(MAX, Math.max(MIN, part, available - others))
  }

  /** The batch was submitted, and what was complete of it at once was completed. */
  end (submitted: number, completed: number): void {
    if (submitted === 0) return
    this.#isInline = completed >= submitted
    if (this.#isInline) this.#learn(completed)
    else this.#trials.spoil()
    this.#isTimed = false
  }

  /** The guest was interrupted. */
  interrupt (): void {
    if (this.#isInline) this.#trials.interrupt()
  }

  /** The queue has nothing to do: its thread is about to sleep. */
  sleep (): void {
    // Of so few there is nothing to choose.
    if (!this.#isInline || this.#depth <= MIN) return
    this.#isAsleep = true
    this.#clock(this.#times, ASLEEP)
  }

  #wakeUp (): void {
    const times = this.#times
    this.#isAsleep = false
    this.#clock(times, AWAKE)
    if (times[AWAKE]! - times[ASLEEP]! > LONG) this.#trials.spoil()
  }

  #learn (completed: number): void {
    if (this.#isTimed) this.#learnCost(completed)
    if (this.#trials.count(completed)) this.#endEpoch()
  }

  /** What was found for one depth is not known for another. */
  #endEpoch (): void {
    this.#isOutOfStep = true
    const most = Math.max(this.#most, this.#mostBefore)
    if (most < Math.trunc(this.#depth / SHALLOWER)) this.#depth = most
    if (this.#depth < this.#depthOfTrials * SIMILAR || this.#depthOfTrials < this.#depth * SIMILAR) {
      this.#depthOfTrials = this.#depth
      this.#trials.forget()
    }
    this.#mostBefore = this.#most
    this.#most = 0
  }

  /** One that takes many times as long as usual was interrupted by others: it counts as two of the usual. */
  #learnCost (completed: number): void {
    const times = this.#times
    this.#clock(times, END)
    const cost = Math.min((times[END]! - times[BEGIN]!) / completed, 2 * times[MEAN]!)
    times[MEAN] = times[MEAN]! + (cost - times[MEAN]!) / MEMORY
  }
}
