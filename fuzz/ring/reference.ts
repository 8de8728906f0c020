import {
  CHAIN_DESCRIPTORS_MAX, EVENT_FLAGS_DESC, EVENT_FLAGS_DISABLE, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_USED, VIRTQ_DESC_F_WRITE, VIRTQ_USED_F_NO_NOTIFY
} from '@node-vmm/vring'
import type { RingLayout } from '@node-vmm/vring/driver'
import type { GuestImage, GuestRange } from '../guest-image.ts'

// The device's side of a virtqueue as one reads it in virtio 1.2, 2.7 and 2.8, without a thought of speed: what the real
// one is compared with, call by call and byte by byte. What it writes, it writes to a `GuestImage`.

/** Descriptors that straddle regions become several segments, of which a chain has room for so many. */
const SEGMENTS_MAX = CHAIN_DESCRIPTORS_MAX + 64

/** A chain as the device should see it. */
export interface ReferenceChain {
  readonly readable: readonly GuestRange[]
  readonly writable: readonly GuestRange[]
}

/** What was agreed on. */
export interface ReferenceFeatures {
  readonly indirect: boolean
  readonly eventIdx: boolean
  readonly inOrder: boolean
}

export type ReferencePop = ReferenceChain | 'empty' | 'broken'

interface Descriptor {
  readonly address: bigint
  readonly length: number
  /** The last two 16-bit words: flags and next where the ring is split, id and flags where it is packed. */
  readonly words: readonly [number, number]
}

interface Completion {
  readonly written: number
}

/** What both layouts have in common. */
export abstract class Reference {
  readonly image: GuestImage
  readonly layout: RingLayout
  readonly features: ReferenceFeatures
  broken = false
  /** By head, as the real device numbers it: in the order of their pops. */
  readonly inFlight = new Map<number, Completion | undefined>()
  /** Pushed, and shown with the next publish. */
  staged = 0

  constructor (image: GuestImage, layout: RingLayout, features: ReferenceFeatures) {
    this.image = image
    this.layout = layout
    this.features = features
  }

  /** Chains that were popped and not pushed. */
  get outstanding (): number[] {
    return [...this.inFlight].filter(([, completion]) => completion === undefined).map(([head]) => head)
  }

  abstract moreAvailable (): boolean
  abstract pop (): ReferencePop
  /** The real device popped what `pop` gave, and calls it so. */
  abstract popped (head: number): void
  abstract publish (): void
  abstract enableNotification (): void
  abstract disableNotification (): void
  /** What `shouldNotify` is to answer; undefined where either is right. */
  abstract shouldNotify (): boolean | undefined
  protected abstract stage (head: number, written: number): void

  push (head: number, written: number): void {
    this.inFlight.set(head, { written })
    for (const [next, completion] of [...this.inFlight]) {
      if (completion === undefined && this.features.inOrder) return
      if (completion === undefined) continue
      this.inFlight.delete(next)
      if (!this.broken) this.stage(next, completion.written)
    }
  }

  reset (): void {
    this.inFlight.clear()
    this.broken = false
    this.staged = 0
  }

  protected descriptor (table: number, index: number): Descriptor {
    const bytes = this.image.read(table + 16 * index, 16)
    return { address: bytes.readBigUInt64LE(0), length: bytes.readUInt32LE(8), words: [bytes.readUInt16LE(12), bytes.readUInt16LE(14)] }
  }

  /** Adds a descriptor's buffer, or its table's. @returns false when the chain is malformed */
  protected add (chain: ChainBuilder, { address, length }: Descriptor, flags: number, isPacked: boolean): boolean {
    if ((flags & VIRTQ_DESC_F_INDIRECT) === 0) return chain.add(address, length, (flags & VIRTQ_DESC_F_WRITE) !== 0)
    if (!this.features.indirect || (flags & VIRTQ_DESC_F_NEXT) !== 0) return false
    const count = length / 16
    if (count < 1 || !Number.isInteger(count) || count > CHAIN_DESCRIPTORS_MAX) return false
    if (this.image.ranges(address, length, false) === undefined) return false
    let index = 0
    for (let walked = 0; walked < count; walked++) {
      const inner = this.descriptor(Number(address), index)
      const innerFlags = inner.words[isPacked ? 1 : 0]!
      if ((innerFlags & VIRTQ_DESC_F_INDIRECT) !== 0) return false
      if (!chain.add(inner.address, inner.length, (innerFlags & VIRTQ_DESC_F_WRITE) !== 0)) return false
      if (!isPacked && (innerFlags & VIRTQ_DESC_F_NEXT) === 0) return true
      index = isPacked ? index + 1 : inner.words[1]
      if (!isPacked && index >= count) return false
    }
    return isPacked
  }

