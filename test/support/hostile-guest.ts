// A front-end and the driver of its rings that do as a test likes, well or ill: over a real socket, with memory shared
// with a real server.
import assert from 'node:assert/strict'
import { closeSync, readSync, writeSync } from 'node:fs'
import { GuestMemory, type RegionInit } from '../../packages/hostmem/src/index.ts'
import { eventfd } from '../../packages/libc/src/index.ts'
import { FrontEnd, OFFERED_PROTOCOL_FEATURES, TransportFeature, type VringAddress } from '../../packages/vhost-user/src/index.ts'
import {
  VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
} from '../../packages/virtio-blk/src/index.ts'
import {
  featureMask, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE
} from '../../packages/vring/src/index.ts'
import {
  layOutPackedRing, layOutRing, type RawDescriptor, RawPackedRing, RawRing, packedRingBytes, ringBytes, type RingLayout, type Segment, type UsedElement
} from '../../packages/vring/src/driver/index.ts'
import { eventually } from './eventually.ts'

export type Layout = 'split' | 'packed'

/** Guest address of the memory that has the rings, and behind them the buffers. */
export const MAIN = 0x100000
export const MAIN_BYTES = 0x200000
/** Two regions above 4 GiB that touch each other at `BORDER`: what straddles it is not contiguous for the server. */
export const HIGH = 0x1_8000_0000
export const HIGH_BYTES = 0x10000
export const BORDER = HIGH + HIGH_BYTES
/** Nothing is here, nor behind. */
export const NOWHERE = BORDER + HIGH_BYTES
/** What the front-end calls guest address 0. */
export const USER = 0x7f00_0000_0000
/** Nothing that a device writes as a status. */
export const NO_STATUS = 0xff

/** Where a fresh packed ring begins: position 0, wrap counter 1. */
const PACKED_START = 0x8000

export interface GuestOptions {
  readonly layout: Layout
  /** Descriptors of each ring. @default 16 */
  readonly size?: number
  /** Rings. @default 1 */
  readonly queues?: number
  /** Virtio features beside VERSION_1, INDIRECT_DESC, FLUSH and the layout's. @default 0n */
  readonly features?: bigint
  /** @default those of the server */
  readonly protocolFeatures?: bigint
}

/** A descriptor that is well. */
export interface GoodDescriptor extends Segment {
  readonly flags: number
}

/** The descriptors of a request that is well. */
export type GoodChain = [header: GoodDescriptor, data: GoodDescriptor, status: GoodDescriptor]

/** What came back for a request. */
export interface Answer {
  readonly status: number
  /** Bytes that the device says it wrote. */
  readonly written: number
}

/** A front-end, the memory that it shares, and its rings. */
export class HostileGuest {
  readonly front: FrontEnd
  readonly layout: Layout
  readonly features: bigint
  readonly memory: GuestMemory
  readonly memoryFd: number
  readonly regions: readonly RegionInit[]
  readonly queues: readonly HostileQueue[]
  #free: number

  private constructor (front: FrontEnd, { layout, size = 16, queues = 1, features = 0n }: GuestOptions) {
    this.front = front
    this.layout = layout
    this.features = features | featureMask(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, VIRTIO_BLK_F_FLUSH) | TransportFeature.PROTOCOL_FEATURES |
      (layout === 'packed' ? featureMask(VIRTIO_F_RING_PACKED) : 0n)
    const { memory, fd, regions } = GuestMemory.allocate([
      { guestAddress: MAIN, size: MAIN_BYTES }, { guestAddress: HIGH, size: HIGH_BYTES }, { guestAddress: BORDER, size: HIGH_BYTES }
    ])
    this.memory = memory
    this.memoryFd = fd
    this.regions = regions.map((region) => ({ ...region, userAddress: USER + region.guestAddress }))
    const bytes = Math.max(ringBytes(size), packedRingBytes(size))
    this.queues = Array.from({ length: queues }, (_, index) => new HostileQueue(this, index, layOut(layout, MAIN + index * bytes, size)))
    this.#free = MAIN + queues * bytes
  }

