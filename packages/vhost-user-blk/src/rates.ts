import { LatencyHistogram } from '@node-vmm/virtio-blk-dataplane'
import type { DiskCounters } from './control.ts'

/** What a disk has done in an interval. */
export interface DiskRates {
  readonly name: string
  /** Requests completed a second, of whatever kind. */
  readonly requestsPerSecond: number
  readonly bytesReadPerSecond: number
  readonly bytesWrittenPerSecond: number
  /** Requests at the interval's end. */
  readonly inFlight: number
  /** Kicks that woke the data plane, a request; 0 without requests. */
  readonly kicksPerRequest: number
  /** Interrupts sent to the guest, a request; 0 without requests. */
  readonly interruptsPerRequest: number
  /** Requests that failed, since the disk is served. */
  readonly errors: number
  /** How long requests took that were completed in the interval, as far as that was measured. */
  readonly latency: LatencyHistogram
}

type Counters = DiskCounters['queues'][number]

interface Sample {
  readonly counters: Counters
  readonly latency: LatencyHistogram
}

const NOTHING: Counters = { requests: 0, errors: 0, bytesRead: 0, bytesWritten: 0, kicks: 0, interrupts: 0, inFlight: 0 }
const NO_SAMPLE: Sample = { counters: NOTHING, latency: new LatencyHistogram() }

/** Turns counters that only grow into what was done between two looks at them. */
export class RateMeter {
  readonly #read: () => readonly DiskCounters[]
  readonly #now: () => number
  #before = new Map<string, Sample>()
  #at: number

  /**
   * @param read gives the counters
   * @param now milliseconds of a clock that nobody sets
   */
  constructor (read: () => readonly DiskCounters[], now: () => number = () => performance.now()) {
    this.#read = read
    this.#now = now
    this.#at = now()
    this.sample()
  }

  /** What was done since the last time: `seconds` says how long that is. */
  sample (): { readonly seconds: number, readonly disks: readonly DiskRates[] } {
    const now = this.#now()
    const seconds = (now - this.#at) / 1000
    this.#at = now
    const samples = new Map(this.#read().map(({ name, queues, latency }) => [name, { counters: queues.reduce(add, NOTHING), latency }]))
    const disks = [...samples].map(([name, after]) => rates(name, this.#before.get(name) ?? NO_SAMPLE, after, seconds))
    this.#before = samples
    return { seconds, disks }
  }
}

function add (a: Counters, b: Counters): Counters {
  return {
    requests: a.requests + b.requests,
    errors: a.errors + b.errors,
    bytesRead: a.bytesRead + b.bytesRead,
    bytesWritten: a.bytesWritten + b.bytesWritten,
    kicks: a.kicks + b.kicks,
    interrupts: a.interrupts + b.interrupts,
    inFlight: a.inFlight + b.inFlight
  }
}

function rates (name: string, { counters: before, latency: earlier }: Sample, { counters: after, latency }: Sample, seconds: number): DiskRates {
  const requests = after.requests - before.requests
  return {
    name,
    requestsPerSecond: ratio(requests, seconds),
    bytesReadPerSecond: ratio(after.bytesRead - before.bytesRead, seconds),
    bytesWrittenPerSecond: ratio(after.bytesWritten - before.bytesWritten, seconds),
    inFlight: after.inFlight,
    kicksPerRequest: ratio(after.kicks - before.kicks, requests),
    interruptsPerRequest: ratio(after.interrupts - before.interrupts, requests),
    errors: after.errors,
    latency: latency.minus(earlier)
  }
}

function ratio (amount: number, by: number): number {
  return by === 0 ? 0 : amount / by
}
