import type { GuestMemory } from '@node-vmm/hostmem'
import { descriptorTableBytes, VIRTQ_DESC_BYTES, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../layout.ts'
import { indexOf, positionOf, wrapOf } from '../packed-index.ts'
import {
  EVENT_FLAGS_DESC, EVENT_FLAGS_DISABLE, EVENT_FLAGS_ENABLE, EVENT_SUPPRESSION_BYTES, PACKED_RING_START, VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_USED
} from '../packed-layout.ts'
import {
  addSegments, badChain, describe, type DriverQueue, type DriverRingOptions, indirectTableBytes, NOTHING_USED, RING_FULL,
  type Segment, USED_RING_BROKEN
} from './driver-queue.ts'
import type { RingLayout } from './ring-layout.ts'

// Places in a descriptor, in 16-bit words; and of its length, in 32-bit words.
const DESC_HALVES = 8
const DESC_ID = 6
const DESC_FLAGS = 7
const DESC_WORDS = 4
const DESC_LENGTH = 2

/** Both marks of a descriptor. They are equal where it is used, and differ where it is available. */
const MARKS = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
const NO_BATCH = -1

/**
 * The driver side of a packed virtqueue: see virtio 1.2, 2.8. One thread uses it; nothing here allocates.
 *
 * Descriptors are made available in the order of the ring, and used in that order too: a used descriptor stands where
 * the next chain in line stood, whichever chain it speaks of, and as many descriptors are passed as *that* chain has.
 *
 * Invariants: a buffer id is either in the free list or that of a chain in flight; the list, and what is known of a
 * chain, are private. With IN_ORDER the list is a circle that never changes: ids are used in turn. Of all that is
 * added between two calls of `publish`, the flags of the first descriptor are stored last: the device, which cannot
 * pass it, sees the batch as a whole. These flags, and the event structures, are accessed with `Atomics` only.
 */
export class PackedDriverRing implements DriverQueue {
  /** Where it stands. */
  readonly layout: RingLayout
  readonly size: number
  readonly segmentAddress: Float64Array
  readonly segmentLength: Uint32Array
  usedLength = 0
  usedToken = 0

  readonly #eventIdx: boolean
  readonly #inOrder: boolean

  readonly #words: Uint32Array
  readonly #halves: Uint16Array
  readonly #driverEvent: Int32Array
  readonly #deviceEvent: Int32Array

  readonly #tables: Uint32Array | undefined
  readonly #tableSegments: number
  readonly #tablesAddress: number

  readonly #nextId: Uint16Array
  /** Descriptors of each chain in flight; 0 where the id is free. */
  readonly #countOf: Uint16Array
  readonly #tokenOf: Float64Array
  #freeId = 0
  #freeCount: number
  #inFlight = 0

  #nextAvailable: number
  /** What marks a descriptor as available in this lap. */
  #availableMarks: number
  /** Descriptors added since the last `publish`; where the first of them keeps its flags, and which. */
  #unpublished = 0
  #firstFlagsAt = 0
  #firstFlags = 0
  /** The position behind all that was published, and its wrap counter. */
  #published: number
  #publishedWrap: number
  /** Descriptors published since `needsKick` was last asked. */
  #unkicked = 0

  #nextUsed: number
  /** What marks a descriptor as used in this lap. */
  #usedMarks: number
  #broken = false

  // With IN_ORDER only. Of each id: how much the device may write for it.
  readonly #writableOf: Float64Array
  #oldest = 0
  /** The batch that the device gave back with one descriptor: its last id, or `NO_BATCH`, and that one's length. */
  #batchLast = NO_BATCH
  #batchLength = 0

  /**
   * Clears the ring's memory; the device must not be using it.
   *
   * @throws GuestMemoryError ERR_ACCESS when the ring, or the tables, are not writable memory in one region; RangeError when a
   * part is not aligned, or the index is no place in the ring.
   */
  constructor (memory: GuestMemory, layout: RingLayout, options: DriverRingOptions = {}) {
    const { eventIdx = false, inOrder = false, indirect, index = PACKED_RING_START } = options
    const { size } = layout
    if (layout.descriptorAddress % 16 !== 0 || layout.availableAddress % 4 !== 0 || layout.usedAddress % 4 !== 0) {
      throw new RangeError('the parts of a packed ring are aligned to 16, 4 and 4 bytes: use layOutPackedRing')
    }
    const position = positionOf(index)
    const wrap = wrapOf(index)
    if (position >= size || wrap > 1) {
      throw new RangeError(`index ${index}: a position in the ring of ${size}, with its wrap counter as bit 15, is wanted`)
    }
    this.layout = layout
    this.size = size
    this.#eventIdx = eventIdx
    this.#inOrder = inOrder

    const ring = memory.view(layout.descriptorAddress, descriptorTableBytes(size))
    this.#words = new Uint32Array(ring)
    this.#halves = new Uint16Array(ring)
    this.#driverEvent = new Int32Array(memory.view(layout.availableAddress, EVENT_SUPPRESSION_BYTES))
    this.#deviceEvent = new Int32Array(memory.view(layout.usedAddress, EVENT_SUPPRESSION_BYTES))

    this.#tableSegments = indirect?.segments ?? 0
    this.#tablesAddress = indirect?.address ?? 0
    if (indirect !== undefined) {
      this.#tables = new Uint32Array(memory.view(indirect.address, indirectTableBytes(size, indirect.segments)))
    }

    this.segmentAddress = new Float64Array(Math.max(size, this.#tableSegments))
    this.segmentLength = new Uint32Array(this.segmentAddress.length)
    this.#nextId = Uint16Array.from({ length: size }, (_, id) => (id + 1) % size)
    this.#countOf = new Uint16Array(size)
    this.#tokenOf = new Float64Array(size)
    this.#freeCount = size
    this.#writableOf = new Float64Array(inOrder ? size : 0)

    this.#nextAvailable = this.#published = this.#nextUsed = position
    this.#publishedWrap = wrap
    this.#availableMarks = wrap === 1 ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED
    this.#usedMarks = wrap === 1 ? MARKS : 0
    this.#clear()
  }

  /** As a ring looks in which all before this position was used in this lap, and all from it on in the lap before. */
  #clear (): void {
    this.#words.fill(0)
    for (let position = 0; position < this.size; position++) {
      const marks = position < this.#nextUsed ? this.#usedMarks : this.#usedMarks ^ MARKS
      Atomics.store(this.#halves, position * DESC_HALVES + DESC_FLAGS, marks)
    }
    Atomics.store(this.#deviceEvent, 0, EVENT_FLAGS_ENABLE << 16)
    Atomics.store(this.#driverEvent, 0, this.#interruptWish())
  }

  get freeDescriptors (): number {
    return this.#freeCount
  }

  get inFlight (): number {
    return this.#inFlight
  }

  get nextHead (): number {
    return this.#freeId
  }

  get usedIndex (): number {
    return indexOf(this.#nextUsed, this.#usedMarks === 0 ? 0 : 1)
  }

  get broken (): boolean {
    return this.#broken
  }

  addChain (readable: number, writable: number, token = 0): number {
    const segments = readable + writable
    const indirect = segments > 1 && segments <= this.#tableSegments
    const count = indirect ? 1 : segments
    if (segments === 0 || count > this.size) throw badChain(this, segments)
    if (count > this.#freeCount) return RING_FULL

    const id = this.#freeId
    if (indirect) this.#writeTable(id, readable, segments)
    else this.#writeChain(id, readable, segments)
    this.#freeId = this.#nextId[id]
    this.#freeCount -= count
    this.#countOf[id] = count
    this.#tokenOf[id] = token
    this.#inFlight++
    if (this.#inOrder) this.#noteWritable(id, readable, segments)
    return id
  }

  add (readable: readonly Segment[], writable: readonly Segment[], token = 0): number {
    return addSegments(this, readable, writable, token)
  }

  #writeChain (id: number, readable: number, segments: number): void {
    for (let segment = 0; segment < segments; segment++) {
      const flags = (segment < readable ? 0 : VIRTQ_DESC_F_WRITE) | (segment + 1 < segments ? VIRTQ_DESC_F_NEXT : 0)
      this.#append(this.segmentAddress[segment], this.segmentLength[segment], id, flags)
    }
  }

  /** Tables have no NEXT: the length says how many descriptors there are (2.8.7). */
  #writeTable (id: number, readable: number, segments: number): void {
    const first = id * this.#tableSegments
    for (let segment = 0; segment < segments; segment++) {
      const flags = segment < readable ? 0 : VIRTQ_DESC_F_WRITE
      describe(this.#tables!, first + segment, this.segmentAddress[segment], this.segmentLength[segment], flags << 16)
    }
    this.#append(this.#tablesAddress + first * VIRTQ_DESC_BYTES, segments * VIRTQ_DESC_BYTES, id, VIRTQ_DESC_F_INDIRECT)
  }

  #append (address: number, length: number, id: number, flags: number): void {
    const at = this.#nextAvailable
    const marked = flags | this.#availableMarks
    if (this.#unpublished++ === 0) {
      this.#firstFlagsAt = at * DESC_HALVES + DESC_FLAGS
      this.#firstFlags = marked
      const notYet = this.#halves[this.#firstFlagsAt]
      describe(this.#words, at, address, length, id | notYet << 16)
    } else {
      describe(this.#words, at, address, length, id | marked << 16)
    }
    this.#nextAvailable = at + 1
    if (this.#nextAvailable === this.size) {
      this.#nextAvailable = 0
      this.#availableMarks ^= MARKS
    }
  }

  #noteWritable (id: number, readable: number, segments: number): void {
    let bytes = 0
    for (let segment = readable; segment < segments; segment++) bytes += this.segmentLength[segment]
    this.#writableOf[id] = bytes
  }

  publish (): void {
    if (this.#unpublished === 0) return
    this.#unkicked += this.#unpublished
    this.#unpublished = 0
    this.#published = this.#nextAvailable
    this.#publishedWrap = this.#availableMarks === VIRTQ_DESC_F_AVAIL ? 1 : 0
    Atomics.store(this.#halves, this.#firstFlagsAt, this.#firstFlags)
  }

  needsKick (): boolean {
    const added = this.#unkicked
    this.#unkicked = 0
    if (added === 0) return false
    const event = Atomics.load(this.#deviceEvent, 0)
    const flags = event >>> 16 & 3
    if (flags !== EVENT_FLAGS_DESC || !this.#eventIdx) return flags !== EVENT_FLAGS_DISABLE
    // How far the position that the device waits for lies behind us: with the other wrap counter, in the lap before.
    const lap = wrapOf(event & 0xffff) === this.#publishedWrap ? 0 : this.size
    const behind = this.#published + lap - positionOf(event)
    return behind > 0 && behind <= added
  }

  pollUsed (): number {
    if (this.#broken) return USED_RING_BROKEN
    if (this.#inOrder) return this.#takeInOrder()
    if (!this.#isUsed()) return NOTHING_USED
    const id = this.#halves[this.#nextUsed * DESC_HALVES + DESC_ID]
    if (id >= this.size || this.#countOf[id] === 0) return this.#break()
    // Taken for what it says with or without the WRITE flag: QEMU's devices do not set it.
    this.usedLength = this.#words[this.#nextUsed * DESC_WORDS + DESC_LENGTH]
    this.#take(id)
    this.#nextId[id] = this.#freeId
    this.#freeId = id
    return id
  }

  #isUsed (): boolean {
    return (Atomics.load(this.#halves, this.#nextUsed * DESC_HALVES + DESC_FLAGS) & MARKS) === this.#usedMarks
  }

  /** The next chain of a batch, for which the device wrote one descriptor: that of the last one, in the first one's place. */
  #takeInOrder (): number {
    if (this.#batchLast === NO_BATCH) {
      if (!this.#isUsed()) return NOTHING_USED
      if (!this.#beginBatch()) return this.#break()
    }
    const id = this.#oldest
    this.usedLength = this.#writableOf[id]
    if (id === this.#batchLast) {
      this.usedLength = this.#batchLength
      this.#batchLast = NO_BATCH
    }
    this.#take(id)
    this.#oldest = this.#nextId[id]
    return id
  }

  #beginBatch (): boolean {
    const last = this.#halves[this.#nextUsed * DESC_HALVES + DESC_ID]
    if (last >= this.size || this.#countOf[last] === 0) return false
    this.#batchLast = last
    this.#batchLength = this.#words[this.#nextUsed * DESC_WORDS + DESC_LENGTH]
    return true
  }

  #take (id: number): void {
    const count = this.#countOf[id]
    this.usedToken = this.#tokenOf[id]
    this.#countOf[id] = 0
    this.#freeCount += count
    this.#inFlight--
    this.#nextUsed += count
    if (this.#nextUsed >= this.size) {
      this.#nextUsed -= this.size
      this.#usedMarks ^= MARKS
    }
  }

  #break (): number {
    this.#broken = true
    return USED_RING_BROKEN
  }

  /** The driver's event structure for "interrupt at the next used chain". */
  #interruptWish (): number {
    return this.#eventIdx ? this.usedIndex | EVENT_FLAGS_DESC << 16 : EVENT_FLAGS_ENABLE << 16
  }

  enableInterrupts (): 'empty' | 'more' {
    if (this.#broken) return 'empty'
    Atomics.store(this.#driverEvent, 0, this.#interruptWish())
    return this.#batchLast !== NO_BATCH || this.#isUsed() ? 'more' : 'empty'
  }

  disableInterrupts (): void {
    Atomics.store(this.#driverEvent, 0, EVENT_FLAGS_DISABLE << 16)
  }
}
