import type { DirtyLog, GuestMemory } from '@node-vmm/hostmem'
import { ChainBuilder } from './chain-builder.ts'
import { CompletionOrder } from './completion-order.ts'
import type { DescriptorChain } from './descriptor-chain.ts'
import { VringError, type VringFault } from './errors.ts'
import type { InflightRecord } from './inflight-record.ts'
import {
  availableRingBytes, descriptorTableBytes, hasFeature, needsEvent, usedRingBytes,
  VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTQ_AVAIL_ALIGNMENT, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_ALIGNMENT, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT,
  VIRTQ_SIZE_MAX, VIRTQ_USED_ALIGNMENT, VIRTQ_USED_ELEM_BYTES, VIRTQ_USED_F_NO_NOTIFY
} from './layout.ts'
import { checkDisjoint, openPart, type RingPart } from './ring-part.ts'
import type { PopResult, Virtqueue, VirtqueueState, VringInit } from './virtqueue.ts'

// The hot path. Its invariants:
// - The driver may change any byte at any moment. A descriptor is read once, into locals, and judged as read.
// - Indices, flags and event words of the rings go through Atomics: sequentially consistent, which the store of an
//   event word followed by the load of the peer's index needs. Ring entries are plain accesses ordered by them.
// - The device's own indices are its own: what the driver writes over the used ring changes nothing here.
// - Every step of a walk spends from a budget, so that no chain can hold the device.
// - Nothing is allocated for a chain; only a fault, or an indirect table that straddles regions, makes an object. What
//   may be above 2^31 is passed on as a signed 32-bit integer or in a Float64Array: as an argument it would be an object.

// Places in the rings, in 16-bit words; and in the used ring's elements, in 32-bit words.
const FLAGS = 0
const INDEX = 1
const AVAIL_RING = 2
const USED_RING = 1
const INDEX_MASK = 0xffff
// What `#heads` says of a head: 0 it is the driver's, 1 in flight, or complete but not its turn (IN_ORDER).
const COMPLETED = 2

/** Who else is told what the device does to a ring. */
export interface VringObservers {
  /** Keeps what is in flight beyond the end of this process. @default nobody */
  readonly record?: InflightRecord | undefined
  /** Marks the ring's own writes for a migration. @default nobody */
  readonly log?: {
    /** Where they are marked. */
    readonly dirty: DirtyLog
    /** Guest address that the used ring is marked at. */
    readonly usedAddress: number
  } | undefined
}

/** The device's side of a split virtqueue (virtio 1.2, 2.7). */
export class SplitVring implements Virtqueue {
  readonly size: number
  readonly #mask: number
  readonly #eventIdx: boolean
  readonly #notifyOnEmpty: boolean

  readonly #descriptors: Int32Array
  readonly #available: Uint16Array
  readonly #used: Uint16Array
  readonly #usedElements: Uint32Array

  /** Next index to pop. */
  #availableIndex: number
  /** The driver's available index when last looked at: up to there no new look is needed. */
  #availableSeen: number
  /** With EVENT_IDX: the driver was asked to kick since it was last asked not to. */
  #wantsKick = false
  /** Next index to push. */
  #usedIndex: number
  /** The used index at the last decision to interrupt. */
  #signalledIndex = 0
  /** False until the first decision: the driver's event word means nothing before. */
  #signalled = false
  /** Elements published since the last decision: past 65535 the indices alone cannot tell. */
  #unsignalled = 0
  readonly #heads: Uint8Array
  #inFlight = 0
  readonly #builder: ChainBuilder
  /** With IN_ORDER only. */
  readonly #order: CompletionOrder | undefined
  readonly #record: InflightRecord | undefined
  readonly #log: VringObservers['log']
  /** Heads that an earlier process had taken and not given back: popped again first, the oldest at the end. */
  #again: number[] | undefined

