import type { Segments } from '@node-vmm/virtio-blk-dataplane'

/** The largest piece that is copied or zeroed at once, in bytes. */
export const PIECE_BYTES = 1 << 20
const ZEROES = new Uint8Array(PIECE_BYTES)

/** Bytes of all segments together. */
export function bytesOf (segments: Segments): number {
  let bytes = 0
  for (const segment of segments) bytes += segment.length
  return bytes
}

/** The part of the segments from a byte on, as views of the same memory. */
export function slice (segments: Segments, from: number, length: number): Segments {
  const part: Uint8Array[] = []
  let start = 0
  for (const segment of segments) {
    const piece = segment.subarray(Math.max(0, from - start), Math.max(0, from + length - start))
    if (piece.length > 0) part.push(piece)
    start += segment.length
  }
  return part
}

/** Fills the segments with zeroes. */
export function clear (segments: Segments): void {
  for (const segment of segments) segment.fill(0)
}

/** Fills the segments from bytes, of which there are as many. */
export function scatter (bytes: Uint8Array, segments: Segments): void {
  let start = 0
  for (const segment of segments) {
    segment.set(bytes.subarray(start, start + segment.length))
    start += segment.length
  }
}

/** A private copy of the segments' bytes: what a guest changes from then on is not in it. */
export function gather (segments: Segments): Uint8Array {
  const bytes = new Uint8Array(bytesOf(segments))
  let start = 0
  for (const segment of segments) {
    bytes.set(segment, start)
    start += segment.length
  }
  return bytes
}

/** So many zeroes, as segments of shared memory that must not be written. */
export function zeroes (length: number): Segments {
  const pieces: Uint8Array[] = []
  for (let left = length; left > 0; left -= PIECE_BYTES) pieces.push(ZEROES.subarray(0, left))
  return pieces
}
