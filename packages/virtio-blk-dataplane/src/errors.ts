/** Why a data plane cannot be made or used so. Stable: programs may switch on it. */
export type DataPlaneErrorCode =
  /** The device passes SCSI commands through, which a data plane cannot. */
  | 'ERR_SCSI'
  /** The disk's format is not raw. */
  | 'ERR_FORMAT'
  /** The image cannot be a disk: not a file or block device, or not whole sectors. */
  | 'ERR_IMAGE'
  /** Another process uses the image. */
  | 'ERR_IMAGE_LOCKED'
  /** A disk of the user's own cannot be one, or cannot be opened, or failed. */
  | 'ERR_DISK'
  /** An option is out of its range. */
  | 'ERR_OPTION'
  /** There is no queue of this index. */
  | 'ERR_QUEUE'
  /** The call does not fit the state: a closed data plane, a queue that runs already. */
  | 'ERR_STATE'
  /** Requests were still in flight when the time was over. */
  | 'ERR_TIMEOUT'
  /** The data-plane thread ended by itself: a fault of this software. */
  | 'ERR_THREAD'
  /** Queues did not stop in time, and were given up with all that they had in flight. */
  | 'ERR_ABANDONED'

/** A data plane that cannot be made, or a call that does not fit its state. */
export class DataPlaneError extends Error {
  static override readonly name: string = 'DataPlaneError'
  override readonly name: string = 'DataPlaneError'
  /** Stable: programs may switch on it. */
  readonly code: DataPlaneErrorCode

  constructor (code: DataPlaneErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Requests were still in flight when the time for a drain was over. They go on: nothing is cancelled. */
export class DrainTimeoutError extends DataPlaneError {
  static override readonly name = 'DrainTimeoutError'
  override readonly name = 'DrainTimeoutError'
  /** Requests in flight, by queue. */
  readonly inFlight: readonly number[]

  constructor (milliseconds: number, inFlight: readonly number[]) {
    super('ERR_TIMEOUT', `after ${milliseconds} ms requests are still in flight: ${byQueue(inFlight) || 'a batch being taken in'}`)
    this.inFlight = inFlight
  }
}

/**
 * The kernel did not give requests back in time, so that the data plane was given up: all its queues are stopped. What
 * was in flight may still be done, at any time: its memory stays mapped, its engine and its thread stay, the image stays
 * open and locked, until the process ends. Nobody will be told of it.
 */
export class AbandonedError extends DataPlaneError {
  static override readonly name = 'AbandonedError'
  override readonly name = 'AbandonedError'
  /** The queues that did not stop. */
  readonly queues: readonly number[]
  /** Requests in flight that were given up, by queue. */
  readonly inFlight: readonly number[]

  constructor (why: string, queues: readonly number[], inFlight: readonly number[], options?: ErrorOptions) {
    const lost = byQueue(inFlight) || (queues.length > 0 ? `a batch being taken in on queue ${queues.join(', ')}` : 'nothing')
    super('ERR_ABANDONED', `${why}: given up with ${lost} in flight. It may still be done: check the storage, then start this process anew.`, options)
    this.queues = queues
    this.inFlight = inFlight
  }
}

function byQueue (inFlight: readonly number[]): string {
  return inFlight.flatMap((requests, queue) => requests === 0 ? [] : [`${requests} on queue ${queue}`]).join(', ')
}
