import type { GuestMemory } from '@node-vmm/hostmem'
import {
  availableRingBytes, descriptorTableBytes, needsEvent, usedRingBytes, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_USED_F_NO_NOTIFY
} from '../layout.ts'
import {
  addSegments, badChain, describe, type DriverQueue, type DriverRingOptions, indirectTableBytes, NOTHING_USED, RING_FULL,
  type Segment, USED_RING_BROKEN
} from './driver-queue.ts'
import type { RingLayout } from './ring-layout.ts'

const FLAGS = 0
const INDEX = 1
const ENTRIES = 2
const NOT_IN_FLIGHT = -1

/**
 * The driver side of a split virtqueue: see virtio 1.2, 2.7.13. One thread uses it; nothing here allocates.
 *
 * Invariants: a descriptor is either in the free list or part of a chain in flight. The list is private, not read back
 * from the table, so that a device that scribbles there cannot lead the driver astray. With IN_ORDER it is a circle
 * through the table that never changes, as virtio 1.2, 2.7.5.2 wants it. Entries are written before the index that
 * announces them, and read after it; the indices, flags and event words are accessed with `Atomics` only, whose
 * sequential consistency is what "publish, then look whether to kick" relies on.
 */
export class DriverRing implements DriverQueue {
  /** Where it stands. */
  readonly layout: RingLayout
  readonly size: number
  readonly segmentAddress: Float64Array
  readonly segmentLength: Uint32Array
  usedLength = 0
  usedToken = 0

  readonly #eventIdx: boolean
  readonly #inOrder: boolean
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

  // With IN_ORDER only. Of each head: its available index, and how much the device may write for it.
  readonly #indexOf: Uint16Array
  readonly #writableOf: Float64Array
  #oldest = 0
  /** The batch that the device gave back with one element: its last head and that one's length, and the index behind it. */
  #batchLast = 0
  #batchLength = 0
  #batchEnd: number

