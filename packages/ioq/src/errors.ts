/** What went wrong with an {@link IoQueue}, all of it misuse: what the kernel says about a request is its result. */
export type IoQueueErrorCode =
  /** The queue was used after `close()`. */
  | 'ERR_IO_QUEUE_CLOSED'
  /** The request id is in flight. */
  | 'ERR_IO_QUEUE_BUSY'
  /** The kernel has none of the engines that were asked for. */
  | 'ERR_IO_QUEUE_NO_ENGINE'

/** An {@link IoQueue} was misused, or cannot be had here. */
export class IoQueueError extends Error {
  static override readonly name = 'IoQueueError'
  override readonly name = 'IoQueueError'
  /** Stable: programs may switch on it. */
  readonly code: IoQueueErrorCode

  constructor (code: IoQueueErrorCode, text: string, options?: ErrorOptions) {
    super(text, options)
    this.code = code
  }
}
