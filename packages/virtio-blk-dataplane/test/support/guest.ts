import { EventNotifier } from '@node-vmm/event-poll'
import { GuestMemory } from '@node-vmm/hostmem'
import { close, watchReadable, type Watch } from '@node-vmm/libc'
import { type DriverQueue, DriverRing, type DriverRingOptions, indirectTableBytes, layOutPackedRing, layOutRing, NOTHING_USED, PackedDriverRing, RawRing, type RingLayout, type Segment } from '@node-vmm/vring/driver'
import type { DataPlane, QueueSetup } from '../../src/index.ts'
import { VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/index.ts'

export interface GuestOptions {
  /** Entries of the ring. @default 64 */
  readonly size?: number
  /** @default true */
  readonly eventIdx?: boolean
  /** @default false: a split ring */
  readonly packed?: boolean
  /** @default false */
  readonly inOrder?: boolean
  /** Put every chain in an indirect table of up to 128 descriptors. @default false */
  readonly indirect?: boolean
  /** Where memory begins. @default 0x100000 */
  readonly guestAddress?: number
  /** @default 16 MiB */
  readonly memoryBytes?: number
  /** Bytes of a second region right behind the first: what straddles them is not contiguous in this process. @default none */
  readonly secondBytes?: number
  /** Feature bits to agree on beside those of the ring. @default 0n */
  readonly features?: bigint
}

/** What came back for a request. */
export interface Answer {
  readonly status: number
  /** Bytes that the device says it wrote. */
  readonly written: number
}

const EVENT_IDX = 1n << 29n
const INDIRECT = 1n << 28n
const FLUSH = 1n << 9n
const PACKED = 1n << 34n
const IN_ORDER = 1n << 35n
const TABLE_SEGMENTS = 128
/** Nothing that a device writes as a status. */
export const NO_STATUS = 0xff

/** The driver of one queue, played by the test, in this process and on this thread. */
export class Guest {
  readonly memory: GuestMemory
  readonly layout: RingLayout
  ring: DriverQueue
  readonly raw: RawRing
  readonly kick = EventNotifier.create()
  readonly call = EventNotifier.create()
  readonly error = EventNotifier.create()
  readonly #features: bigint
  readonly #packed: boolean
  readonly #ringOptions: DriverRingOptions
  readonly #waiting = new Map<number, (written: number) => void>()
  readonly #watch: Watch
  /** Where the next allocation of guest memory begins. */
  #free: number
  #token = 0
  interrupts = 0

  constructor (options: GuestOptions = {}) {
    const { size = 64, eventIdx = true, packed = false, inOrder = false, indirect = false, guestAddress = 0x100000, memoryBytes = 16 << 20, secondBytes = 0, features = 0n } = options
    const second = secondBytes === 0 ? [] : [{ guestAddress: guestAddress + memoryBytes, size: secondBytes }]
    const { memory, fd } = GuestMemory.allocate([{ guestAddress, size: memoryBytes }, ...second])
    close(fd)
    this.memory = memory
    this.layout = packed ? layOutPackedRing(guestAddress, size) : layOutRing(guestAddress, size)
    this.#features = features | FLUSH | INDIRECT | (eventIdx ? EVENT_IDX : 0n) | (packed ? PACKED : 0n) | (inOrder ? IN_ORDER : 0n)
    this.#packed = packed
    const tables = guestAddress + 0x40000
    this.#ringOptions = { eventIdx, inOrder, ...(indirect && { indirect: { address: tables, segments: TABLE_SEGMENTS } }) }
    this.ring = this.#makeRing(this.#ringOptions)
    this.raw = new RawRing(memory, this.layout)
    this.#free = tables + (indirect ? indirectTableBytes(size, TABLE_SEGMENTS) : 0)
    this.#watch = watchReadable(this.call.fd, () => {
      this.call.clear()
      this.interrupts++
      this.poll()
    })
    this.ring.enableInterrupts()
  }

  get setup (): QueueSetup {
    return {
      memory: this.memory,
      size: this.layout.size,
      descriptorAddress: this.layout.descriptorAddress,
      availableAddress: this.layout.availableAddress,
      usedAddress: this.layout.usedAddress,
      features: this.#features,
      kickFd: this.kick.fd,
      callFd: this.call.fd,
      errorFd: this.error.fd
    }
  }

  #makeRing (options: DriverRingOptions): DriverQueue {
    return this.#packed ? new PackedDriverRing(this.memory, this.layout, options) : new DriverRing(this.memory, this.layout, options)
  }

  /** Begins anew, as a driver does after it reset the device. What was not answered never will be. */
  resetRing (index = 0): void {
    this.ring = this.#makeRing({ ...this.#ringOptions, index })
    this.ring.enableInterrupts()
    this.#waiting.clear()
  }

  allocate (bytes: number): number {
    const address = this.#free
    this.#free += Math.ceil(bytes / 512) * 512
    return address
  }

  /** The part of a body's memory is free again after it: for tests that share a guest. */
  async withMemory (body: () => Promise<void>): Promise<void> {
    const free = this.#free
    await body()
    this.#free = free
  }

  header (type: number, sector: number | bigint): number {
    const at = this.allocate(16)
    this.memory.setUint32(at, type)
    this.memory.setUint32(at + 4, 0)
    this.memory.setUint64(at + 8, BigInt(sector))
    return at
  }

  /** Sends one request: header, then the data as framed, then the status. */
  async request (type: number, sector: number | bigint, data: { readable?: readonly Segment[], writable?: readonly Segment[] } = {}): Promise<Answer> {
    const status = this.allocate(1)
    this.memory.setUint8(status, NO_STATUS)
    const written = await this.send(
      [{ address: this.header(type, sector), length: 16 }, ...data.readable ?? []],
      [...data.writable ?? [], { address: status, length: 1 }])
    return { status: this.memory.getUint8(status), written }
  }

  /** Sends a chain as it is. @returns what the used ring says was written */
  send (readable: readonly Segment[], writable: readonly Segment[]): Promise<number> {
    const token = ++this.#token
    if (this.ring.add(readable, writable, token) < 0) throw new Error('the ring is full')
    const done = new Promise<number>((resolve) => this.#waiting.set(token, resolve))
    this.ring.publish()
    if (this.ring.needsKick()) this.kick.notify()
    return done
  }

  async write (sector: number, bytes: Uint8Array): Promise<Answer> {
    const address = this.allocate(bytes.length)
    this.memory.write(address, bytes)
    return this.request(VIRTIO_BLK_T_OUT, sector, { readable: [{ address, length: bytes.length }] })
  }

  async read (sector: number, length: number): Promise<Answer & { data: Uint8Array }> {
    const address = this.allocate(length)
    const answer = await this.request(VIRTIO_BLK_T_IN, sector, { writable: [{ address, length }] })
    return { ...answer, data: this.memory.read(address, length) }
  }

  flush (): Promise<Answer> {
    return this.request(VIRTIO_BLK_T_FLUSH, 0)
  }

  async getId (length = 20): Promise<Answer & { id: Uint8Array }> {
    const address = this.allocate(length)
    const answer = await this.request(VIRTIO_BLK_T_GET_ID, 0, { writable: [{ address, length }] })
    return { ...answer, id: this.memory.read(address, length) }
  }

  /** Takes what the device finished, and asks for an interrupt at the next. */
  poll (): void {
    do this.take()
    while (this.ring.enableInterrupts() === 'more')
  }

  /** Takes what the device finished. */
  take (): void {
    while (this.ring.pollUsed() > NOTHING_USED) {
      const done = this.#waiting.get(this.ring.usedToken)
      this.#waiting.delete(this.ring.usedToken)
      done?.(this.ring.usedLength)
    }
  }

  close (): void {
    this.#watch.close()
    for (const notifier of [this.kick, this.call, this.error]) notifier.close()
    this.memory.release()
  }
}

/** Runs a body with a started data plane and a guest on its queue 0, and takes both down again. */
export async function withGuest (plane: DataPlane, options: GuestOptions, body: (guest: Guest) => Promise<void>): Promise<void> {
  const guest = new Guest(options)
  try {
    await plane.start([guest.setup])
    await body(guest)
  } finally {
    await plane.close()
    guest.close()
  }
}