  protected breaks (): 'broken' {
    this.broken = true
    return 'broken'
  }
}

class ChainBuilder implements ReferenceChain {
  readonly readable: GuestRange[] = []
  readonly writable: GuestRange[] = []
  readonly #image: GuestImage
  #bytes = 0

  constructor (image: GuestImage) {
    this.#image = image
  }

  add (address: bigint, length: number, write: boolean): boolean {
    if (!write && this.writable.length > 0) return false
    const ranges = this.#image.ranges(address, length, write)
    if (ranges === undefined) return false
    const list = write ? this.writable : this.readable
    list.push(...ranges)
    this.#bytes += length
    return this.#bytes < 2 ** 32 && this.readable.length + this.writable.length <= SEGMENTS_MAX
  }
}

/** Virtio 1.2, 2.7. */
export class SplitReference extends Reference {
  availableIndex: number
  usedIndex: number
  /** Up to here the device knows what is available, whatever the driver says meanwhile. */
  #seen: number
  /** Indices that were published since the last decision; undefined before the first one. */
  #passed: number[] = []
  #decided = false
  #wantsKick = false

  constructor (image: GuestImage, layout: RingLayout, features: ReferenceFeatures, availableIndex: number, usedIndex: number) {
    super(image, layout, features)
    this.availableIndex = this.#seen = availableIndex
    this.usedIndex = usedIndex
  }

