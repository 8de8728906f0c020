import {
  CHAIN_DESCRIPTORS_MAX, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_USED, VIRTQ_DESC_F_WRITE
} from '@node-vmm/vring'
import type { RingLayout } from '@node-vmm/vring/driver'
import type { Random } from '../random.ts'

/** Where what a driver offers may be. */
export interface Places {
  /** Guest ranges, in one region or across, that the device may write, and others that it may only read. */
  readonly writable: readonly (readonly [start: number, end: number])[]
  readonly readable: readonly (readonly [start: number, end: number])[]
  /** Where tables of descriptors go. */
  readonly tables: readonly (readonly [start: number, end: number])[]
  readonly rings: readonly (readonly [start: number, end: number])[]
}

/** How a driver writes to guest memory. */
export type Poke = (address: number, bytes: Uint8Array) => void

interface Buffer {
  address: bigint
  length: number
  flags: number
}

const NASTY_ADDRESSES = [0n, 1n, 0xfffffffffffffff0n, 0xffffffffffffffffn, 1n << 53n, (1n << 53n) - 16n, 1n << 63n, 0x7fff_ffff_f000n]
const NASTY_LENGTHS = [0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff0]

/**
 * A driver that mostly does as it should, and seldom not: each field of what it writes is now and then another. What it
 * keeps in mind of the ring is that of an honest one.
 */
export abstract class HostileDriver {
  protected readonly layout: RingLayout
  protected readonly places: Places
  protected readonly poke: Poke
  /** How seldom a field is broken: once in so many. */
  protected readonly brokenOneIn: number
  protected readonly indirect: boolean

  constructor (layout: RingLayout, places: Places, poke: Poke, brokenOneIn: number, indirect: boolean) {
    this.layout = layout
    this.places = places
    this.poke = poke
    this.brokenOneIn = brokenOneIn
    this.indirect = indirect
  }

  /** Makes a chain available, now or with a later one. @returns what it did, in words */
  abstract add (random: Random): string
  /** The device gave back the oldest chains, or any others: which does not matter to where the ring goes on. */
  abstract gaveBack (descriptors: number): void

  protected rarely (random: Random): boolean {
    return random.oneIn(this.brokenOneIn)
  }

  protected range (random: Random, places: readonly (readonly [number, number])[], longest: number): { address: bigint, length: number } {
    const [start, end] = random.pick(places)
    const length = Math.min(random.oneIn(4) ? random.between(1, longest) : random.between(1, 64), end - start)
    const address = random.oneIn(4) ? random.pick([start, end - length]) : random.between(start, end - length)
    return { address: BigInt(address), length }
  }

  /** Buffers of one chain: first those that the device reads. */
  protected buffers (random: Random, count: number): Buffer[] {
    const readable = random.between(0, count)
    return Array.from({ length: count }, (_, index): Buffer => {
      const write = index >= readable
      const buffer = { ...this.range(random, write ? this.places.writable : this.places.readable, 5000), flags: write ? VIRTQ_DESC_F_WRITE : 0 }
      if (this.rarely(random)) buffer.address = this.nastyAddress(random, buffer.address)
      if (this.rarely(random)) buffer.length = random.oneIn(2) ? random.pick(NASTY_LENGTHS) : random.below(0x20000)
      if (this.rarely(random)) buffer.flags ^= random.pick([VIRTQ_DESC_F_WRITE, VIRTQ_DESC_F_INDIRECT, 8, 0xffff])
      return buffer
    })
  }

  protected nastyAddress (random: Random, good: bigint): bigint {
    if (random.oneIn(3)) return BigInt.asUintN(64, good ^ 1n << BigInt(random.below(64)))
    const edge = random.pick([...this.places.writable, ...this.places.readable, ...this.places.rings])[random.below(2)]!
    return random.oneIn(2) ? random.pick(NASTY_ADDRESSES) : BigInt.asUintN(64, BigInt(edge) + BigInt(random.between(-20, 20)))
  }

  /** Writes a table. @returns the descriptor that names it */
  protected table (random: Random, isPacked: boolean): Buffer {
    const count = random.oneIn(20) ? random.between(1, 64) : random.between(1, 6)
    const [start, end] = random.pick(this.places.tables)
    const address = start + random.below((end - start) / 16 - count) * 16 + (random.oneIn(10) ? random.below(16) : 0)
    this.buffers(random, count).forEach((buffer, index) => {
      const linked = !isPacked && index + 1 < count
      const next = this.rarely(random) ? random.pick([index, 0, count, count + 1, 0xffff]) : index + 1
      const flags = buffer.flags | (linked && !this.rarely(random) ? VIRTQ_DESC_F_NEXT : 0)
      this.write(address + 16 * index, buffer.address, buffer.length, isPacked ? [0, flags] : [flags, next])
    })
    const named = { address: BigInt(address), length: 16 * count, flags: VIRTQ_DESC_F_INDIRECT }
    if (this.rarely(random)) named.length = random.pick([0, 1, 15, 17, 16 * count - 8, 16 * CHAIN_DESCRIPTORS_MAX, 16 * CHAIN_DESCRIPTORS_MAX + 16, 0xfffffff0])
    if (this.rarely(random)) named.address = this.nastyAddress(random, named.address)
    if (this.rarely(random)) named.flags |= random.pick([VIRTQ_DESC_F_WRITE, VIRTQ_DESC_F_NEXT])
    return named
  }

