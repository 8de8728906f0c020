import type { GuestMemory } from '@node-vmm/hostmem'
import {
  availableRingBytes, descriptorTableBytes, needsEvent, usedRingBytes, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_USED_F_NO_NOTIFY
} from '../layout.ts'
import type { RingLayout } from './ring-layout.ts'

/** What `addChain` returns when too few descriptors are free: poll for used chains first. */
export const RING_FULL = -1
/** What `pollUsed` returns when the device has not finished anything more. */
export const NOTHING_USED = -1
/** What `pollUsed` returns, from then on, after the device wrote what cannot be: only a reset helps. */
export const USED_RING_BROKEN = -2

/** A range of guest memory that a chain offers. */
export interface Segment {
  /** Guest address. */
  readonly address: number
  /** Bytes, below 2^32. */
  readonly length: number
}

/** Where the tables of indirect chains are. */
export interface IndirectTables {
  /** Guest address, a multiple of 16, of `indirectTableBytes(ring size, segments)` bytes. */
  readonly address: number
  /** Segments that one table has room for, at least 2. A longer chain takes descriptors of the ring itself. */
  readonly segments: number
}

/** Bytes of guest memory for one indirect table per descriptor of a ring. */
export function indirectTableBytes (size: number, segments: number): number {
  return size * segments * VIRTQ_DESC_BYTES
}

/** What driver and device agreed on, and where they begin. */
export interface DriverRingOptions {
  /** VIRTIO_F_EVENT_IDX was agreed: kicks and interrupts are asked for by index. @default false */
  readonly eventIdx?: boolean
  /** Put chains of more than one segment in tables outside the ring (VIRTIO_F_INDIRECT_DESC). @default not */
  readonly indirect?: IndirectTables
  /** The index that both rings begin with, 0 to 65535. @default 0 */
  readonly index?: number
}

const FLAGS = 0
const INDEX = 1
const ENTRIES = 2
const NOT_IN_FLIGHT = -1

/**
 * The driver side of a split virtqueue: see virtio 1.2, 2.7.13. One thread uses it; nothing here allocates.
 *
 * Invariants: a descriptor is either in the free list or part of a chain in flight. The list is private, not read back
 * from the table, so that a device that scribbles there cannot lead the driver astray. Entries are written before the
 * index that announces them, and read after it; the indices, flags and event words are accessed with `Atomics` only,
 * whose sequential consistency is what "publish, then look whether to kick" relies on.
 */
export class DriverRing {
  readonly layout: RingLayout
  /** The chain to add: guest addresses of its readable segments, then of its writable ones. Fill before `addChain`. */
  readonly segmentAddress: Float64Array
  /** The chain to add: bytes of each segment. */
  readonly segmentLength: Uint32Array
  /** Of the chain that `pollUsed` last returned: how many bytes the device says that it wrote. */
  usedLength = 0
  /** Of the chain that `pollUsed` last returned: what `addChain` was given. */
  usedToken = 0

  readonly #eventIdx: boolean
  readonly #mask: number

  readonly #descriptors: Uint32Array
  readonly #available: Uint16Array
  readonly #usedWords: Uint16Array
  readonly #usedElements: Uint32Array
  readonly #usedEvent: number
  readonly #availableEvent: number

  readonly #tables: Uint32Array | undefined
  readonly #tableSegments: number
  readonly #tablesAddress: number

  readonly #next: Uint16Array
  readonly #lastOf: Int32Array
  readonly #countOf: Uint16Array
  readonly #tokenOf: Float64Array
  #freeHead = 0
  #freeCount: number
  #inFlight = 0

  #nextAvailable: number
  #published: number
  #kicked: number
  #nextUsed: number
  #seenUsed: number
  #broken = false