  get #driverIndex (): number {
    return this.image.get16(this.layout.availableAddress + 2)
  }

  moreAvailable (): boolean {
    return this.#seen !== this.availableIndex || this.#driverIndex !== this.availableIndex
  }

  pop (): ReferencePop {
    if (this.broken) return 'broken'
    const { size, availableAddress, descriptorAddress } = this.layout
    if (this.availableIndex === this.#seen) {
      const pending = (this.#driverIndex - this.availableIndex) & 0xffff
      if (pending === 0) return 'empty'
      if (pending > size) return this.breaks()
      this.#seen = this.#driverIndex
    }
    const head = this.image.get16(availableAddress + 4 + this.availableIndex % size * 2)
    if (head >= size || this.inFlight.has(head)) return this.breaks()
    const chain = new ChainBuilder(this.image)
    let index = head
    for (let walked = 0; walked < size; walked++) {
      const descriptor = this.descriptor(descriptorAddress, index)
      const [flags, next] = descriptor.words
      if (!this.add(chain, descriptor, flags, false)) return this.breaks()
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return chain
      if (next >= size) return this.breaks()
      index = next
    }
    return this.breaks()
  }

  /** The head that the next pop is to give. */
  get nextHead (): number {
    return this.image.get16(this.layout.availableAddress + 4 + this.availableIndex % this.layout.size * 2)
  }

  popped (head: number): void {
    this.inFlight.set(head, undefined)
    this.availableIndex = (this.availableIndex + 1) & 0xffff
  }

  protected stage (head: number, written: number): void {
    const at = this.layout.usedAddress + 4 + this.usedIndex % this.layout.size * 8
    this.image.set32(at, head)
    this.image.set32(at + 4, written)
    this.#passed.push(this.usedIndex)
    this.usedIndex = (this.usedIndex + 1) & 0xffff
    this.staged++
  }

  publish (): void {
    if (this.broken) return
    this.image.set16(this.layout.usedAddress + 2, this.usedIndex)
    this.staged = 0
  }

  enableNotification (): void {
    if (this.broken) return
    this.#wantsKick = true
    if (this.features.eventIdx) this.#setAvailableEvent(this.availableIndex)
    else this.image.set16(this.layout.usedAddress, 0)
  }

  disableNotification (): void {
    if (this.broken) return
    if (!this.features.eventIdx) this.image.set16(this.layout.usedAddress, VIRTQ_USED_F_NO_NOTIFY)
    else if (this.#wantsKick && !this.moreAvailable()) this.#setAvailableEvent((this.availableIndex - 1) & 0xffff)
    this.#wantsKick = false
  }

  #setAvailableEvent (index: number): void {
    const { usedAddress, size } = this.layout
    this.image.set16(usedAddress + 4 + 8 * size, index)
  }

  shouldNotify (): boolean {
    if (this.broken) return false
    const { availableAddress, size } = this.layout
    const isFirst = !this.#decided
    const passed = this.#passed.splice(0)
    this.#decided = true
    if (passed.length === 0) return false
    if (!this.features.eventIdx) return (this.image.get16(availableAddress) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0
    return isFirst || passed.includes(this.image.get16(availableAddress + 4 + 2 * size))
  }

  override reset (): void {
    super.reset()
    this.availableIndex = this.usedIndex = this.#seen = 0
    this.#passed = []
    this.#decided = this.#wantsKick = false
  }
}

/** Virtio 1.2, 2.8. */
export class PackedReference extends Reference {
  available: number
  used: number
  readonly #chains = new Map<number, { id: number, count: number }>()
  /** Of what the last `pop` gave. */
  #taken = { id: 0, count: 0, after: 0 }
  /** The flags of the first descriptor of the batch, and where they go: written last. */
  #firstFlags: [address: number, flags: number] | undefined
  #passed: number[] = []
  #decided = false

  /** @param available, used positions with their wrap counter as bit 15 */
  constructor (image: GuestImage, layout: RingLayout, features: ReferenceFeatures, available: number, used: number) {
    super(image, layout, features)
    this.available = available
    this.used = used
  }

  #after (index: number): number {
    const position = (index & 0x7fff) + 1
    return position === this.layout.size ? (index & 0x8000) ^ 0x8000 : position | (index & 0x8000)
  }

  moreAvailable (): boolean {
    const flags = this.image.get16(this.layout.descriptorAddress + 16 * (this.available & 0x7fff) + 14)
    const wrap = this.available >>> 15 === 1
    return ((flags & VIRTQ_DESC_F_AVAIL) !== 0) === wrap && ((flags & VIRTQ_DESC_F_USED) !== 0) === !wrap
  }

  pop (): ReferencePop {
    if (this.broken) return 'broken'
    if (!this.moreAvailable()) return 'empty'
    const chains = [...this.#chains.values()]
    const free = this.layout.size - chains.reduce((sum, { count }) => sum + count, 0)
    const chain = new ChainBuilder(this.image)
    let at = this.available
    for (let count = 1; count <= free; count++) {
      const descriptor = this.descriptor(this.layout.descriptorAddress, at & 0x7fff)
      const [id, flags] = descriptor.words
      at = this.#after(at)
      if (!this.add(chain, descriptor, flags, true)) return this.breaks()
      if ((flags & VIRTQ_DESC_F_NEXT) !== 0) continue
      if (chains.some((other) => other.id === id)) return this.breaks()
      this.#taken = { id, count, after: at }
      return chain
    }
    return this.breaks()
  }

  popped (head: number): void {
    const { id, count, after } = this.#taken
    this.inFlight.set(head, undefined)
    this.#chains.set(head, { id, count })
    this.available = after
  }

  protected stage (head: number, written: number): void {
    const { id, count } = this.#chains.get(head)!
    const at = this.layout.descriptorAddress + 16 * (this.used & 0x7fff)
    const flags = (this.used >>> 15 === 1 ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0) | (written > 0 ? VIRTQ_DESC_F_WRITE : 0)
    this.image.set32(at + 8, written)
    this.image.set16(at + 12, id)
    if (this.#firstFlags === undefined) this.#firstFlags = [at + 14, flags]
    else this.image.set16(at + 14, flags)
    for (let passed = 0; passed < count; passed++) {
      this.#passed.push(this.used)
      this.used = this.#after(this.used)
    }
    this.staged++
  }

  override push (head: number, written: number): void {
    super.push(head, written)
    for (const chain of this.#chains.keys()) if (!this.inFlight.has(chain)) this.#chains.delete(chain)
  }

  publish (): void {
    this.staged = 0
    if (this.#firstFlags !== undefined && !this.broken) this.image.set16(...this.#firstFlags)
    this.#firstFlags = undefined
  }

  enableNotification (): void {
    if (this.broken) return
    const { usedAddress } = this.layout
    if (this.features.eventIdx) this.image.set16(usedAddress, this.available)
    this.image.set16(usedAddress + 2, this.features.eventIdx ? EVENT_FLAGS_DESC : 0)
  }

  disableNotification (): void {
    if (!this.broken) this.image.set16(this.layout.usedAddress + 2, EVENT_FLAGS_DISABLE)
  }

  shouldNotify (): boolean | undefined {
    if (this.broken) return false
    const { availableAddress, size } = this.layout
    const isFirst = !this.#decided
    const passed = this.#passed.splice(0)
    this.#decided = true
    if (passed.length === 0) return false
    const flags = this.image.get16(availableAddress + 2) & 3
    if (flags === EVENT_FLAGS_DISABLE) return false
    if (flags !== EVENT_FLAGS_DESC || !this.features.eventIdx || isFirst) return true
    const event = this.image.get16(availableAddress)
    // More than a lap at once is not told apart: a device asks after each batch.
    return (event & 0x7fff) >= size || passed.length > size ? undefined : passed.includes(event)
  }

  override reset (): void {
    super.reset()
    this.available = this.used = 0x8000
    this.#chains.clear()
    this.#firstFlags = undefined
    this.#passed = []
    this.#decided = false
  }
}
