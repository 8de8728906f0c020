import type { DirtyLog, GuestMemory } from '@node-vmm/hostmem'
import { ChainBuilder } from './chain-builder.ts'
import { CompletionOrder } from './completion-order.ts'
import type { DescriptorChain } from './descriptor-chain.ts'
import { VringError, type VringFault } from './errors.ts'
import {
  hasFeature, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTQ_DESC_ALIGNMENT, VIRTQ_DESC_BYTES, VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_SIZE_MAX
} from './layout.ts'
import { advance, positionOf, wrapOf } from './packed-index.ts'
import type { PackedInflightRecord, PackedRecovery, RecordedChain } from './packed-inflight-record.ts'
import {
  EVENT_FLAGS_DESC, EVENT_FLAGS_DISABLE, EVENT_FLAGS_ENABLE, EVENT_SUPPRESSION_ALIGNMENT, EVENT_SUPPRESSION_BYTES,
  PACKED_RING_START, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED
} from './packed-layout.ts'
import { checkDisjoint, openPart, type RingPart } from './ring-part.ts'
import type { PopResult, Virtqueue, VirtqueueState, VringInit } from './virtqueue.ts'

// The hot path of packed rings. The invariants of split-vring.ts hold here too; and these:
// - The flags of a chain's first descriptor say that the whole chain is there: they are loaded first, with Atomics.
// - Of a batch of used descriptors the flags of the first one are stored last, with Atomics: the driver sees the batch
//   as a whole or not at all.
// - A chain is known by a slot of the device's own, not by its place in the ring, which the driver may use again while
//   the chain is in flight, nor by its buffer id, which the driver chooses.

// Places in a descriptor, in 16-bit words.
const DESC_WORDS = 8
const DESC_ID = 6
const DESC_FLAGS = 7
// Of the same descriptor, the 32-bit words.
const RING_WORDS = 4
// Places in an event suppression structure, in 16-bit words.
const EVENT_OFFSET = 0
const EVENT_FLAGS = 1

const BUFFER_IDS = 0x10000

// Where a chain is: with the driver, with the device, or complete but not its turn (IN_ORDER).
const FREE = 0
const IN_FLIGHT = 1
const COMPLETED = 2

/** Who else is told what the device does to a packed ring. */
export interface PackedVringObservers {
  /** Keeps what is in flight beyond the end of this process. @default nobody */
  readonly record?: PackedInflightRecord | undefined
  /** Marks the ring's own writes for a migration, at their own addresses. @default nobody */
  readonly log?: DirtyLog | undefined
}

/** The device's side of a packed virtqueue (virtio 1.2, 2.8). */
export class PackedVring implements Virtqueue {
  readonly size: number
  readonly #eventIdx: boolean
  readonly #builder: ChainBuilder
  /** With IN_ORDER only. */
  readonly #order: CompletionOrder | undefined
  /** Marks the ring's own writes for a migration. */
  readonly #log: DirtyLog | undefined
  readonly #address: number
  readonly #record: PackedInflightRecord | undefined
  /** What an earlier process had taken and not given back: popped again first, the oldest at the end. */
  #again: RecordedChain[] | undefined

  readonly #words: Int32Array
  readonly #halves: Uint16Array
  readonly #driverEvent: Uint16Array
  readonly #deviceEvent: Uint16Array

  /** Where the next chain is popped, and where the next one is pushed. */
  #available: number
  #used: number
  /** Where the batch that is not published yet begins, and the flags to store there; none when `#staged` is 0. */
  #batchPosition = 0
  #batchFlags = 0
  #staged = 0
  /** Descriptors passed since the last decision to interrupt. */
  #unsignalled = 0
  #signalled = false

  // Of each chain, by slot: its buffer id, how many descriptors of the ring it took, and where it is.
  readonly #idOf: Uint16Array
  readonly #countOf: Uint16Array
  readonly #stateOf: Uint8Array
  /** From `#slotsTaken` on: the slots that are free. */
  readonly #freeSlots: Uint16Array
  #slotsTaken = 0
  #inFlight = 0
  /** Descriptors of the ring that belong to chains in flight. */
  #taken = 0
  readonly #idsInFlight = new Uint8Array(BUFFER_IDS)