  /**
   * Clears the ring's memory; the device must not be using it.
   *
   * @throws GuestMemoryError when the ring, or the tables, are not writable memory in one region; RangeError when a
   * part is not aligned.
   */
  constructor (memory: GuestMemory, layout: RingLayout, options: DriverRingOptions = {}) {
    const { eventIdx = false, indirect, index = 0 } = options
    const { size } = layout
    if (layout.descriptorAddress % 16 !== 0 || layout.availableAddress % 2 !== 0 || layout.usedAddress % 4 !== 0) {
      throw new RangeError('the parts of a ring are aligned to 16, 2 and 4 bytes: use layOutRing')
    }
    this.layout = layout
    this.#eventIdx = eventIdx
    this.#mask = size - 1

    this.#descriptors = new Uint32Array(memory.view(layout.descriptorAddress, descriptorTableBytes(size)))
    this.#available = new Uint16Array(memory.view(layout.availableAddress, availableRingBytes(size, true)))
    const used = memory.view(layout.usedAddress, usedRingBytes(size, true))
    this.#usedWords = new Uint16Array(used)
    this.#usedElements = new Uint32Array(used, 4, size * 2)
    this.#usedEvent = ENTRIES + size
    this.#availableEvent = ENTRIES + size * 4

    this.#tableSegments = indirect?.segments ?? 0
    this.#tablesAddress = indirect?.address ?? 0
    if (indirect !== undefined) {
      this.#tables = new Uint32Array(memory.view(indirect.address, indirectTableBytes(size, indirect.segments)))
    }

    this.segmentAddress = new Float64Array(Math.max(size, this.#tableSegments))
    this.segmentLength = new Uint32Array(this.segmentAddress.length)
    this.#next = Uint16Array.from({ length: size }, (_, head) => head + 1)
    this.#lastOf = new Int32Array(size).fill(NOT_IN_FLIGHT)
    this.#countOf = new Uint16Array(size)
    this.#tokenOf = new Float64Array(size)
    this.#freeCount = size

    this.#nextAvailable = this.#published = this.#kicked = this.#nextUsed = this.#seenUsed = index
    this.#clear(index)
  }

  #clear (index: number): void {
    this.#descriptors.fill(0)
    this.#usedElements.fill(0)
    this.#available.fill(0)
    Atomics.store(this.#usedWords, FLAGS, 0)
    Atomics.store(this.#usedWords, INDEX, index)
    Atomics.store(this.#usedWords, this.#availableEvent, index)
    Atomics.store(this.#available, this.#usedEvent, index)
    Atomics.store(this.#available, INDEX, index)
  }

  /** Descriptors that are not part of a chain in flight. */
  get freeDescriptors (): number {
    return this.#freeCount
  }

  /** Chains that the device has not given back. */
  get inFlight (): number {
    return this.#inFlight
  }

  /** The head that the next `addChain` will use, for what is kept per head; any value when the ring is full. */
  get nextHead (): number {
    return this.#freeHead
  }

  /** The device broke the ring: nothing more can be had from it. */
  get broken (): boolean {
    return this.#broken
  }

  /**
   * Adds the chain that `segmentAddress` and `segmentLength` describe. The device sees it after `publish`.
   *
   * @param readable how many segments the device reads: the first ones.
   * @param writable how many segments follow that the device writes.
   * @param token given back with the used chain: any number. @default 0
   * @returns the chain's head, 0 to size - 1, or `RING_FULL`.
   * @throws RangeError for a chain that could not even go into an empty ring
   */
  addChain (readable: number, writable: number, token = 0): number {
    const segments = readable + writable
    const indirect = segments > 1 && segments <= this.#tableSegments
    const count = indirect ? 1 : segments
    if (segments === 0 || count > this.layout.size) throw this.#badChain(segments)
    if (count > this.#freeCount) return RING_FULL

    const head = this.#freeHead
    const last = indirect ? this.#writeTable(head, readable, segments) : this.#writeChain(head, readable, segments)
    this.#freeHead = this.#next[last]
    this.#freeCount -= count
    this.#lastOf[head] = last
    this.#countOf[head] = count
    this.#tokenOf[head] = token
    this.#inFlight++

    this.#available[ENTRIES + (this.#nextAvailable & this.#mask)] = head
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff
    return head
  }

  /** Adds a chain of these segments. Easier to read than `addChain`, for where speed is no matter. @see addChain */
  add (readable: readonly Segment[], writable: readonly Segment[], token = 0): number {
    const segments = [...readable, ...writable]
    if (segments.length > this.segmentAddress.length) throw this.#badChain(segments.length)
    segments.forEach(({ address, length }, index) => {
      this.segmentAddress[index] = address
      this.segmentLength[index] = length
    })
    return this.addChain(readable.length, writable.length, token)
  }

  #badChain (segments: number): RangeError {
    return new RangeError(`a chain has 1 to ${this.segmentAddress.length} segments: not ${segments}`)
  }

  #writeChain (head: number, readable: number, segments: number): number {
    let last = head
    for (let segment = 0, at = head; segment < segments; segment++) {
      last = at
      at = this.#next[last]
      const flags = (segment < readable ? 0 : VIRTQ_DESC_F_WRITE) | (segment + 1 < segments ? VIRTQ_DESC_F_NEXT : 0)
      describe(this.#descriptors, last, this.segmentAddress[segment], this.segmentLength[segment], flags, at)
    }
    return last
  }

  #writeTable (head: number, readable: number, segments: number): number {
    const first = head * this.#tableSegments
    for (let segment = 0; segment < segments; segment++) {
      const flags = (segment < readable ? 0 : VIRTQ_DESC_F_WRITE) | (segment + 1 < segments ? VIRTQ_DESC_F_NEXT : 0)
      describe(this.#tables!, first + segment, this.segmentAddress[segment], this.segmentLength[segment], flags, segment + 1)
    }
    describe(this.#descriptors, head, this.#tablesAddress + first * VIRTQ_DESC_BYTES, segments * VIRTQ_DESC_BYTES, VIRTQ_DESC_F_INDIRECT, 0)
    return head
  }

  /** Shows the device every chain added so far, with one store. */
  publish (): void {
    this.#published = this.#nextAvailable
    Atomics.store(this.#available, INDEX, this.#published)
  }

  /**
   * Whether the device wants to be kicked for what was published since this was last asked. Ask once after each
   * `publish` (virtio 1.2, 2.7.13.4.1): the answer speaks of that batch only.
   */
  needsKick (): boolean {
    const before = this.#kicked
    const now = this.#kicked = this.#published
    if (now === before) return false
    if (!this.#eventIdx) return (Atomics.load(this.#usedWords, FLAGS) & VIRTQ_USED_F_NO_NOTIFY) === 0
    const event = Atomics.load(this.#usedWords, this.#availableEvent)
    return needsEvent(event, now, before)
  }

  /**
   * Takes the next chain that the device finished; `usedLength` and `usedToken` then speak of it, and its descriptors
   * are free again.
   *
   * @returns its head, `NOTHING_USED`, or `USED_RING_BROKEN`.
   */
  pollUsed (): number {
    if (this.#nextUsed === this.#seenUsed && !this.#lookForUsed()) return this.#broken ? USED_RING_BROKEN : NOTHING_USED
    const element = (this.#nextUsed & this.#mask) * 2
    const head = this.#usedElements[element]
    if (head > this.#mask || this.#lastOf[head] === NOT_IN_FLIGHT) return this.#break()
    this.usedLength = this.#usedElements[element + 1]
    this.usedToken = this.#tokenOf[head]
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff
    this.#free(head)
    return head
  }

  #lookForUsed (): boolean {
    if (this.#broken) return false
    const index = Atomics.load(this.#usedWords, INDEX)
    if (((index - this.#nextUsed) & 0xffff) > this.#inFlight) {
      this.#break()
      return false
    }
    this.#seenUsed = index
    return index !== this.#nextUsed
  }

  #break (): number {
    this.#broken = true
    this.#seenUsed = this.#nextUsed
    return USED_RING_BROKEN
  }

  #free (head: number): void {
    this.#next[this.#lastOf[head]] = this.#freeHead
    this.#freeHead = head
    this.#freeCount += this.#countOf[head]
    this.#lastOf[head] = NOT_IN_FLIGHT
    this.#inFlight--
  }

  /**
   * Asks for an interrupt at the next used chain, then looks once more: what was finished before the device saw the
   * wish raises none.
   *
   * @returns `'more'`: poll on. `'empty'`: nothing is there, and an interrupt will tell when it is (never, when broken).
   */
  enableInterrupts (): 'empty' | 'more' {
    if (this.#broken) return 'empty'
    if (this.#eventIdx) Atomics.store(this.#available, this.#usedEvent, this.#nextUsed)
    else Atomics.store(this.#available, FLAGS, 0)
    return Atomics.load(this.#usedWords, INDEX) === this.#nextUsed ? 'empty' : 'more'
  }

  /**
   * Asks for no interrupts. A hint: one may still come. With event indices there is no "never", only an index that is
   * far away, so a driver that polls for long has one interrupt per 65,536 chains.
   */
  disableInterrupts (): void {
    if (this.#eventIdx) Atomics.store(this.#available, this.#usedEvent, (this.#nextUsed + 0x8000) & 0xffff)
    else Atomics.store(this.#available, FLAGS, VIRTQ_AVAIL_F_NO_INTERRUPT)
  }
}

function describe (table: Uint32Array, index: number, address: number, length: number, flags: number, next: number): void {
  const word = index * 4
  table[word] = address
  table[word + 1] = address / 0x100000000
  table[word + 2] = length
  table[word + 3] = flags | (next << 16)
}
