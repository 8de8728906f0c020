/** What can be wrong with a memory map or an access to it. Stable: programs may switch on it. */
export type GuestMemoryErrorCode =
  /** A region has no bytes, or its numbers are no integers below 2^53. */
  | 'ERR_REGION_INVALID'
  /** Two regions share a guest address, or a front-end user address. */
  | 'ERR_REGION_OVERLAP'
  /** A region reaches past the end of its file: touching it would end the process (SIGBUS). */
  | 'ERR_REGION_BEYOND_FILE'
  /** What backs a region is no regular file: nobody can say where a device ends, and touching it there ends the process. */
  | 'ERR_REGION_NO_FILE'
  /** No region has these addresses. */
  | 'ERR_REGION_UNKNOWN'
  /** The access is not wholly inside mapped memory, or writes where the guest's memory is read-only. */
  | 'ERR_ACCESS'
  /** The map was released. */
  | 'ERR_RELEASED'

/** A memory map that cannot be made, or an access outside it. */
export class GuestMemoryError extends Error {
  static override readonly name = 'GuestMemoryError'
  override readonly name = 'GuestMemoryError'
  /** Stable: programs may switch on it. */
  readonly code: GuestMemoryErrorCode

  constructor (code: GuestMemoryErrorCode, message: string) {
    super(message)
    this.code = code
  }
}
