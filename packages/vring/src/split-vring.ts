import { type GuestMemory, WINDOW_BYTES } from '@node-vmm/hostmem'
import { viewMemory } from '@node-vmm/libc'
import { addressOf } from './address.ts'
import { CHAIN_DESCRIPTORS_MAX, type DescriptorChain } from './descriptor-chain.ts'
import { VringError, type VringFault, type VringFaultCode } from './errors.ts'
import {
  availableRingBytes, descriptorTableBytes, needsEvent, usedRingBytes,
  VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTQ_AVAIL_ALIGNMENT, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_ALIGNMENT, VIRTQ_DESC_BYTES, VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_SIZE_MAX, VIRTQ_USED_ALIGNMENT, VIRTQ_USED_F_NO_NOTIFY
} from './layout.ts'
import type { PopResult, Virtqueue, VirtqueueState } from './virtqueue.ts'

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

/** Where a split ring is and how it works: what the driver told the device at set-up. */
export interface SplitVringInit {
  /** Entries: a power of two, 1 to 32768. */
  readonly size: number
  /** Guest address of the descriptor table, a multiple of 16. */
  readonly descriptorAddress: number
  /** Guest address of the available ring, a multiple of 2. */
  readonly availableAddress: number
  /** Guest address of the used ring, a multiple of 4. */
  readonly usedAddress: number
  /** Negotiated feature bits; INDIRECT_DESC, EVENT_IDX and NOTIFY_ON_EMPTY matter here. @default 0n */
  readonly features?: bigint
  /** The available-ring index to begin with: the vring base. @default 0 */
  readonly availableIndex?: number
  /** The used-ring index to begin with. @default what the used ring says */
  readonly usedIndex?: number
}

/** The device's side of a split virtqueue (virtio 1.2, 2.7). */
export class SplitVring implements Virtqueue {
  readonly size: number
  readonly #mask: number
  readonly #indirect: boolean
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
  /** Next index to push. */
  #usedIndex: number
  /** The used index at the last decision to interrupt. */
  #signalledIndex = 0
  /** False until the first decision: the driver's event word means nothing before. */
  #signalled = false
  /** Elements published since the last decision: past 65535 the indices alone cannot tell. */
  #unsignalled = 0
  readonly #heads: Uint8Array
  readonly #tableAddress = new Float64Array(1)
  #inFlight = 0
  #fault: VringFault | undefined

