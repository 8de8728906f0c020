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

/** A data plane that cannot be made, or a call that does not fit its state. */
export class DataPlaneError extends Error {
  static override readonly name: string = 'DataPlaneError'
  override readonly name: string = 'DataPlaneError'
  readonly code: DataPlaneErrorCode

  constructor (code: DataPlaneErrorCode, message: string) {
    super(message)
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
    const queues = inFlight.flatMap((requests, queue) => requests === 0 ? [] : [`${requests} on queue ${queue}`])
    super('ERR_TIMEOUT', `after ${milliseconds} ms requests are still in flight: ${queues.join(', ') || 'a batch being taken in'}`)
    this.inFlight = inFlight
  }
}
