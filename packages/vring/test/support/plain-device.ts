// Devices in the fewest lines that follow the specification, word by word over a raw ring: what the driver's side is
// compared with. They look at events by listing every place that was passed.
import assert from 'node:assert/strict'
import { type DescriptorChain, EVENT_FLAGS_DESC, EVENT_FLAGS_DISABLE, type Virtqueue } from '../../src/index.ts'
import type { RawPackedRing, RawRing } from '../../src/driver/index.ts'

/** A chain as a device took it from the ring. */
export interface Taken {
  /** What names it among those that the device has. */
  readonly id: number
  /** Descriptors of the ring. */
  readonly count: number
  /** Bytes of each segment. */
  readonly lengths: readonly number[]
  /** How many of them the device reads. */
  readonly readable: number
  /** Guest address of the first segment. */
  readonly address: number
}

/** What the device of a test does. */
export interface PlainDevice {
  take (): Taken | undefined
  /** Gives chains back: with one element, of the last one, which is a batch with IN_ORDER. Shown at once. */
  give (batch: readonly Taken[], written: number): void
  /** Asks for kicks, then looks again. */
  sleep (): 'empty' | 'more'
  /** Whether the driver wants an interrupt for what was given since this was asked. */
  wantsInterrupt (): boolean
}

const [NEXT, WRITE, INDIRECT] = [1, 2, 4]

/** Segments from descriptors that were read somewhere. */
function taken (id: number, count: number, descriptors: { address: bigint, length: number, flags: number }[]): Taken {
  const readable = descriptors.filter(({ flags }) => (flags & WRITE) === 0).length
  return { id, count, readable, lengths: descriptors.map(({ length }) => length), address: Number(descriptors[0]!.address) }
}

export class PlainPackedDevice implements PlainDevice {
  readonly #raw: RawPackedRing
  readonly #eventIdx: boolean
  #available: number
  #used: number
  #passed: number[] = []

  constructor (raw: RawPackedRing, { eventIdx = false, index = 0x8000 } = {}) {
    this.#raw = raw
    this.#eventIdx = eventIdx
    this.#available = this.#used = index
  }

