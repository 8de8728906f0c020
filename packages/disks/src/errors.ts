/** Why a disk cannot be made, opened or used so. Stable: programs may switch on it. */
export type DiskErrorCode =
  /** An option is out of its range, or does not fit the disk below. */
  | 'ERR_DISK_OPTION'
  /** A description of a disk has an unknown type or option, lacks one, or cannot be read. The text says where. */
  | 'ERR_DISK_SPEC'
  /** A module that is to open a disk cannot be loaded, or gives none. */
  | 'ERR_DISK_MODULE'
  /** The image cannot be a disk: not a file or block device, or not whole blocks. */
  | 'ERR_DISK_IMAGE'
  /** Another process uses the image. */
  | 'ERR_DISK_LOCKED'
  /** The file is no overlay, or is damaged. */
  | 'ERR_OVERLAY'
  /** The overlay's base is missing, or is not the disk that the overlay was made over. */
  | 'ERR_OVERLAY_BASE'
  /** The disk has no header of an encrypted disk, or a damaged one. */
  | 'ERR_ENCRYPTED'
  /** The key does not open the encrypted disk. */
  | 'ERR_ENCRYPTED_KEY'
  /** A faulty disk was told to fail this request. */
  | 'ERR_DISK_FAULT'

/** A disk that cannot be made, opened or used so. */
export class DiskError extends Error {
  static override readonly name = 'DiskError'
  override readonly name = 'DiskError'
  /** Stable: programs may switch on it. */
  readonly code: DiskErrorCode

  constructor (code: DiskErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
