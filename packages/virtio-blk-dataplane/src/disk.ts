import type { FileMapData } from '@node-vmm/ioq'
import type { Alignment } from './medium.ts'

/** The disk as the requests of all its queues see it: an image, or one of the user's own, which has no descriptor. */
export interface ServedDisk extends DiskState {
  /** -1 where there is none. */
  readonly fd: number
  /** Of the same file, without O_DIRECT: takes what `alignment` excludes from `fd`. */
  readonly bufferedFd: number | undefined
  readonly alignment: Alignment
  /** Shared by all queues with a `bufferedFd`: direct and buffered writes take turns. See `WriteTurns` of `@node-vmm/ioq`. */
  readonly writeTurns: SharedArrayBuffer | undefined
  /** Of an image in memory: shared by all queues. See `FileMap` of `@node-vmm/ioq`. */
  readonly map: FileMapData | undefined
  /** What GET_ID answers: 20 bytes, padded with zeros. */
  readonly id: Uint8Array
  /** Segments of one discard or write-zeroes request, at most; 0 supports neither. */
  readonly discardSegments: number
}

/** What changes of a disk after its thread has begun. */
export interface DiskState {
  readOnly: boolean
  /** Sectors of 512 bytes. */
  sectors: number
  /** Writes are stable when they complete. */
  writeThrough: boolean
}
