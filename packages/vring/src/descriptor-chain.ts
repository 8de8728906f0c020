import { type GuestMemory, WINDOW_BYTES } from '@node-vmm/hostmem'
import { addressOf } from './address.ts'

/** The most descriptors that a chain may have, an indirect table's included: as many as one vectored I/O takes (IOV_MAX). */
export const CHAIN_DESCRIPTORS_MAX = 1024
// A descriptor that straddles regions becomes several segments: a little room for those.
const SEGMENTS_MAX = CHAIN_DESCRIPTORS_MAX + 64

/**
 * A chain of descriptors, copied out of the ring and checked: first the segments that the device reads, then those
 * that it writes. One object serves one pop after the other; nothing is allocated for a chain.
 *
 * A segment is a host range in one region: a descriptor that straddles regions becomes several.
 */
export class DescriptorChain {
  /** The map of guest memory in which the segments were found. */
  memory: GuestMemory
  /** The index of the first descriptor: the chain's name until it is pushed back. */
  head = 0
  /** Segments 0 to `readableCount - 1` are the device's to read. */
  readableCount = 0
  /** The `writableCount` segments behind them are the device's to write. */
  writableCount = 0
  /** Bytes of all readable segments. */
  readableBytes = 0
  /** Bytes of all writable segments. */
  writableBytes = 0

  /** Guest address of each segment. */
  readonly guestAddress = new Float64Array(SEGMENTS_MAX)
  /** Host address of each segment. */
  readonly hostAddress = new Float64Array(SEGMENTS_MAX)
  /** Bytes of each segment, at least 1. */
  readonly length = new Uint32Array(SEGMENTS_MAX)
  /** Index of each segment's region in `memory.regions`. */
  readonly region = new Uint16Array(SEGMENTS_MAX)
  readonly #position = new Float64Array(1)

  /** @param memory the map that the rings to pop from are in. */
  constructor (memory: GuestMemory) {
    this.memory = memory
  }

  /** Empties it for another pop. @internal */
  begin (head: number): void {
    this.head = head
    this.readableCount = 0
    this.writableCount = 0
    this.readableBytes = 0
    this.writableBytes = 0
  }

  /**
   * Adds a guest range, split where regions end. The halves of its address and its length are unsigned, but come as
   * signed 32-bit integers: what is above 2^31 would be an object when passed on.
   *
   * @returns why it cannot be added, or undefined. @internal
   */
  append (low: number, high: number, length: number, write: boolean): 'readable-after-writable' | 'address-unmapped' | 'chain-too-long' | undefined {
    if (!write && this.writableCount > 0) return 'readable-after-writable'
    const { memory } = this
    const bytes = length >>> 0
    let at = addressOf(low, high)
    let left = bytes
    while (left > 0) {
      const index = this.readableCount + this.writableCount
      if (index === SEGMENTS_MAX) return 'chain-too-long'
      this.guestAddress[index] = at
      const region = memory.findAt(this.guestAddress, index)
      if (region < 0 || (write && memory.writable[region] === 0)) return 'address-unmapped'
      const here = Math.min(left, memory.ends[region]! - at)
      this.hostAddress[index] = at + memory.hostOffsets[region]!
      this.length[index] = here
      this.region[index] = region
      if (write) this.writableCount++
      else this.readableCount++
      at += here
      left -= here
    }
    if (write) this.writableBytes += bytes
    else this.readableBytes += bytes
    return undefined
  }

  /**
   * Copies the first bytes that the driver sent, however it framed them.
   *
   * @returns how many there were, at most `target.length`.
   */
  copyReadable (target: Uint8Array): number {
    const room = Math.min(target.length, this.readableBytes)
    let copied = 0
    for (let index = 0; copied < room; index++) copied = this.#copy(index, target, copied, room, false)
    return copied
  }

  /**
   * Copies bytes to the start of what the driver wants written, however it framed it.
   *
   * @param limit of the writable bytes, how many belong to this copy. @default all
   * @returns how many found room.
   */
  copyToWritable (source: Uint8Array, limit = this.writableBytes): number {
    const room = Math.min(source.length, limit, this.writableBytes)
    let copied = 0
    for (let index = this.readableCount; copied < room; index++) copied = this.#copy(index, source, copied, room, true)
    return copied
  }

  /** Copies between a segment and `bytes[from]` on, up to `bytes[to]`, window by window. @returns where it ended */
  #copy (segment: number, bytes: Uint8Array, from: number, to: number, write: boolean): number {
    const region = this.region[segment]!
    const end = Math.min(to, from + this.length[segment]!)
    this.#position[0] = this.guestAddress[segment]!
    for (let at = from; at < end;) {
      const window = this.memory.windowAt(region, this.#position, 0)
      const offset = (this.#position[0]! - this.memory.starts[region]!) & (WINDOW_BYTES - 1)
      const here = Math.min(end - at, window.byteLength - offset)
      for (let byte = 0; byte < here; byte++) {
        if (write) window.setUint8(offset + byte, bytes[at + byte]!)
        else bytes[at + byte] = window.getUint8(offset + byte)
      }
      at += here
      this.#position[0]! += here
    }
    return end
  }
}
