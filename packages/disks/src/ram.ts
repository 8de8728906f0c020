import type { Segments } from '@node-vmm/virtio-blk-dataplane'
import { DiskError } from './errors.ts'
import { type OpenedDisk, opened } from './opened-disk.ts'
import { bytesOf, slice } from './segments.ts'

/** Memory is taken in pieces of so many bytes. */
const CHUNK_BYTES = 1 << 20

/** A disk in memory. */
export interface RamOptions {
  /** Bytes, a multiple of `blockSize`, at least one block. */
  readonly capacity: number
  /** Bytes, a power of two, 512 to 65536. @default 512 */
  readonly blockSize?: number
}

/**
 * A disk in this process's memory, zeroes at first, gone when it is closed. Memory is taken where something is written,
 * 1 MiB at a time, and given back where whole such pieces are discarded or zeroed.
 *
 * @throws DiskError ERR_DISK_OPTION
 */
export function ram ({ capacity, blockSize = 512 }: RamOptions): OpenedDisk {
  if (!Number.isSafeInteger(capacity) || capacity <= 0 || capacity % blockSize !== 0) {
    throw new DiskError('ERR_DISK_OPTION', `a RAM disk has whole blocks of ${blockSize} bytes, one at least: not ${capacity} bytes`)
  }
  const chunks = new Map<number, Uint8Array>()

  function writable (index: number): Uint8Array {
    let chunk = chunks.get(index)
    if (chunk === undefined) chunks.set(index, chunk = new Uint8Array(CHUNK_BYTES))
    return chunk
  }

  function zero (offset: number, length: number): void {
    for (const piece of pieces(offset, length)) {
      if (piece.length === CHUNK_BYTES) chunks.delete(piece.index)
      else chunks.get(piece.index)?.fill(0, piece.from, piece.from + piece.length)
    }
  }

  return opened({
    capacity,
    blockSize,
    read (offset, segments) {
      for (const { index, from, length, done } of pieces(offset, bytesOf(segments))) {
        copyOut(chunks.get(index), from, slice(segments, done, length))
      }
    },
    write (offset, segments) {
      for (const { index, from, length, done } of pieces(offset, bytesOf(segments))) {
        copyIn(writable(index), from, slice(segments, done, length))
      }
    },
    // Nothing outlives the process, so that nothing is more stable after it. But a disk with a flush has a write cache.
    flush () {},
    discard: zero,
    writeZeroes: zero,
    close: () => chunks.clear()
  })
}

/** What a range has of each chunk: `length` bytes from `from` on, which come after `done` bytes of the range. */
function * pieces (offset: number, length: number): Generator<{ index: number, from: number, length: number, done: number }> {
  for (let done = 0; done < length;) {
    const from = (offset + done) % CHUNK_BYTES
    const piece = Math.min(CHUNK_BYTES - from, length - done)
    yield { index: Math.floor((offset + done) / CHUNK_BYTES), from, length: piece, done }
    done += piece
  }
}

function copyOut (chunk: Uint8Array | undefined, from: number, segments: Segments): void {
  for (const segment of segments) {
    if (chunk === undefined) segment.fill(0)
    else segment.set(chunk.subarray(from, from + segment.length))
    from += segment.length
  }
}

function copyIn (chunk: Uint8Array, from: number, segments: Segments): void {
  for (const segment of segments) {
    chunk.set(segment, from)
    from += segment.length
  }
}