  /**
   * With a record of an earlier process the ring begins where that one ended: `availableIndex` is found out, and what
   * was in flight is popped again, in its old order.
   *
   * @throws VringError ERR_RING_SIZE, ERR_RING_ALIGNMENT, ERR_RING_MEMORY, ERR_RING_OVERLAP, ERR_RING_INDEX
   */
  constructor (memory: GuestMemory, init: VringInit, { record, log }: VringObservers = {}) {
    const { size, descriptorAddress, availableAddress, usedAddress, features = 0n } = init
    if (!Number.isInteger(size) || size < 1 || size > VIRTQ_SIZE_MAX || (size & (size - 1)) !== 0) {
      throw new VringError('ERR_RING_SIZE', `a split ring has a power of two of entries, up to ${VIRTQ_SIZE_MAX}: not ${size}`)
    }
    this.size = size
    this.#mask = size - 1
    this.#builder = new ChainBuilder(hasFeature(features, VIRTIO_F_INDIRECT_DESC))
    this.#order = hasFeature(features, VIRTIO_F_IN_ORDER) ? new CompletionOrder(size) : undefined
    this.#eventIdx = hasFeature(features, VIRTIO_F_EVENT_IDX)
    this.#notifyOnEmpty = hasFeature(features, VIRTIO_F_NOTIFY_ON_EMPTY)

    const table: RingPart = { name: 'descriptor table', address: descriptorAddress, length: descriptorTableBytes(size), alignment: VIRTQ_DESC_ALIGNMENT }
    const available: RingPart = { name: 'available ring', address: availableAddress, length: availableRingBytes(size, this.#eventIdx), alignment: VIRTQ_AVAIL_ALIGNMENT }
    const used: RingPart = { name: 'used ring', address: usedAddress, length: usedRingBytes(size, this.#eventIdx), alignment: VIRTQ_USED_ALIGNMENT }
    checkDisjoint([table, available, used])
    this.#descriptors = new Int32Array(openPart(memory, table, false))
    this.#available = new Uint16Array(openPart(memory, available, false))
    const usedBuffer = openPart(memory, used, true)
    this.#used = new Uint16Array(usedBuffer)
    this.#usedElements = new Uint32Array(usedBuffer, 0, USED_RING + 2 * size)

    this.#heads = new Uint8Array(size)
    this.#record = record
    this.#log = log
    this.#usedIndex = checkIndex(init.usedIndex ?? Atomics.load(this.#used, INDEX))
    this.#availableIndex = checkIndex(init.availableIndex ?? 0)
    const again = record?.recover(this.#usedIndex)
    if (again !== undefined) this.#availableIndex = (this.#usedIndex + again.length) & INDEX_MASK
    if (again !== undefined && again.length > 0) this.#again = again.reverse()
    this.#availableSeen = this.#availableIndex
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
    if (this.#availableIndex === this.#availableSeen) {
      const seen = Atomics.load(this.#available, INDEX)
      const pending = (seen - this.#availableIndex) & INDEX_MASK
      if (pending === 0) return 'empty'
      if (pending > this.size) {
        return this.#builder.break('available-index-jump', `the available index went from ${this.#availableIndex} to ${seen}, more than the ring's ${this.size} entries`)
      }
      this.#availableSeen = seen
    }
    const head = this.#available[AVAIL_RING + (this.#availableIndex & this.#mask)]!
    if (head >= this.size) return this.#builder.break('head-out-of-range', `head ${head} in a ring of ${this.size} entries`, head)
    if (this.#heads[head] !== 0) return this.#builder.break('head-in-flight', `head ${head} was made available while it is in flight`, head)
    if (!this.#take(chain, head)) return 'broken'
    if (this.#record !== undefined) this.#record.popped(head)
    this.#availableIndex = (this.#availableIndex + 1) & INDEX_MASK
    return 'chain'
  }

  /** It stays recorded as it was: another process, should this one end as well, finds the same order. */
  #popAgain (chain: DescriptorChain, again: number[]): PopResult {
    const head = again.pop()!
    if (again.length === 0) this.#again = undefined
    return this.#take(chain, head) ? 'chain' : 'broken'
  }

  #take (chain: DescriptorChain, head: number): boolean {
    chain.begin(head)
    if (!this.#walk(chain, head)) return false
    this.#heads[head] = 1
    this.#inFlight++
    if (this.#order !== undefined) this.#order.popped(head)
    return true
  }

  /** Copies the chain that begins at `head`. @returns false when it broke the ring */
  #walk (chain: DescriptorChain, head: number): boolean {
    const descriptors = this.#descriptors
    let index = head
    for (let budget = this.size; budget > 0; budget--) {
      const at = index << 2
      const low = descriptors[at]!
      const high = descriptors[at + 1]!
      const length = descriptors[at + 2]!
      const word = descriptors[at + 3]!
      if ((word & VIRTQ_DESC_F_INDIRECT) !== 0) return this.#builder.appendTable(chain, low, high, length, word, true)
      if (!this.#builder.append(chain, low, high, length, word)) return false
      if ((word & VIRTQ_DESC_F_NEXT) === 0) return true
      index = word >>> 16
      if (index >= this.size) return this.#builder.refuse('next-out-of-range', `next descriptor ${index} in a ring of ${this.size} entries`, head)
    }
    return this.#builder.refuse('descriptor-loop', `the chain of head ${head} has more descriptors than the ring: it loops`, head)
  }

  push (head: number, written: number): void {
    if (this.#heads[head] !== 1) throw new VringError('ERR_NOT_IN_FLIGHT', `head ${head} is not in flight`)
    this.#heads[head] = this.#order === undefined ? 0 : COMPLETED
    this.#inFlight--
    if (this.#builder.fault !== undefined) return
    if (this.#order === undefined) return this.#stage(head, written)
    this.#order.completed(head, written)
    for (let next = this.#order.next(); next >= 0; next = this.#order.next()) {
      this.#heads[next] = 0
      this.#stage(next, this.#order.take(next))
    }
  }

  #stage (head: number, written: number): void {
    if (this.#record !== undefined) this.#record.staged(head)
    const at = USED_RING + 2 * (this.#usedIndex & this.#mask)
    this.#usedElements[at] = head
    this.#usedElements[at + 1] = written
    if (this.#log !== undefined) this.#log.dirty.mark(this.#log.usedAddress + at * 4, VIRTQ_USED_ELEM_BYTES)
    this.#usedIndex = (this.#usedIndex + 1) & INDEX_MASK
    this.#unsignalled++
  }

  publish (): void {
    if (this.#builder.fault !== undefined) return
    if (this.#record !== undefined) this.#record.publishing()
    Atomics.store(this.#used, INDEX, this.#usedIndex)
    if (this.#record !== undefined) this.#record.published(this.#usedIndex)
    if (this.#log !== undefined) this.#log.dirty.mark(this.#log.usedAddress, 4)
  }

  moreAvailable (): boolean {
    return this.#again !== undefined || this.#availableIndex !== this.#availableSeen || Atomics.load(this.#available, INDEX) !== this.#availableIndex
  }

  countAvailable (max: number): number {
    const seen = Atomics.load(this.#available, INDEX)
    const pending = (seen - this.#availableIndex) & INDEX_MASK
    // One that jumped is for `pop` to refuse.
    if (pending <= this.size) this.#availableSeen = seen
    return Math.min(max, (this.#again?.length ?? 0) + pending)
  }

  prefetch (memory: GuestMemory, max: number): void {
    const descriptors = this.#descriptors
    if (this.#availableIndex === this.#availableSeen) this.countAvailable(max)
    const count = Math.min((this.#availableSeen - this.#availableIndex) & INDEX_MASK, max)
    for (let ahead = 0; ahead < count; ahead++) {
      const head = this.#available[AVAIL_RING + ((this.#availableIndex + ahead) & this.#mask)]!
      if (head >= this.size) return
      const at = head << 2
      if ((descriptors[at + 3]! & VIRTQ_DESC_F_INDIRECT) !== 0) this.#builder.touchTable(memory, descriptors[at]!, descriptors[at + 1]!)
    }
  }

  disableNotification (): void {
    if (this.#builder.fault !== undefined) return
    if (!this.#eventIdx) {
      Atomics.store(this.#used, FLAGS, VIRTQ_USED_F_NO_NOTIFY)
    } else if (this.#wantsKick) {
      this.#wantsKick = false
      // An event that was passed asks for no further kick: either by what is available, or it is put behind.
      if (!this.moreAvailable()) this.#storeAvailableEvent(this.#availableIndex - 1)
    }
  }

  enableNotification (): 'empty' | 'more' {
    if (this.#builder.fault !== undefined) return 'empty'
    if (this.#eventIdx) {
      this.#wantsKick = true
      this.#storeAvailableEvent(this.#availableIndex)
    } else {
      Atomics.store(this.#used, FLAGS, 0)
    }
    return this.moreAvailable() ? 'more' : 'empty'
  }

  /** The driver kicks when it passes this index. */
  #storeAvailableEvent (index: number): void {
    Atomics.store(this.#used, 2 + 4 * this.size, index)
  }

  shouldNotify (): boolean {
    if (this.#builder.fault !== undefined) return false
    const published = this.#unsignalled
    const first = !this.#signalled
    const old = this.#signalledIndex
    this.#signalled = true
    this.#signalledIndex = this.#usedIndex
    this.#unsignalled = 0
    if (published === 0) return false
    if (this.#notifyOnEmpty && this.#inFlight === 0 && !this.moreAvailable()) return true
    if (!this.#eventIdx) return (Atomics.load(this.#available, FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0
    if (first || published > INDEX_MASK) return true
    return needsEvent(Atomics.load(this.#available, AVAIL_RING + this.size), this.#usedIndex, old)
  }

  break (message: string, head?: number): void {
    this.#builder.break('device-refused', message, head)
  }

  save (): VirtqueueState {
    return { availableIndex: this.#availableIndex, usedIndex: this.#usedIndex }
  }

  reset (): void {
    this.#availableIndex = this.#availableSeen = this.#usedIndex = this.#signalledIndex = 0
    this.#signalled = this.#wantsKick = false
    this.#unsignalled = 0
    this.#heads.fill(0)
    this.#inFlight = 0
    this.#again = undefined
    this.#order?.clear()
    this.#builder.fault = undefined
  }
}

function checkIndex (index: number): number {
  if (!Number.isInteger(index) || index < 0 || index > INDEX_MASK) {
    throw new VringError('ERR_RING_INDEX', `a ring's index is an integer from 0 to 65535: not ${index}`)
  }
  return index
}
