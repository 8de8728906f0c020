/** What a queue has done since its data plane was created. All counters only grow. */
export interface QueueStatistics {
  /** Requests completed, whatever their status. */
  readonly requests: number
  /** Requests completed with another status than OK. */
  readonly errors: number
  readonly bytesRead: number
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
const COUNTERS = 8

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
}
