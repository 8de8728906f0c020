import type { GuestMemory } from '@node-vmm/hostmem'
import { addressOf } from './address.ts'

/** The most descriptors that a chain may have, an indirect table's included: as many as one vectored I/O takes (IOV_MAX). */
export const CHAIN_DESCRIPTORS_MAX = 1024
/** As many, and a little room for descriptors that straddle regions and become several segments. */
const SEGMENTS_MAX = CHAIN_DESCRIPTORS_MAX + 64
const BYTES_MAX = 0xffffffff

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
  /** All segments. */
  count = 0
  /** Segments 0 to `readableCount - 1` are the device's to read; those behind them, to write. */
  readableCount = 0
  /** Bytes of all segments, below 2^32. */
  bytes = 0
  /** Bytes of all readable segments. */
  readableBytes = 0

  /** Guest address of each segment. */
  readonly guestAddress = new Float64Array(SEGMENTS_MAX)
  /** Host address of each segment. */
  readonly hostAddress = new Float64Array(SEGMENTS_MAX)
  /** Bytes of each segment, at least 1. */
  readonly length = new Uint32Array(SEGMENTS_MAX)
  readonly #position = new Float64Array(1)

  /** @param memory the map that the rings to pop from are in. */
  constructor (memory: GuestMemory) {
    this.memory = memory
  }

  /** Segments behind the readable ones: the device's to write. */
  get writableCount (): number {
    return this.count - this.readableCount
  }

  /** Bytes of all writable segments. */
  get writableBytes (): number {
    return this.bytes - this.readableBytes
  }

  /** Empties it for another pop. @internal */
  begin (head: number): void {
    this.head = head
    this.count = this.readableCount = this.bytes = this.readableBytes = 0
  }

  /**
   * Adds a guest range, split where regions end. The halves of its address and its length are unsigned, but come as
   * signed 32-bit integers: what is above 2^31 would be an object when passed on.
   *
   * @returns why it cannot be added, or undefined. @internal
   */
  append (low: number, high: number, length: number, write: boolean): 'readable-after-writable' | 'address-unmapped' | 'chain-too-long' | undefined {
    const { memory, count } = this
    if (!write && this.readableCount !== count) return 'readable-after-writable'
    if (length === 0) return undefined
    // The most that a used element's length can say (2.7.5).
    const total = this.bytes + (length >>> 0)
    if (count === SEGMENTS_MAX || total > BYTES_MAX) return 'chain-too-long'
    const address = addressOf(low, high)
    this.guestAddress[count] = address
    const span = memory.findAt(this.guestAddress, count)
    if (span === undefined || (write && span.readOnly)) return 'address-unmapped'
    if (length >>> 0 > span.end - address) return this.#appendPieces(length, write)
    this.hostAddress[count] = address + span.hostOffset
    this.length[count] = length
    this.#added(count + 1, total, write)
    return undefined
  }

  /** Adds the range that begins at the next segment's address and goes on in another region. */
  #appendPieces (length: number, write: boolean): 'address-unmapped' | 'chain-too-long' | undefined {
    const { memory } = this
    let { count } = this
    let address = this.guestAddress[count]!
    for (let left = length >>> 0; left > 0; count++) {
      if (count === SEGMENTS_MAX) return 'chain-too-long'
      this.guestAddress[count] = address
      const span = memory.findAt(this.guestAddress, count)
      if (span === undefined || (write && span.readOnly)) return 'address-unmapped'
      const here = Math.min(left, span.end - address)
      this.hostAddress[count] = address + span.hostOffset
      this.length[count] = here
      address += here
      left -= here
    }
    this.#added(count, this.bytes + (length >>> 0), write)
    return undefined
  }

  #added (count: number, bytes: number, write: boolean): void {
    this.count = count
    this.bytes = bytes
    if (write) return
    this.readableCount = count
    this.readableBytes = bytes
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
    const end = Math.min(to, from + this.length[segment]!)
    this.#position[0] = this.guestAddress[segment]!
    for (let at = from; at < end;) {
      const window = this.memory.windowAt(this.#position, 0)!
      const offset = this.memory.windowOffset
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
