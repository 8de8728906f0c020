/** What can go wrong between a driver and its disk. Stable: programs may switch on it. */
export type BlockDriverErrorCode =
  /** The disk failed the request, see `status`: an I/O error. The data of a write may be written in part. */
  | 'ERR_BLOCK_IO'
  /** The disk does not know this kind of request, see `status`, or did not offer the feature. */
  | 'ERR_BLOCK_UNSUPPORTED'
  /** An offset or length is no multiple of 512, or reaches past the end of the disk. Nothing was sent. */
  | 'ERR_BLOCK_RANGE'
  /** A write to a disk that is read-only. Nothing was sent. */
  | 'ERR_BLOCK_READ_ONLY'
  /** The driver's memory has no room. */
  | 'ERR_BLOCK_MEMORY'
  /** The driver and the server have no common ground: a feature or a number of queues is missing. */
  | 'ERR_BLOCK_NEGOTIATION'
  /** The server broke the ring, or left a request without a status. The connection is useless from then on. */
  | 'ERR_BLOCK_BROKEN'
  /** The server went away, and nothing of it is left that tells what to do again. What was in flight may have been done or not. */
  | 'ERR_BLOCK_DISCONNECTED'
  /** The driver is closed, or closing. */
  | 'ERR_BLOCK_CLOSED'
  /** The queue has requests in flight: wait for them first. */
  | 'ERR_BLOCK_BUSY'
  /** All queues were detached: this driver has none left for its own requests. */
  | 'ERR_BLOCK_NO_QUEUE'

/** What an error says beside its text. */
export interface BlockDriverErrorOptions extends ErrorOptions {
  /** The status byte that the disk wrote, `VIRTIO_BLK_S_*`. @default none: it did not answer */
  readonly status?: number
}

/** A request that failed, or a disk that cannot be driven. */
export class BlockDriverError extends Error {
  static override readonly name = 'BlockDriverError'
  override readonly name = 'BlockDriverError'
  /** Stable: programs may switch on it. */
  readonly code: BlockDriverErrorCode
  /** The status byte that the disk answered with (`VIRTIO_BLK_S_*`); undefined when it did not. */
  readonly status: number | undefined

  constructor (code: BlockDriverErrorCode, message: string, options: BlockDriverErrorOptions = {}) {
    super(message, options)
    this.code = code
    this.status = options.status
  }
}
