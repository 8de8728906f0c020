import { type Clock, monotonicClock, threadClock } from './clock.ts'
import { Trials } from './trials.ts'

/** Where polling begins, in microseconds. */
const START = 4
const GROWTH = 2
/** Polls in a row that find nothing until it pauses, and sleeps that the pause lasts. */
const PATIENCE = 16
const PAUSE = 128

// The choices that are tried while disks have requests in flight, the least work first: to sleep at once is 0.
const NAPS = 1
const POLLS = 2
const CHOICES = 3
/** How many times as dear the one with less work may be and still be taken. */
const MARGIN = 1.05
/**
 * What is best depends on how many requests are in flight, and is learnt by magnitude of that: 1 to 3, 4 to 15, 16 to 63, and more.
 *
 * `work` is what the thread's own costs, where what passes by waiting costs 1: who has few requests in flight waits for each of
 * them. `epoch` is how many bursts of completions are timed together: of a disk, each takes long, and the longer the more are in flight.
 */
const MAGNITUDES = [{ work: 1 / 6, epoch: 8 }, { work: 1, epoch: 8 }, { work: 1, epoch: 4 }, { work: 1, epoch: 4 }]
/** A guest that keeps disks busy answers in less, in microseconds, though its processor was asleep: a longer sleep is as long as guests like. */
const LONG = 300

// Places in `#times`.
const DURATION = 0
const DEADLINE = 1
const ASLEEP = 2
const NOW = 3

/**
 * How long to look at the rings before sleeping, learnt as QEMU's AioContext learns it (`aio_poll`): as long as sleeps
 * are short, polling would have saved them, and is made longer; a sleep longer than polling may ever last ends it.
 * Unlike there, it pauses where it keeps finding nothing: where short and long sleeps take turns, as on a disk that
 * completes large transfers in bursts, it would always begin anew and never get long enough. And it tries whether polling
 * has disks' requests done so much sooner that it is worth the work: where not, there is none while they have some. A disk's
 * interrupt may reach a processor that is asleep sooner than one that is busy.
 *
 * What is tried too is to sleep in naps. A processor that has nothing to do for long sleeps deeply, in a virtual machine as
 * on metal: it is woken late, and waking it takes long for whoever does.
 */
export class AdaptivePolling {
  // Microseconds, in memory: as fields, arguments or results they would be objects.
  readonly #times = new Float64Array(4)
  readonly #max: number
  readonly #clock: Clock
  /** By magnitude. */
  readonly #trials: readonly Trials[]
  /** Those of the load as it is now. */
  #besideDisks: Trials
  /** The most that was in flight in this epoch of theirs, and in the one before. */
  #most = 0
  #mostBefore = 0
  /** Polls in a row that found nothing. */
  #failures = 0
  /** Sleeps that are left of a pause. */
  #pause = 0

  /**
   * @param max microseconds to poll at most; 0 never polls, nor naps
   * @param worked goes on while the thread works. @default its time on processors
   */
  constructor (max: number, clock: Clock = monotonicClock(), worked: Clock = threadClock()) {
    this.#max = max
    this.#clock = clock
    const own = new Float64Array(1)
    this.#trials = MAGNITUDES.map(({ work, epoch }) => new Trials(CHOICES, (times, at) => {
      clock(times, at)
      worked(own, 0)
      times[at]! += work * own[0]!
    }, MARGIN, epoch))
    this.#besideDisks = this.#trials[0]!
  }

  /** @param inFlight how many requests disks have: what is learnt is for as many, too */
  isWorthIt (inFlight: number): boolean {
    if (inFlight > this.#most) this.#most = inFlight
    return this.#times[DURATION]! > 0 && this.#pause === 0 && (inFlight === 0 || this.#besideDisks.current === POLLS)
  }

  /** Whether a sleep while requests are in flight is to be one of short ones, without which the processor would be slow to wake up. */
  get naps (): boolean {
    return this.#besideDisks.current === NAPS
  }

  /** Disks have completed so many requests, at least one, that were in flight. */
  complete (requests: number): void {
    if (this.#max > 0 && this.#besideDisks.count(requests)) this.#endEpoch()
  }

  /** What was learnt for fewer requests in flight, or for more, waits until there are as many again. */
  #endEpoch (): void {
    const trials = this.#trials[magnitude(Math.max(this.#most, this.#mostBefore))]!
    if (trials !== this.#besideDisks) trials.spoil()
    this.#besideDisks = trials
    this.#mostBefore = this.#most
    this.#most = 0
  }

  begin (): void {
    this.#look()
    this.#times[DEADLINE] = this.#times[NOW]! + this.#times[DURATION]!
  }

  goesOn (): boolean {
    this.#look()
    return this.#times[NOW]! < this.#times[DEADLINE]!
  }

  /** @param found whether there was something to do */
  end (found: boolean): void {
    this.#failures = found ? 0 : this.#failures + 1
    if (this.#failures < PATIENCE) return
    this.#failures = 0
    this.#pause = PAUSE
  }

  beforeSleep (): void {
    if (this.#max === 0) return
    this.#look()
    this.#times[ASLEEP] = this.#times[NOW]!
  }

  /** @param waitedForDisks whether requests were in flight: if not, a long sleep is as long as guests like */
  afterSleep (waitedForDisks: boolean): void {
    if (this.#max === 0) return
    if (this.#pause > 0) this.#pause--
    this.#look()
    const slept = this.#times[NOW]! - this.#times[ASLEEP]!
    const duration = this.#times[DURATION]!
    if (slept > LONG && !waitedForDisks) this.#besideDisks.leaveOut(this.#times, ASLEEP, NOW)
    if (slept > this.#max) {
      this.#times[DURATION] = 0
    } else if (slept > duration) {
      this.#times[DURATION] = Math.min(this.#max, Math.max(START, duration * GROWTH))
    }
  }

  #look (): void {
    this.#clock(this.#times, NOW)
  }
}

function magnitude (inFlight: number): number {
  return Math.min(MAGNITUDES.length - 1, (31 - Math.clz32(inFlight | 1)) >> 1)
}