  /**
   * With a record of an earlier process the ring begins where that one ended, whatever `availableIndex` and `usedIndex`
   * say: of a ring whose device was killed, nobody but its record knows. What was in flight is popped again, in its old order.
   *
   * @throws VringError ERR_RING_SIZE, ERR_RING_ALIGNMENT, ERR_RING_MEMORY, ERR_RING_OVERLAP, ERR_RING_INDEX
   */
  constructor (memory: GuestMemory, init: VringInit, { record, log }: PackedVringObservers = {}) {
    const { size, descriptorAddress, availableAddress, usedAddress, features = 0n, availableIndex = PACKED_RING_START, usedIndex = availableIndex } = init
    if (!Number.isInteger(size) || size < 1 || size > VIRTQ_SIZE_MAX) {
      throw new VringError('ERR_RING_SIZE', `a packed ring has 1 to ${VIRTQ_SIZE_MAX} descriptors: not ${size}`)
    }
    this.size = size
    this.#eventIdx = hasFeature(features, VIRTIO_F_EVENT_IDX)
    this.#builder = new ChainBuilder(hasFeature(features, VIRTIO_F_INDIRECT_DESC))
    this.#order = hasFeature(features, VIRTIO_F_IN_ORDER) ? new CompletionOrder(size) : undefined
    this.#record = record
    this.#log = log

    const ring: RingPart = { name: 'descriptor ring', address: descriptorAddress, length: VIRTQ_DESC_BYTES * size, alignment: VIRTQ_DESC_ALIGNMENT }
    const driver: RingPart = { name: 'driver event structure', address: availableAddress, length: EVENT_SUPPRESSION_BYTES, alignment: EVENT_SUPPRESSION_ALIGNMENT }
    const device: RingPart = { name: 'device event structure', address: usedAddress, length: EVENT_SUPPRESSION_BYTES, alignment: EVENT_SUPPRESSION_ALIGNMENT }
    checkDisjoint([ring, driver, device])
    this.#address = descriptorAddress
    const buffer = openPart(memory, ring, true)
    this.#words = new Int32Array(buffer)
    this.#halves = new Uint16Array(buffer)
    this.#driverEvent = new Uint16Array(openPart(memory, driver, false))
    this.#deviceEvent = new Uint16Array(openPart(memory, device, true))

    this.#available = this.#checkIndex(availableIndex)
    this.#used = this.#checkIndex(usedIndex)
    this.#idOf = new Uint16Array(size)
    this.#countOf = new Uint16Array(size)
    this.#stateOf = new Uint8Array(size)
    this.#freeSlots = Uint16Array.from({ length: size }, (_, slot) => slot)
    const recovery = record?.recover(usedIndex, (index) => this.#isUsed(index))
    if (recovery !== undefined) this.#goOn(recovery)
  }

  #isUsed (index: number): boolean {
    return ((this.#halves[flagsAt(index)]! & VIRTQ_DESC_F_USED) !== 0) === (wrapOf(index) === 1)
  }

  /** What is in flight lies between the used index and the available one. */
  #goOn ({ usedIndex, chains }: PackedRecovery): void {
    this.#available = this.#used = usedIndex
    this.#taken = chains.reduce((sum, { descriptors }) => sum + descriptors.length / RING_WORDS, 0)
    for (let left = this.#taken; left > 0; left--) {
      this.#takeBack(this.#available)
      this.#available = advance(this.#available, 1, this.size)
    }
    if (chains.length > 0) this.#again = chains.reverse()
  }

  /**
   * A device that was killed with a batch staged has marked all but its first descriptor as used. Once this one uses the
   * first, the driver would believe the others.
   */
  #takeBack (index: number): void {
    if (!this.#isUsed(index)) return
    this.#halves[flagsAt(index)]! ^= VIRTQ_DESC_F_USED
    if (this.#log !== undefined) this.#log.mark(this.#address + positionOf(index) * VIRTQ_DESC_BYTES, VIRTQ_DESC_BYTES)
  }

  #checkIndex (index: number): number {
    if (!Number.isInteger(index) || index < 0 || index > 0xffff || positionOf(index) >= this.size) {
      throw new VringError('ERR_RING_INDEX', `a position in a packed ring of ${this.size} descriptors, with its wrap counter as bit 15: not ${index}`)
    }
    return index
  }

  get inFlight (): number {
    return this.#inFlight
  }

  get fault (): VringFault | undefined {
    return this.#builder.fault
  }

  pop (chain: DescriptorChain): PopResult {
    if (this.#builder.fault !== undefined) return 'broken'
    if (this.#again !== undefined) return this.#popAgain(chain, this.#again)
    if (!this.moreAvailable()) return 'empty'
    // The slots are as many as the ring has descriptors, and no chain has none: one is free.
    const slot = this.#freeSlots[this.#slotsTaken]!
    chain.begin(slot)
    return this.#walk(chain, slot) ? 'chain' : 'broken'
  }

  #popAgain (chain: DescriptorChain, again: RecordedChain[]): PopResult {
    const { entry, descriptors } = again.pop()!
    if (again.length === 0) this.#again = undefined
    const slot = this.#freeSlots[this.#slotsTaken]!
    chain.begin(slot)
    for (let at = 0; at < descriptors.length; at += RING_WORDS) {
      if (!this.#append(chain, descriptors[at]!, descriptors[at + 1]!, descriptors[at + 2]!, descriptors[at + 3]! >>> 16)) return 'broken'
    }
    if (!this.#take(slot, descriptors.at(-1)! & 0xffff, descriptors.length / RING_WORDS)) return 'broken'
    this.#record!.poppedAgain(slot, entry)
    return 'chain'
  }

  moreAvailable (): boolean {
    return this.#again !== undefined || isAvailable(Atomics.load(this.#halves, flagsAt(this.#available)), this.#available)
  }

  countAvailable (max: number): number {
    let chains = this.#again?.length ?? 0
    let continues = false
    let index = this.#available
    for (let left = this.size; left > 0 && chains < max; left--) {
      const flags = Atomics.load(this.#halves, flagsAt(index))
      // Of a chain, only the first descriptor says whether it is available.
      if (!continues && !isAvailable(flags, index)) break
      continues = (flags & VIRTQ_DESC_F_NEXT) !== 0
      if (!continues) chains++
      index = advance(index, 1, this.size)
    }
    return Math.min(chains, max)
  }

  prefetch (memory: GuestMemory, max: number): void {
    const words = this.#words
    let index = this.#available
    for (let left = Math.min(max, this.size); left > 0; left--) {
      const at = positionOf(index) * RING_WORDS
      const flags = words[at + 3]! >>> 16
      if (!isAvailable(flags, index)) return
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) this.#builder.touchTable(memory, words[at]!, words[at + 1]!)
      index = advance(index, 1, this.size)
    }
  }

  /** Copies the chain at the available index, and moves on behind it. The id stands in the last descriptor. */
  #walk (chain: DescriptorChain, slot: number): boolean {
    const builder = this.#builder
    const words = this.#words
    let index = this.#available
    for (let count = 1; this.#taken + count <= this.size; count++) {
      const at = positionOf(index) * RING_WORDS
      const low = words[at]!
      const high = words[at + 1]!
      const length = words[at + 2]!
      const word = words[at + 3]!
      const flags = word >>> 16
      index = advance(index, 1, this.size)
      if (!this.#append(chain, low, high, length, flags)) return false
      // None is free where a driver makes available what it was not told of yet.
      if (this.#record !== undefined && !this.#record.describe(low, high, length, word)) break
      if ((flags & VIRTQ_DESC_F_NEXT) !== 0) continue
      if (!this.#take(slot, word & 0xffff, count)) return false
      if (this.#record !== undefined) this.#record.popped(slot, count)
      this.#taken += count
      this.#available = index
      return true
    }
    return builder.refuse('descriptor-loop', `a chain has more descriptors than the ring has free`, slot)
  }

  #append (chain: DescriptorChain, low: number, high: number, length: number, flags: number): boolean {
    if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) return this.#builder.appendTable(chain, low, high, length, flags, false)
    return this.#builder.append(chain, low, high, length, flags)
  }

  #take (slot: number, id: number, count: number): boolean {
    if (this.#idsInFlight[id] !== 0) return this.#builder.refuse('head-in-flight', `buffer ${id} was made available while it is in flight`, slot)
    this.#idsInFlight[id] = 1
    this.#idOf[slot] = id
    this.#countOf[slot] = count
    if (this.#order !== undefined) this.#order.popped(slot)
    this.#stateOf[slot] = IN_FLIGHT
    this.#slotsTaken++
    this.#inFlight++
    return true
  }

  push (head: number, written: number): void {
    if (this.#stateOf[head] !== IN_FLIGHT) throw new VringError('ERR_NOT_IN_FLIGHT', `chain ${head} is not in flight`)
    this.#stateOf[head] = COMPLETED
    this.#inFlight--
    if (this.#order === undefined) return this.#stage(head, written)
    this.#order.completed(head, written)
    for (let next = this.#order.next(); next >= 0; next = this.#order.next()) this.#stage(next, this.#order.take(next))
  }

  #stage (slot: number, written: number): void {
    const count = this.#countOf[slot]!
    const id = this.#idOf[slot]!
    this.#stateOf[slot] = FREE
    this.#idsInFlight[id] = 0
    this.#taken -= count
    this.#freeSlots[--this.#slotsTaken] = slot
    if (this.#builder.fault !== undefined) return
    if (this.#record !== undefined) this.#record.staged(slot)
    const at = positionOf(this.#used) * DESC_WORDS
    this.#words[(at >>> 1) + 2] = written
    this.#halves[at + DESC_ID] = id
    const flags = (wrapOf(this.#used) === 1 ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0) | (written > 0 ? VIRTQ_DESC_F_WRITE : 0)
    if (this.#staged === 0) {
      this.#batchPosition = at + DESC_FLAGS
      this.#batchFlags = flags
    } else {
      this.#halves[at + DESC_FLAGS] = flags
    }
    if (this.#log !== undefined) this.#log.mark(this.#address + at * 2, VIRTQ_DESC_BYTES)
    this.#staged++
    this.#unsignalled += count
    this.#used = advance(this.#used, count, this.size)
  }

  publish (): void {
    if (this.#staged === 0) return
    this.#staged = 0
    if (this.#builder.fault !== undefined) return
    if (this.#record !== undefined) this.#record.publishing(this.#used)
    Atomics.store(this.#halves, this.#batchPosition, this.#batchFlags)
    if (this.#record !== undefined) this.#record.published()
    if (this.#log !== undefined) this.#log.mark(this.#address + this.#batchPosition * 2, 2)
  }

  disableNotification (): void {
    if (this.#builder.fault === undefined) Atomics.store(this.#deviceEvent, EVENT_FLAGS, EVENT_FLAGS_DISABLE)
  }

  enableNotification (): 'empty' | 'more' {
    if (this.#builder.fault !== undefined) return 'empty'
    if (this.#eventIdx) {
      Atomics.store(this.#deviceEvent, EVENT_OFFSET, this.#available)
      Atomics.store(this.#deviceEvent, EVENT_FLAGS, EVENT_FLAGS_DESC)
    } else {
      Atomics.store(this.#deviceEvent, EVENT_FLAGS, EVENT_FLAGS_ENABLE)
    }
    return this.moreAvailable() ? 'more' : 'empty'
  }

  shouldNotify (): boolean {
    if (this.#builder.fault !== undefined) return false
    const passed = this.#unsignalled
    const first = !this.#signalled
    this.#unsignalled = 0
    this.#signalled = true
    if (passed === 0) return false
    const flags = Atomics.load(this.#driverEvent, EVENT_FLAGS) & 3
    if (flags === EVENT_FLAGS_DISABLE) return false
    if (flags !== EVENT_FLAGS_DESC || !this.#eventIdx || first) return true
    return this.#passedEvent(Atomics.load(this.#driverEvent, EVENT_OFFSET), passed)
  }

  /** Whether the last `passed` descriptors reached the position that the driver waits for. */
  #passedEvent (event: number, passed: number): boolean {
    // Counted from the start of this lap: an event with the other wrap counter stands in the lap before.
    const lap = wrapOf(event) === wrapOf(this.#used) ? 0 : this.size
    const behind = positionOf(this.#used) - 1 - (positionOf(event) - lap)
    return behind >= 0 && behind < passed
  }

  break (message: string, head?: number): void {
    this.#builder.break('device-refused', message, head)
  }

  save (): VirtqueueState {
    return { availableIndex: this.#available, usedIndex: this.#used }
  }

  reset (): void {
    this.#available = this.#used = PACKED_RING_START
    this.#staged = this.#unsignalled = this.#inFlight = this.#slotsTaken = this.#taken = 0
    this.#signalled = false
    this.#stateOf.fill(FREE)
    this.#order?.clear()
    this.#idsInFlight.fill(0)
    this.#again = undefined
    this.#record?.begin(PACKED_RING_START)
    this.#freeSlots.forEach((_, slot, slots) => { slots[slot] = slot })
    this.#builder.fault = undefined
  }
}

/** Where the ring has the flags of the descriptor at this index, in 16-bit words. */
function flagsAt (index: number): number {
  return positionOf(index) * DESC_WORDS + DESC_FLAGS
}

/** A descriptor is available when its two flags differ, and the driver was on the index's lap when it made it so (virtio 1.2, 2.8.1). */
function isAvailable (flags: number, index: number): boolean {
  const available = (flags & VIRTQ_DESC_F_AVAIL) !== 0
  const used = (flags & VIRTQ_DESC_F_USED) !== 0
  return available !== used && available === (wrapOf(index) === 1)
}
