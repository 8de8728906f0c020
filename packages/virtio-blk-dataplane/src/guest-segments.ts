import { type GuestMemory, WINDOW_BYTES } from '@node-vmm/hostmem'
import { IOVEC_WORDS, type RequestTable } from '@node-vmm/ioq'
import type { Segments } from './custom-disk.ts'

/**
 * The segments of requests as views straight over guest memory: over the windows that its map has anyway, since an
 * `ArrayBuffer` over native memory takes long to make, and longer to be rid of.
 */
export class GuestSegments {
  readonly #memory: GuestMemory
  #zeroes = new Uint8Array(0)

  constructor (memory: GuestMemory) {
    this.#memory = memory
  }

  /** The segments of a request for reading or writing. One that crosses the border of two windows becomes two. */
  of (id: number, table: RequestTable): Segments {
    const { iovecs } = table
    const segments: Uint8Array[] = []
    let word = table.first[id]!
    for (let left = table.count[id]!; left > 0; left--) {
      this.#add(segments, iovecs[word + 1]! * 0x100000000 + iovecs[word]!, iovecs[word + 2]!)
      word += IOVEC_WORDS
    }
    return segments
  }

  #add (segments: Uint8Array[], hostAddress: number, length: number): void {
    const { regions } = this.#memory
    const index = regions.findIndex((region) => hostAddress >= region.hostAddress && hostAddress < region.hostAddress + region.size)
    // What is no guest's is the I/O queue's own: zeroes that it writes where a disk has no way to make them.
    if (index < 0) return void segments.push(this.#zeroesOf(length))
    const { hostAddress: start, guestAddress } = regions[index]!
    for (let at = hostAddress - start, end = at + length; at < end;) {
      const window = this.#memory.window(guestAddress + at)!
      const { windowOffset } = this.#memory
      const here = Math.min(end - at, WINDOW_BYTES - windowOffset)
      segments.push(new Uint8Array(window.buffer, window.byteOffset + windowOffset, here))
      at += here
    }
  }

  #zeroesOf (length: number): Uint8Array {
    if (this.#zeroes.length < length) this.#zeroes = new Uint8Array(length)
    return this.#zeroes.subarray(0, length)
  }
}