  /** @throws VringError for a size, an address or an index that cannot be a ring's */
  constructor (memory: GuestMemory, init: SplitVringInit) {
    const { size, descriptorAddress, availableAddress, usedAddress, features = 0n } = init
    if (!Number.isInteger(size) || size < 1 || size > VIRTQ_SIZE_MAX || (size & (size - 1)) !== 0) {
      throw new VringError('ERR_RING_SIZE', `a split ring has a power of two of entries, up to ${VIRTQ_SIZE_MAX}: not ${size}`)
    }
    this.size = size
    this.#mask = size - 1
    this.#indirect = hasFeature(features, VIRTIO_F_INDIRECT_DESC)
    this.#eventIdx = hasFeature(features, VIRTIO_F_EVENT_IDX)
    this.#notifyOnEmpty = hasFeature(features, VIRTIO_F_NOTIFY_ON_EMPTY)

    const table: Part = { name: 'descriptor table', address: descriptorAddress, length: descriptorTableBytes(size), alignment: VIRTQ_DESC_ALIGNMENT }
    const available: Part = { name: 'available ring', address: availableAddress, length: availableRingBytes(size, this.#eventIdx), alignment: VIRTQ_AVAIL_ALIGNMENT }
    const used: Part = { name: 'used ring', address: usedAddress, length: usedRingBytes(size, this.#eventIdx), alignment: VIRTQ_USED_ALIGNMENT }
    checkDisjoint([table, available, used])
    this.#descriptors = new Int32Array(openPart(memory, table, false))
    this.#available = new Uint16Array(openPart(memory, available, false))
    const usedBuffer = openPart(memory, used, true)
    this.#used = new Uint16Array(usedBuffer)
    this.#usedElements = new Uint32Array(usedBuffer, 0, USED_RING + 2 * size)

    this.#heads = new Uint8Array(size)
    this.#availableIndex = checkIndex(init.availableIndex ?? 0)
    this.#availableSeen = this.#availableIndex
    this.#usedIndex = checkIndex(init.usedIndex ?? Atomics.load(this.#used, INDEX))
  }

  get inFlight (): number {
    return this.#inFlight
  }

  get fault (): VringFault | undefined {
    return this.#fault
  }

  pop (chain: DescriptorChain): PopResult {
    if (this.#fault !== undefined) return 'broken'
    if (this.#availableIndex === this.#availableSeen) {
      const seen = Atomics.load(this.#available, INDEX)
      const pending = (seen - this.#availableIndex) & INDEX_MASK
      if (pending === 0) return 'empty'
      if (pending > this.size) {
        return this.#break('available-index-jump', `the available index went from ${this.#availableIndex} to ${seen}, more than the ring's ${this.size} entries`)
      }
      this.#availableSeen = seen
    }
    const head = this.#available[AVAIL_RING + (this.#availableIndex & this.#mask)]!
    if (head >= this.size) return this.#break('head-out-of-range', `head ${head} in a ring of ${this.size} entries`, head)
    if (this.#heads[head] !== 0) return this.#break('head-in-flight', `head ${head} was made available while it is in flight`, head)
    chain.begin(head)
    if (!this.#walk(chain, head)) return 'broken'
    this.#heads[head] = 1
    this.#inFlight++
    this.#availableIndex = (this.#availableIndex + 1) & INDEX_MASK
    return 'chain'
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
      if ((word & VIRTQ_DESC_F_INDIRECT) !== 0) return this.#walkIndirect(chain, low, high, length, word)
      if (!this.#append(chain, low, high, length, word)) return false
      if ((word & VIRTQ_DESC_F_NEXT) === 0) return true
      index = word >>> 16
      if (index >= this.size) return this.#refuse('next-out-of-range', `next descriptor ${index} in a ring of ${this.size} entries`, head)
    }
    return this.#refuse('descriptor-loop', `the chain of head ${head} has more descriptors than the ring: it loops`, head)
  }

  /** Copies the rest of the chain from a table in guest memory. The descriptor's own WRITE flag means nothing (2.7.5.3.2). */
  #walkIndirect (chain: DescriptorChain, low: number, high: number, length: number, flags: number): boolean {
    const { head, memory } = chain
    if (!this.#indirect) return this.#refuse('indirect-not-negotiated', 'an indirect descriptor without the feature', head)
    if ((flags & VIRTQ_DESC_F_NEXT) !== 0) return this.#refuse('indirect-with-next', 'an indirect descriptor with a next one (2.7.5.3.1)', head)
    const bytes = length >>> 0
    if (bytes === 0 || bytes % VIRTQ_DESC_BYTES !== 0 || bytes > CHAIN_DESCRIPTORS_MAX * VIRTQ_DESC_BYTES) {
      return this.#refuse('indirect-length', `an indirect table of ${bytes} bytes: wanted are 1 to ${CHAIN_DESCRIPTORS_MAX} descriptors of 16`, head)
    }
    const count = bytes / VIRTQ_DESC_BYTES
    const address = addressOf(low, high)
    this.#tableAddress[0] = address
    const region = memory.findAt(this.#tableAddress, 0)
    if (region < 0) return this.#refuse('address-unmapped', 'an indirect table outside guest memory', head)
    if (bytes <= memory.ends[region]! - address) {
      // One region: the window shows the whole table, since it overlaps the next by more than the longest one.
      const window = memory.windowAt(region, this.#tableAddress, 0)
      return this.#walkTable(chain, window, (address - memory.starts[region]!) & (WINDOW_BYTES - 1), count)
    }
    if (memory.slices(address, bytes, false) === undefined) return this.#refuse('address-unmapped', 'an indirect table outside guest memory', head)
    return this.#walkTable(chain, new DataView(memory.read(address, bytes).buffer), 0, count)
  }

  #walkTable (chain: DescriptorChain, table: DataView, start: number, count: number): boolean {
    const { head } = chain
    let index = 0
    for (let budget = count; budget > 0; budget--) {
      const at = start + index * VIRTQ_DESC_BYTES
      const low = table.getInt32(at, true)
      const high = table.getInt32(at + 4, true)
      const length = table.getInt32(at + 8, true)
      const word = table.getInt32(at + 12, true)
      if ((word & VIRTQ_DESC_F_INDIRECT) !== 0) return this.#refuse('indirect-nested', 'an indirect descriptor in an indirect table', head)
      if (!this.#append(chain, low, high, length, word)) return false
      if ((word & VIRTQ_DESC_F_NEXT) === 0) return true
      index = word >>> 16
      if (index >= count) return this.#refuse('next-out-of-range', `next descriptor ${index} in an indirect table of ${count}`, head)
    }
    return this.#refuse('descriptor-loop', `the indirect table of head ${head} loops`, head)
  }

  #append (chain: DescriptorChain, low: number, high: number, length: number, flags: number): boolean {
    const { head } = chain
    const failure = chain.append(low, high, length, (flags & VIRTQ_DESC_F_WRITE) !== 0)
    if (failure !== undefined) {
      return this.#refuse(failure, `the chain of head ${head}: ${failure.replaceAll('-', ' ')}, ${length >>> 0} bytes at 0x${addressOf(low, high).toString(16)}`, head)
    }
    // What a used element's length cannot say (2.7.5).
    if (chain.readableBytes + chain.writableBytes > 0xffffffff) return this.#refuse('chain-too-long', `the chain of head ${head} has 2^32 bytes or more`, head)
    return true
  }

  push (head: number, written: number): void {
    if (this.#heads[head] !== 1) throw new VringError('ERR_NOT_IN_FLIGHT', `head ${head} is not in flight`)
    this.#heads[head] = 0
    this.#inFlight--
    if (this.#fault !== undefined) return
    const at = USED_RING + 2 * (this.#usedIndex & this.#mask)
    this.#usedElements[at] = head
    this.#usedElements[at + 1] = written
    this.#usedIndex = (this.#usedIndex + 1) & INDEX_MASK
    this.#unsignalled++
  }

  publish (): void {
    if (this.#fault === undefined) Atomics.store(this.#used, INDEX, this.#usedIndex)
  }

  moreAvailable (): boolean {
    return this.#availableIndex !== this.#availableSeen || Atomics.load(this.#available, INDEX) !== this.#availableIndex
  }

  disableNotification (): void {
    // With EVENT_IDX there is nothing to do: the event that was passed stays behind, and asks for no further kick.
    if (!this.#eventIdx && this.#fault === undefined) Atomics.store(this.#used, FLAGS, VIRTQ_USED_F_NO_NOTIFY)
  }

  enableNotification (): 'empty' | 'more' {
    if (this.#fault !== undefined) return 'empty'
    if (this.#eventIdx) Atomics.store(this.#used, 2 + 4 * this.size, this.#availableIndex)
    else Atomics.store(this.#used, FLAGS, 0)
    return this.moreAvailable() ? 'more' : 'empty'
  }

  shouldNotify (): boolean {
    if (this.#fault !== undefined) return false
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
    this.#break('device-refused', message, head)
  }

  save (): VirtqueueState {
    return { availableIndex: this.#availableIndex, usedIndex: this.#usedIndex }
  }

  reset (): void {
    this.#availableIndex = this.#availableSeen = this.#usedIndex = this.#signalledIndex = 0
    this.#signalled = false
    this.#unsignalled = 0
    this.#heads.fill(0)
    this.#inFlight = 0
    this.#fault = undefined
  }

  #refuse (code: VringFaultCode, message: string, head: number): false {
    this.#break(code, message, head)
    return false
  }

  #break (code: VringFaultCode, message: string, head?: number): 'broken' {
    this.#fault ??= { code, message, head }
    return 'broken'
  }
}

interface Part {
  readonly name: string
  readonly address: number
  readonly length: number
  readonly alignment: number
}

function hasFeature (features: bigint, bit: number): boolean {
  return (features >> BigInt(bit) & 1n) === 1n
}

function checkIndex (index: number): number {
  if (!Number.isInteger(index) || index < 0 || index > INDEX_MASK) {
    throw new VringError('ERR_RING_INDEX', `a ring's index is an integer from 0 to 65535: not ${index}`)
  }
  return index
}

function checkDisjoint (parts: readonly Part[]): void {
  const sorted = [...parts].sort((one, other) => one.address - other.address)
  for (let index = 1; index < sorted.length; index++) {
    const [lower, upper] = [sorted[index - 1]!, sorted[index]!]
    if (lower.address + lower.length > upper.address) {
      throw new VringError('ERR_RING_OVERLAP', `the ${lower.name} reaches into the ${upper.name} at 0x${upper.address.toString(16)}`)
    }
  }
}

/** A view over exactly one part of the ring. */
function openPart (memory: GuestMemory, { name, address, length, alignment }: Part, write: boolean): ArrayBuffer {
  const host = memory.translate(address, length, write)
  const where = `the ${name} of ${length} bytes at guest address 0x${address.toString(16)}`
  if (host === 0) throw new VringError('ERR_RING_MEMORY', `${where} is not in one region of ${write ? 'writable ' : ''}guest memory`)
  // The host address too: a region whose file offset is odd shifts what is aligned for the guest.
  if (address % alignment !== 0 || host % alignment !== 0) {
    throw new VringError('ERR_RING_ALIGNMENT', `${where} is not a multiple of ${alignment}`)
  }
  return viewMemory(host, length)
}