  /**
   * Clears the ring's memory; the device must not be using it.
   *
   * @throws GuestMemoryError ERR_ACCESS when the ring, or the tables, are not writable memory in one region; RangeError when a
   * part is not aligned.
   */
  constructor (memory: GuestMemory, layout: RingLayout, options: DriverRingOptions = {}) {
    const { eventIdx = false, inOrder = false, indirect, index = 0 } = options
    const { size } = layout
    if (layout.descriptorAddress % 16 !== 0 || layout.availableAddress % 2 !== 0 || layout.usedAddress % 4 !== 0) {
      throw new RangeError('the parts of a ring are aligned to 16, 2 and 4 bytes: use layOutRing')
    }
    this.layout = layout
    this.size = size
    this.#eventIdx = eventIdx
    this.#inOrder = inOrder
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
    this.#next = Uint16Array.from({ length: size }, (_, head) => (head + 1) & this.#mask)
    this.#lastOf = new Int32Array(size).fill(NOT_IN_FLIGHT)
    this.#countOf = new Uint16Array(size)
    this.#tokenOf = new Float64Array(size)
    this.#freeCount = size
    this.#indexOf = new Uint16Array(inOrder ? size : 0)
    this.#writableOf = new Float64Array(inOrder ? size : 0)

    this.#nextAvailable = this.#published = this.#kicked = this.#nextUsed = this.#seenUsed = this.#batchEnd = index
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

  get freeDescriptors (): number {
    return this.#freeCount
  }

  get inFlight (): number {
    return this.#inFlight
  }

  get nextHead (): number {
    return this.#freeHead
  }

  get usedIndex (): number {
    return this.#nextUsed
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

    const head = this.#freeHead
    const last = indirect ? this.#writeTable(head, readable, segments) : this.#writeChain(head, readable, segments)
    this.#freeHead = this.#next[last]
    this.#freeCount -= count
    this.#lastOf[head] = last
    this.#countOf[head] = count
    this.#tokenOf[head] = token
    this.#inFlight++
    if (this.#inOrder) this.#noteOrder(head, readable, segments)

    this.#available[ENTRIES + (this.#nextAvailable & this.#mask)] = head
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff
    return head
  }

  add (readable: readonly Segment[], writable: readonly Segment[], token = 0): number {
    return addSegments(this, readable, writable, token)
  }

  #writeChain (head: number, readable: number, segments: number): number {
    let last = head
    for (let segment = 0, at = head; segment < segments; segment++) {
      last = at
      at = this.#next[last]
      const flags = (segment < readable ? 0 : VIRTQ_DESC_F_WRITE) | (segment + 1 < segments ? VIRTQ_DESC_F_NEXT : 0)
      describe(this.#descriptors, last, this.segmentAddress[segment], this.segmentLength[segment], flags | at << 16)
    }
    return last
  }

  #writeTable (head: number, readable: number, segments: number): number {
    const first = head * this.#tableSegments
    for (let segment = 0; segment < segments; segment++) {
      const flags = (segment < readable ? 0 : VIRTQ_DESC_F_WRITE) | (segment + 1 < segments ? VIRTQ_DESC_F_NEXT : 0)
      describe(this.#tables!, first + segment, this.segmentAddress[segment], this.segmentLength[segment], flags | (segment + 1) << 16)
    }
    describe(this.#descriptors, head, this.#tablesAddress + first * VIRTQ_DESC_BYTES, segments * VIRTQ_DESC_BYTES, VIRTQ_DESC_F_INDIRECT)
    return head
  }

  #noteOrder (head: number, readable: number, segments: number): void {
    this.#indexOf[head] = this.#nextAvailable
    let bytes = 0
    for (let segment = readable; segment < segments; segment++) bytes += this.segmentLength[segment]
    this.#writableOf[head] = bytes
  }

  publish (): void {
    this.#published = this.#nextAvailable
    Atomics.store(this.#available, INDEX, this.#published)
  }

  needsKick (): boolean {
    const before = this.#kicked
    const now = this.#kicked = this.#published
    if (now === before) return false
    if (!this.#eventIdx) return (Atomics.load(this.#usedWords, FLAGS) & VIRTQ_USED_F_NO_NOTIFY) === 0
    const event = Atomics.load(this.#usedWords, this.#availableEvent)
    return needsEvent(event, now, before)
  }

  pollUsed (): number {
    if (this.#nextUsed === this.#seenUsed && !this.#lookForUsed()) return this.#broken ? USED_RING_BROKEN : NOTHING_USED
    if (this.#inOrder) return this.#takeInOrder()
    const element = (this.#nextUsed & this.#mask) * 2
    const head = this.#usedElements[element]
    if (head > this.#mask || this.#lastOf[head] === NOT_IN_FLIGHT) return this.#break()
    this.usedLength = this.#usedElements[element + 1]
    this.#take(head)
    this.#next[this.#lastOf[head]] = this.#freeHead
    this.#freeHead = head
    this.#lastOf[head] = NOT_IN_FLIGHT
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

  /** The next chain of a batch, for which the device wrote one element: that of the last one, in the first one's place (2.7.9). */
  #takeInOrder (): number {
    if (this.#nextUsed === this.#batchEnd && !this.#beginBatch()) return this.#break()
    const head = this.#oldest
    this.usedLength = head === this.#batchLast ? this.#batchLength : this.#writableOf[head]
    this.#take(head)
    this.#oldest = this.#next[this.#lastOf[head]]
    this.#lastOf[head] = NOT_IN_FLIGHT
    return head
  }

  #beginBatch (): boolean {
    const element = (this.#nextUsed & this.#mask) * 2
    const last = this.#usedElements[element]
    if (last > this.#mask || this.#lastOf[last] === NOT_IN_FLIGHT) return false
    const end = (this.#indexOf[last] + 1) & 0xffff
    // A batch is published as a whole: what reaches further than the used index is out of order.
    if (((end - this.#nextUsed) & 0xffff) > ((this.#seenUsed - this.#nextUsed) & 0xffff)) return false
    this.#batchLast = last
    this.#batchLength = this.#usedElements[element + 1]
    this.#batchEnd = end
    return true
  }

  #take (head: number): void {
    this.usedToken = this.#tokenOf[head]
    this.#freeCount += this.#countOf[head]
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff
    this.#inFlight--
  }

  #break (): number {
    this.#broken = true
    this.#seenUsed = this.#nextUsed
    return USED_RING_BROKEN
  }

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