  take (): Taken | undefined {
    if (!this.#raw.isAvailable(this.#available)) return undefined
    const chain = []
    let next = true
    while (next) {
      const descriptor = this.#raw.getDescriptor(this.#available & 0x7fff)
      if (!this.#raw.isAvailable(this.#available)) throw new Error(`descriptor ${this.#available & 0x7fff} of a chain is not available`)
      chain.push(descriptor)
      this.#available = this.#raw.after(this.#available)
      next = (descriptor.flags & NEXT) !== 0
    }
    const { id, flags, address, length } = chain.at(-1)!
    if ((flags & INDIRECT) === 0) return taken(id, chain.length, chain)
    const table = new RawTable(this.#raw, Number(address))
    return taken(id, chain.length, Array.from({ length: length / 16 }, (_, index) => table.readPacked(index)))
  }

  give (batch: readonly Taken[], written: number): void {
    this.#raw.use(this.#used, { id: batch.at(-1)!.id, length: written })
    for (let count = batch.reduce((sum, chain) => sum + chain.count, 0); count > 0; count--) {
      this.#passed.push(this.#used)
      this.#used = this.#raw.after(this.#used)
    }
  }

  sleep (): 'empty' | 'more' {
    this.#raw.deviceEvent({ index: this.#available, flags: this.#eventIdx ? EVENT_FLAGS_DESC : 0 })
    return this.#raw.isAvailable(this.#available) ? 'more' : 'empty'
  }

  wantsInterrupt (): boolean {
    const { index, flags } = this.#raw.getDriverEvent()
    const passed = this.#passed.splice(0)
    if (flags === EVENT_FLAGS_DESC) return passed.includes(index)
    return flags !== EVENT_FLAGS_DISABLE && passed.length > 0
  }
}

class RawTable {
  readonly #raw: RawPackedRing | RawRing
  readonly #address: number

  constructor (raw: RawPackedRing | RawRing, address: number) {
    this.#raw = raw
    this.#address = address
  }

  /** A descriptor of a packed ring's table. */
  readPacked (index: number): { address: bigint, length: number, flags: number } {
    const { memory } = this.#raw
    const at = this.#address + index * 16
    return { address: memory.getUint64(at), length: memory.getUint32(at + 8), flags: memory.getUint16(at + 14) }
  }

  /** A descriptor of a split ring's table. */
  readSplit (index: number): { address: bigint, length: number, flags: number, next: number } {
    const { memory } = this.#raw
    const at = this.#address + index * 16
    return { address: memory.getUint64(at), length: memory.getUint32(at + 8), flags: memory.getUint16(at + 12), next: memory.getUint16(at + 14) }
  }
}

export class PlainSplitDevice implements PlainDevice {
  readonly #raw: RawRing
  readonly #eventIdx: boolean
  #available: number
  #used: number
  #passed: number[] = []

  constructor (raw: RawRing, { eventIdx = false, index = 0 } = {}) {
    this.#raw = raw
    this.#eventIdx = eventIdx
    this.#available = this.#used = index
  }

  take (): Taken | undefined {
    if (this.#raw.getAvailableIndex() === this.#available) return undefined
    const { layout, memory } = this.#raw
    const head = memory.getUint16(layout.availableAddress + 4 + this.#available % layout.size * 2)
    this.#available = (this.#available + 1) & 0xffff
    const chain = this.#walk(layout.descriptorAddress, head)
    const [first] = chain
    const segments = (first!.flags & INDIRECT) === 0 ? chain : this.#walk(Number(first!.address), 0)
    return taken(head, chain.length, segments)
  }

  #walk (address: number, head: number): { address: bigint, length: number, flags: number }[] {
    const table = new RawTable(this.#raw, address)
    const chain = [table.readSplit(head)]
    while ((chain.at(-1)!.flags & NEXT) !== 0) chain.push(table.readSplit(chain.at(-1)!.next))
    return chain
  }

  give (batch: readonly Taken[], written: number): void {
    this.#raw.usedElement(this.#used % this.#raw.layout.size, { id: batch.at(-1)!.id, length: written })
    for (let count = batch.length; count > 0; count--) {
      this.#passed.push(this.#used)
      this.#used = (this.#used + 1) & 0xffff
    }
    this.#raw.usedIndex(this.#used)
  }

  sleep (): 'empty' | 'more' {
    if (this.#eventIdx) this.#raw.availableEvent(this.#available)
    else this.#raw.usedFlags(0)
    return this.#raw.getAvailableIndex() === this.#available ? 'empty' : 'more'
  }

  wantsInterrupt (): boolean {
    const { layout, memory } = this.#raw
    const passed = this.#passed.splice(0)
    if (this.#eventIdx) return passed.includes(memory.getUint16(layout.availableAddress + 4 + layout.size * 2))
    return (memory.getUint16(layout.availableAddress) & 1) === 0 && passed.length > 0
  }
}

/** The device's side of this package, seen as the plain ones are. */
export class VringDevice implements PlainDevice {
  readonly #vring: Virtqueue
  readonly #chain: DescriptorChain

  constructor (vring: Virtqueue, chain: DescriptorChain) {
    this.#vring = vring
    this.#chain = chain
  }

  take (): Taken | undefined {
    const available = this.#vring.countAvailable(Infinity)
    this.#vring.prefetch(this.#chain.memory, Infinity)
    const popped = this.#vring.pop(this.#chain)
    if (popped === 'broken') throw new Error(this.#vring.fault!.message)
    assert.equal(this.#vring.countAvailable(Infinity), popped === 'empty' ? available : available - 1)
    assert.equal(available === 0, popped === 'empty')
    assert.ok(this.#vring.countAvailable(1) <= 1)
    if (popped === 'empty') return undefined
    const { head, readableCount, writableCount, length, guestAddress } = this.#chain
    const segments = readableCount + writableCount
    return { id: head, count: segments, readable: readableCount, lengths: Array.from(length.subarray(0, segments)), address: guestAddress[0]! }
  }

  give (batch: readonly Taken[], written: number): void {
    batch.forEach(({ id, lengths, readable }, index) => {
      const isLast = index + 1 === batch.length
      this.#vring.push(id, isLast ? written : lengths.slice(readable).reduce((sum, length) => sum + length, 0))
    })
    this.#vring.publish()
  }

  sleep (): 'empty' | 'more' {
    return this.#vring.enableNotification()
  }

  wantsInterrupt (): boolean {
    return this.#vring.shouldNotify()
  }
}