  protected write (at: number, address: bigint, length: number, words: readonly [number, number]): void {
    const bytes = Buffer.alloc(16)
    bytes.writeBigUInt64LE(address, 0)
    bytes.writeUInt32LE(length >>> 0, 8)
    bytes.writeUInt16LE(words[0] & 0xffff, 12)
    bytes.writeUInt16LE(words[1] & 0xffff, 14)
    this.poke(at, bytes)
  }

  protected write16 (at: number, value: number): void {
    this.poke(at, Uint8Array.of(value, value >>> 8))
  }

  /** The chain's descriptors in the ring: buffers, and in the place of the last one maybe a table. */
  protected chain (random: Random, room: number, isPacked: boolean): Buffer[] {
    if (!this.indirect && !this.rarely(random)) return this.buffers(random, random.between(1, Math.min(room, 6)))
    if (random.oneIn(2)) return [this.table(random, isPacked)]
    const buffers = this.buffers(random, random.between(1, Math.min(room, 6)))
    // A table may only follow what the device reads too, unless it has nothing that is read.
    if (random.oneIn(4)) buffers[buffers.length - 1] = this.table(random, isPacked)
    return buffers
  }
}

/** The driver of a split ring. */
export class HostileSplitDriver extends HostileDriver {
  #index: number
  #free: number[]
  readonly #order: number[][] = []

  constructor (layout: RingLayout, places: Places, poke: Poke, brokenOneIn: number, indirect: boolean, index: number) {
    super(layout, places, poke, brokenOneIn, indirect)
    this.#index = index
    this.#free = Array.from({ length: layout.size }, (_, head) => head)
    this.write16(layout.availableAddress + 2, index)
    this.write16(layout.usedAddress + 2, index)
  }

  add (random: Random): string {
    const { size, availableAddress, descriptorAddress } = this.layout
    if (this.#free.length === 0) return 'the ring is full'
    this.#free = random.shuffle(this.#free)
    const buffers = this.chain(random, this.#free.length, false)
    const places = this.#free.splice(0, buffers.length)
    this.#order.push(places)
    buffers.forEach(({ address, length, flags }, index) => {
      const isLinked = index + 1 < buffers.length && !this.rarely(random)
      const next = this.rarely(random) ? random.pick([places[0]!, size, 0xffff, random.below(size)]) : places[index + 1] ?? 0
      this.write(descriptorAddress + 16 * places[index]!, address, length, [flags | (isLinked ? VIRTQ_DESC_F_NEXT : 0), next])
    })
    const head = this.rarely(random) ? random.pick([size, 0xffff, random.below(size)]) : places[0]!
    this.write16(availableAddress + 4 + this.#index % size * 2, head)
    this.#index = (this.#index + 1) & 0xffff
    if (random.oneIn(3)) return `chain ${places.join()} as ${head}, not published yet`
    const index = this.rarely(random) ? random.pick([this.#index + size, this.#index + size + 1, this.#index - 1, random.below(0x10000)]) : this.#index
    this.write16(availableAddress + 2, index & 0xffff)
    return `chain ${places.join()} as ${head}, published up to ${index & 0xffff}`
  }

  gaveBack (): void {
    this.#free.push(...this.#order.shift() ?? [])
  }
}

/** The driver of a packed ring. */
export class HostilePackedDriver extends HostileDriver {
  #position: number
  #wrap: number
  #free: number
  #id = 0

  constructor (layout: RingLayout, places: Places, poke: Poke, brokenOneIn: number, indirect: boolean, index: number) {
    super(layout, places, poke, brokenOneIn, indirect)
    this.#position = index & 0x7fff
    this.#wrap = index >>> 15
    this.#free = layout.size
    for (let position = 0; position < layout.size; position++) {
      // All were used, those before the position in this lap.
      const wrap = position < this.#position ? this.#wrap : this.#wrap ^ 1
      this.write(layout.descriptorAddress + 16 * position, 0n, 0, [0, wrap === 1 ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0])
    }
  }

  add (random: Random): string {
    if (this.#free === 0) return 'the ring is full'
    const buffers = this.chain(random, this.#free, true)
    const id = this.rarely(random) ? random.pick([this.#id - 1, 0xffff, random.below(0x10000)]) & 0xffff : this.#id
    // As many as there can be chains, in turn: an id comes again only when its chain was given back.
    this.#id = (this.#id + 1) % (2 * this.layout.size)
    const from = this.#position
    buffers.forEach(({ address, length, flags }, index) => {
      const isLinked = index + 1 < buffers.length && !this.rarely(random)
      let marks = this.#wrap === 1 ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED
      if (this.rarely(random)) marks ^= random.pick([VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED, VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED])
      this.write(this.layout.descriptorAddress + 16 * this.#position, address, length,
        [id, (flags & ~(VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED)) | (isLinked ? VIRTQ_DESC_F_NEXT : 0) | marks])
      if (++this.#position === this.layout.size) {
        this.#position = 0
        this.#wrap ^= 1
      }
    })
    this.#free -= buffers.length
    return `chain of ${buffers.length} with id ${id} at ${from}`
  }

  gaveBack (descriptors: number): void {
    this.#free = Math.min(this.layout.size, this.#free + descriptors)
  }
}
