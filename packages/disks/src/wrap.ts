import type { Disk, Segments } from '@node-vmm/virtio-blk-dataplane'
import { type OpenedDisk, opened } from './opened-disk.ts'
import { bytesOf, slice } from './segments.ts'

/** What is asked of a disk. */
export interface DiskRequest {
  readonly operation: 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes'
  /** Where it begins, in bytes; 0 for a flush. */
  readonly offset: number
  /** Bytes; 0 for a flush. */
  readonly length: number
  readonly signal: AbortSignal
}

/** Decides of a request: `pass` hands its first `length` bytes, or all of it, to the disk below. */
export type Around = (request: DiskRequest, pass: (length?: number) => void | Promise<void>) => void | Promise<void>

/** A disk with the abilities of the one below, which it owns, and whose requests all go through `around`. */
export function wrap (disk: Disk, around: Around): OpenedDisk {
  const write = disk.write?.bind(disk)
  const flush = disk.flush?.bind(disk)
  const discard = disk.discard?.bind(disk)
  const writeZeroes = disk.writeZeroes?.bind(disk)
  return opened({
    get capacity () {
      return disk.capacity
    },
    blockSize: disk.blockSize ?? 512,
    readOnly: disk.readOnly ?? false,
    read: (offset, segments, signal) => around(transfer('read', offset, segments, signal),
      (length) => disk.read(offset, first(segments, length), signal)),
    ...(write && {
      write: (offset: number, segments: Segments, signal: AbortSignal) => around(transfer('write', offset, segments, signal),
        (length) => write(offset, first(segments, length), signal))
    }),
    ...(flush && {
      flush: (signal: AbortSignal) => around({ operation: 'flush', offset: 0, length: 0, signal }, () => flush(signal))
    }),
    ...(discard && {
      discard: (offset: number, length: number, signal: AbortSignal) => around({ operation: 'discard', offset, length, signal },
        (part = length) => discard(offset, part, signal))
    }),
    ...(writeZeroes && {
      writeZeroes: (offset: number, length: number, unmap: boolean, signal: AbortSignal) => around({ operation: 'writeZeroes', offset, length, signal },
        (part = length) => writeZeroes(offset, part, unmap, signal))
    }),
    close: () => disk.close?.()
  })
}

function transfer (operation: 'read' | 'write', offset: number, segments: Segments, signal: AbortSignal): DiskRequest {
  return { operation, offset, length: bytesOf(segments), signal }
}

function first (segments: Segments, length: number | undefined): Segments {
  return length === undefined ? segments : slice(segments, 0, length)
}
