/**
 * Pieces of guest memory, in order, nothing copied. They are valid until the call has returned, or the promise that it
 * returned has settled: keep no reference beyond. The guest may change them meanwhile, under the disk's hands: what must
 * not change between two looks is to be copied first.
 */
export type Segments = readonly Uint8Array[]

/**
 * A disk of one's own: what stands behind the guest's requests in place of an image file.
 *
 * Every method may be synchronous or return a promise; several calls are in flight at once, and may end in any order.
 * Ranges are checked before a call: inside the capacity, whole blocks, at least one. To fail, throw or reject with
 * anything: an error whose `code` is `ENOTSUP` or `EOPNOTSUPP` is told to the guest as "unsupported", everything else as
 * an I/O error.
 */
export interface Disk {
  /** Bytes, a multiple of {@link Disk.blockSize}. May change: tell the data plane with `resize()`. */
  readonly capacity: number
  /** Logical block size in bytes, a power of two from 512 to 65536. @default 512 */
  readonly blockSize?: number
  /** The guest may not write. @default false; a disk without {@link Disk.write} is always read-only */
  readonly readOnly?: boolean

  /**
   * Fills the segments, in order, with the bytes from `offset` on.
   *
   * @param offset bytes from the start of the disk
   * @param segments to be filled whole; what they have together is the length of the request
   * @param signal aborts when the queue is stopped by force, for its time is over: end soon, with an error or without
   */
  read (offset: number, segments: Segments, signal: AbortSignal): void | Promise<void>

  /** Takes the bytes of the segments, in order, as the disk's from `offset` on. The segments themselves are not to be changed. @default the disk is read-only */
  write? (offset: number, segments: Segments, signal: AbortSignal): void | Promise<void>

  /** Makes stable every write that has completed. @default writes are stable when they complete */
  flush? (signal: AbortSignal): void | Promise<void>

  /** The guest does not need these bytes any more: they may be anything. @default the feature is not offered */
  discard? (offset: number, length: number, signal: AbortSignal): void | Promise<void>

  /**
   * Makes these bytes zero. Where it says `ENOTSUP`, zeroes are written by {@link Disk.write}.
   *
   * @param unmap the guest would like the storage to be freed as well
   * @default zeroes are written by {@link Disk.write}
   */
  writeZeroes? (offset: number, length: number, unmap: boolean, signal: AbortSignal): void | Promise<void>

  /**
   * Called once, when the data plane closes: after the last request, unless requests were given up, whose signal has
   * aborted. What it throws, the close of the data plane throws. @default there is nothing to give back
   */
  close? (): void | Promise<void>
}

/**
 * What a disk module exports under the name `openDisk`; runs on the data-plane thread.
 *
 * @param options the `options` that the data plane was created with, structured-cloned
 */
export type OpenDisk<Options = unknown> = (options: Options) => Disk | Promise<Disk>

/** A disk that is opened on the data-plane thread, by a module. */
export interface DiskModule<Options = unknown> {
  /** A URL, its text, or a path: of a module that exports `openDisk`, an {@link OpenDisk}. */
  readonly module: URL | string
  /** Handed to `openDisk`; structured-cloned on the way. @default undefined */
  readonly options?: Options
}

/** @internal */
export function isDiskModule (disk: Disk | DiskModule | undefined): disk is DiskModule {
  return typeof disk === 'object' && disk !== null && 'module' in disk && !('read' in disk)
}
