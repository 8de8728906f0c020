/** What a data plane keeps its guest's data on: an image, or a disk of the user's own. */
export interface Medium {
  /** -1 where there is none. */
  readonly fd: number
  /** A second descriptor without O_DIRECT, for what direct I/O cannot take; undefined where `fd` is not direct. */
  readonly bufferedFd: number | undefined
  /** What direct I/O asks for, in bytes; 1 where it is not used. */
  readonly alignment: Alignment
  readonly readOnly: boolean
  /** Bytes of a logical block: what a guest's requests are multiples of. */
  readonly blockSize: number
  /** Bytes that are best read and written as a whole. */
  readonly physicalBlockSize: number
  /** Bytes, a multiple of the sector's: as last looked. */
  readonly size: number
  /** Writes are not stable before a flush. */
  readonly flushes: boolean
  readonly discards: boolean
  /** Queues are about to run. @throws DataPlaneError when somebody else has it */
  beginUse (): void
  /** No queue runs any more. */
  endUse (): void
  /** Looks at the size anew. @throws DataPlaneError when that is no disk's */
  refresh (): number | Promise<number>
  /** @throws DataPlaneError for a size that it cannot have: `resize` cannot be called with it */
  checkResize (bytes: number): void
  /** Cuts or extends it. What is added reads as zeroes. @throws as `checkResize`; LinuxError */
  resize (bytes: number): void
  /** Makes stable what was written. */
  sync (): Promise<void>
  close (): void | Promise<void>
}

/** Multiples, in bytes. */
export interface Alignment {
  /** Of a buffer's address. */
  readonly memory: number
  /** Of a request's offset, and of its buffers' lengths. */
  readonly offset: number
}
