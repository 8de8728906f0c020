import type { Alignment } from './image.ts'

/** The disk as the requests of all its queues see it. */
export interface Disk extends DiskState {
  readonly fd: number
  /** Of the same file, without O_DIRECT: takes what `alignment` excludes from `fd`. */
  readonly bufferedFd: number | undefined
  readonly alignment: Alignment
  /** Shared by all queues with a `bufferedFd`: direct and buffered writes take turns. See `WriteTurns` of `@node-vmm/ioq`. */
  readonly writeTurns: SharedArrayBuffer | undefined
  readonly readOnly: boolean
  /** What GET_ID answers: 20 bytes, padded with zeros. */
  readonly id: Uint8Array
  /** Segments of one discard or write-zeroes request, at most; 0 supports neither. */
  readonly discardSegments: number
}

/** What changes of a disk while its queues run. */
export interface DiskState {
  /** Sectors of 512 bytes. */
  sectors: number
  /** Writes are stable when they complete. */
  writeThrough: boolean
}