  /** Connects, and agrees on features: nothing else yet. */
  static async open (socket: string, options: GuestOptions): Promise<HostileGuest> {
    const front = FrontEnd.connect(socket)
    const guest = new HostileGuest(front, options)
    try {
      await front.setOwner()
      await front.setProtocolFeatures(options.protocolFeatures ?? OFFERED_PROTOCOL_FEATURES)
      await front.setFeatures(guest.features)
      return guest
    } catch (error) {
      guest.close()
      throw error
    }
  }

  /** Passes the memory, and starts all rings. */
  async start (): Promise<void> {
    await this.front.setMemTable(this.regions)
    for (const queue of this.queues) await queue.start()
  }

  /** The first ring. */
  get queue (): HostileQueue {
    return this.queues[0]!
  }

  /** A piece of guest memory that nothing else uses. */
  allocate (bytes: number): number {
    const address = this.#free
    this.#free = Math.ceil((address + bytes) / 512) * 512
    if (this.#free > MAIN + MAIN_BYTES) throw new Error('the test uses more guest memory than there is')
    return address
  }

  /** Everything from this piece on is free again. */
  rewind (address: number): void {
    this.#free = address
  }

  /** A piece of guest memory with these bytes. */
  place (bytes: Uint8Array): number {
    const address = this.allocate(bytes.length)
    this.memory.write(address, bytes)
    return address
  }

  /** A piece of guest memory, every byte this one. */
  filled (bytes: number, byte = 0xa5): number {
    return this.place(new Uint8Array(bytes).fill(byte))
  }

  /** The header of a request. */
  header (type: number, sector: number | bigint = 0): number {
    const bytes = new DataView(new ArrayBuffer(16))
    bytes.setUint32(0, type, true)
    bytes.setBigUint64(8, BigInt(sector), true)
    return this.place(new Uint8Array(bytes.buffer))
  }

  /** All that is in use of the guest's memory, from `MAIN` on. */
  snapshot (): Buffer {
    return Buffer.concat([this.memory.read(MAIN, this.#free - MAIN), this.memory.read(HIGH, 2 * HIGH_BYTES)])
  }

  /** Hangs up, and gives its own memory back: the server's mappings of it stay for the server to undo. */
  close (): void {
    this.front.close()
    for (const queue of this.queues) queue.close()
    this.memory.release()
    closeSync(this.memoryFd)
  }
}

function layOut (layout: Layout, address: number, size: number): RingLayout {
  return layout === 'packed' ? layOutPackedRing(address, size) : layOutRing(address, size)
}

/** A ring written word by word, and its descriptors. */
export class HostileQueue {
  readonly guest: HostileGuest
  readonly index: number
  /** Where the parts of the ring are; may be replaced before `start`. */
  layout: RingLayout
  readonly kick = new EventCounter()
  readonly call = new EventCounter()
  readonly error = new EventCounter()
  /** What the device gave back, since the last start. */
  readonly used: UsedElement[] = []
  // Of a packed ring: where the next chain goes, where the next used one is looked for, and descriptors by buffer id.
  #next = PACKED_START
  #usedAt = PACKED_START
  readonly #counts = new Map<number, number>()
  // Of a split ring: what was seen of the used index.
  #usedIndex = 0

  constructor (guest: HostileGuest, index: number, layout: RingLayout) {
    this.guest = guest
    this.index = index
    this.layout = layout
  }

  /** The ring as a split one. */
  get split (): RawRing {
    return new RawRing(this.guest.memory, this.layout)
  }

  /** The ring as a packed one. */
  get packed (): RawPackedRing {
    return new RawPackedRing(this.guest.memory, this.layout)
  }

  get isPacked (): boolean {
    return this.guest.layout === 'packed'
  }

  /** Where a ring begins, as vhost-user says it, that has this index. @default a fresh ring's */
  base (index: number = this.isPacked ? PACKED_START : 0): number {
    return this.isPacked ? (index << 16 | index) >>> 0 : index
  }

  /** Addresses of the parts, as the front-end says them. */
  get addresses (): Omit<VringAddress, 'index'> {
    const { descriptorAddress, availableAddress, usedAddress } = this.layout
    return { descriptor: USER + descriptorAddress, available: USER + availableAddress, used: USER + usedAddress }
  }

  /** Tells the server all of the ring, and enables it. @param index where it begins, which the ring's memory must say too */
  async start (index?: number): Promise<void> {
    await this.configure(index)
    await this.guest.front.setVringEnable(this.index, true)
  }

  /** Tells the server all of the ring but that it is enabled. */
  async configure (index: number = this.isPacked ? PACKED_START : 0): Promise<void> {
    const { front } = this.guest
    this.#next = this.#usedAt = index
    this.#usedIndex = index
    this.used.length = 0
    await front.setVringErr(this.index, this.error.fd)
    await front.setVringCall(this.index, this.call.fd)
    // A new one is signalled at once, for the driver to look.
    this.call.take()
    await front.setVringNum(this.index, this.layout.size)
    await front.setVringAddr(this.index, this.addresses)
    await front.setVringBase(this.index, this.base(index))
    await front.setVringKick(this.index, this.kick.fd)
  }

  /** Stops the ring, clears its memory and starts it anew. @param index where it begins. @default a fresh ring's */
  async restart (index?: number): Promise<void> {
    const { memory, front } = this.guest
    const { descriptorAddress, usedAddress } = this.layout
    await front.getVringBase(this.index)
    memory.write(descriptorAddress, new Uint8Array(usedAddress + 8 - descriptorAddress))
    if (!this.isPacked && index !== undefined) {
      this.split.availableIndex(index)
      this.split.usedIndex(index)
    }
    for (const counter of [this.kick, this.call, this.error]) counter.take()
    await this.start(index)
  }

  /** The descriptors of a request that is well: for the disk's serial number. */
  goodChain (): GoodChain {
    const { guest } = this
    return [
      { address: guest.header(VIRTIO_BLK_T_GET_ID), length: 16, flags: 0 },
      { address: guest.filled(20), length: 20, flags: VIRTQ_DESC_F_WRITE },
      { address: guest.filled(1, NO_STATUS), length: 1, flags: VIRTQ_DESC_F_WRITE }
    ]
  }

  /** Offers a chain that breaks the ring, and sees that it does, with nothing written to the guest's memory. */
  async breaksBy (...descriptors: readonly RawDescriptor[]): Promise<void> {
    const { guest } = this
    this.offer(descriptors)
    const before = guest.snapshot()
    this.kick.signal()
    await this.isBroken(0)
    // But for the hint whether to kick.
    const hint = this.layout.usedAddress
    guest.memory.write(hint, before.subarray(hint - MAIN, hint - MAIN + 4))
    assert.ok(guest.snapshot().equals(before), 'nothing is written')
  }

  /** Breaks the ring by one chain after the other, restarted in between. @see breaksBy */
  async breaksByEach (chains: Readonly<Record<string, readonly RawDescriptor[]>>): Promise<void> {
    for (const [index, [title, chain]] of Object.entries(chains).entries()) {
      if (index > 0) await this.restart()
      await inCase(title, () => this.breaksBy(...chain))
    }
  }

  /** Makes a chain of descriptors as they are available. @param id its head, where its descriptors begin; packed: its buffer id */
  offer (descriptors: readonly RawDescriptor[], id = 0): void {
    if (this.isPacked) {
      this.#next = this.packed.chain(descriptors, id, this.#next)
      this.#counts.set(id, descriptors.length)
    } else {
      this.split.available(this.split.chain(descriptors, id))
    }
  }

  /** Puts descriptors in a table of their own. @returns the descriptor that names it */
  table (entries: readonly RawDescriptor[], address: number = this.guest.allocate(16 * entries.length)): GoodDescriptor {
    if (this.isPacked) entries.forEach((entry, position) => this.packed.descriptor(position, entry, address))
    else this.split.chain(entries, 0, address)
    return { address, length: 16 * entries.length, flags: VIRTQ_DESC_F_INDIRECT }
  }

  /** Takes what the device has given back by now. @returns all of it, since the last start */
  collect (): readonly UsedElement[] {
    if (this.isPacked) this.#collectPacked()
    else this.#collectSplit()
    return this.used
  }

  #collectPacked (): void {
    for (let element = this.packed.getUsed(this.#usedAt); element !== undefined; element = this.packed.getUsed(this.#usedAt)) {
      this.used.push(element)
      this.#usedAt = this.packed.after(this.#usedAt, this.#counts.get(element.id) ?? 1)
    }
  }

  #collectSplit (): void {
    const index = this.split.getUsedIndex()
    this.used.push(...this.split.used(this.#usedIndex, index))
    this.#usedIndex = index
  }

  /** Waits until the device has given so many chains back, since the last start. */
  async answers (count: number): Promise<readonly UsedElement[]> {
    await eventually(`${count} chains are given back on ring ${this.index}`, () => this.collect().length >= count)
    return this.used
  }

  /** Offers a chain of readable, then writable segments, kicks, and waits. @returns bytes that the device says it wrote */
  async send (readable: readonly Segment[], writable: readonly Segment[], id = 0): Promise<number> {
    const count = this.collect().length + 1
    this.offer([...readable, ...writable.map((segment) => ({ ...segment, flags: VIRTQ_DESC_F_WRITE }))], id)
    this.kick.signal()
    const element = (await this.answers(count))[count - 1]!
    assert.equal(element.id, id)
    return element.length
  }

  /** Sends one request: header, then the data as framed, then the status. */
  async request (type: number, sector: number | bigint = 0, data: { readable?: readonly Segment[], writable?: readonly Segment[] } = {}): Promise<Answer> {
    const { guest } = this
    const status = guest.filled(1, NO_STATUS)
    const written = await this.send(
      [{ address: guest.header(type, sector), length: 16 }, ...data.readable ?? []],
      [...data.writable ?? [], { address: status, length: 1 }])
    return { status: guest.memory.getUint8(status), written }
  }

  async write (sector: number | bigint, bytes: Uint8Array): Promise<Answer> {
    return await this.request(VIRTIO_BLK_T_OUT, sector, { readable: bytes.length === 0 ? [] : [{ address: this.guest.place(bytes), length: bytes.length }] })
  }

  /** The data is what the guest finds, where nothing was written 0xa5. */
  async read (sector: number | bigint, length: number): Promise<Answer & { data: Uint8Array }> {
    const address = this.guest.filled(length)
    const answer = await this.request(VIRTIO_BLK_T_IN, sector, { writable: length === 0 ? [] : [{ address, length }] })
    return { ...answer, data: this.guest.memory.read(address, length) }
  }

  async flush (): Promise<Answer> {
    return await this.request(VIRTIO_BLK_T_FLUSH)
  }

  async getId (length = 20): Promise<Answer & { id: Uint8Array }> {
    const address = this.guest.filled(length)
    const answer = await this.request(VIRTIO_BLK_T_GET_ID, 0, { writable: [{ address, length }] })
    return { ...answer, id: this.guest.memory.read(address, length) }
  }

  /**
   * Waits until the device says that the ring is broken, and sees that it is: the error descriptor was signalled once,
   * nothing is given back any more, kicks change nothing. Stops the ring.
   *
   * @param given how many chains were given back before.
   * @returns where the device stopped
   */
  async isBroken (given: number = this.used.length): Promise<number> {
    await eventually(`ring ${this.index} is said to be broken`, () => this.error.count > 0)
    for (let kicks = 0; kicks < 3; kicks++) this.kick.signal()
    const base = await this.guest.front.getVringBase(this.index)
    assert.equal(this.error.count, 1, 'the error descriptor is signalled once')
    assert.equal(this.collect().length, given, 'a broken ring gives nothing back')
    return base
  }

  close (): void {
    for (const counter of [this.kick, this.call, this.error]) counter.close()
  }
}

/** Says in which of several cases something failed. */
export async function inCase<Result> (title: string, body: () => Promise<Result>): Promise<Result> {
  try {
    return await body()
  } catch (error) {
    (error as Error).message = `${title}: ${(error as Error).message}`
    throw error
  }
}

/** An eventfd, with all that it was ever signalled. */
export class EventCounter {
  readonly fd: number = eventfd()
  #count = 0

  signal (): void {
    writeSync(this.fd, BigUint64Array.of(1n))
  }

  /** How often it was signalled since the last `take`. */
  get count (): number {
    const bytes = Buffer.alloc(8)
    try {
      readSync(this.fd, bytes)
    } catch {
      return this.#count
    }
    return this.#count += Number(bytes.readBigUint64LE())
  }

  /** The count, which begins anew. */
  take (): number {
    const { count } = this
    this.#count = 0
    return count
  }

  close (): void {
    closeSync(this.fd)
  }
}
