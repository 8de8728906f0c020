import { LATENCY_BUCKETS, LATENCY_SUM, LATENCY_WORDS, LatencyHistogram } from './latency.ts'

/** What a queue has done since its data plane was created. All counters only grow. */
export interface QueueStatistics {
  /** Requests completed, whatever their status. */
  readonly requests: number
  /** Requests completed with another status than OK. */
  readonly errors: number
  /** Bytes that the guest has read. */
  readonly bytesRead: number
  /** Bytes that the guest has written. */
  readonly bytesWritten: number
  /** Kicks that woke the data plane. */
  readonly kicks: number
  /** Interrupts sent to the guest. */
  readonly interrupts: number
}

// One 64-bit float each, in memory that the data-plane thread writes and others read: exact to 2^53.
export const REQUESTS = 0
export const ERRORS = 1
export const BYTES_READ = 2
export const BYTES_WRITTEN = 3
export const KICKS = 4
export const INTERRUPTS = 5
/** Not 0 while requests are to be timed. The only one that the data-plane thread reads. */
export const MEASURES = 6
/** Where the latencies begin. */
export const LATENCIES = 8
const COUNTERS = LATENCIES + LATENCY_WORDS

/** The counters of all queues, in shared memory. */
export class StatisticsTable {
  readonly state: SharedArrayBuffer

  constructor (queues: number | SharedArrayBuffer) {
    this.state = typeof queues === 'number' ? new SharedArrayBuffer(8 * COUNTERS * queues) : queues
  }

  /** The counters of one queue, to count in. */
  counters (queue: number): Float64Array {
    return new Float64Array(this.state, 8 * COUNTERS * queue, COUNTERS)
  }

  /** The counters of one queue as they are now. */
  read (queue: number): QueueStatistics {
    const counters = this.counters(queue)
    return {
      requests: counters[REQUESTS]!,
      errors: counters[ERRORS]!,
      bytesRead: counters[BYTES_READ]!,
      bytesWritten: counters[BYTES_WRITTEN]!,
      kicks: counters[KICKS]!,
      interrupts: counters[INTERRUPTS]!
    }
  }

  /** Has the requests of all queues timed from now on, or not. */
  measure (on: boolean): void {
    const counters = new Float64Array(this.state)
    for (let at = MEASURES; at < counters.length; at += COUNTERS) counters[at] = Number(on)
  }

  /** How long the requests of one queue took that were timed. */
  readLatency (queue: number): LatencyHistogram {
    const latencies = this.counters(queue).subarray(LATENCIES)
    return new LatencyHistogram(latencies.slice(0, LATENCY_BUCKETS), latencies[LATENCY_SUM]!)
  }
}
