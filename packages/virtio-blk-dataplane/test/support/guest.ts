import { EventNotifier } from '@node-vmm/event-poll'
import { GuestMemory } from '@node-vmm/hostmem'
import { close, watchReadable, type Watch } from '@node-vmm/libc'
import { layOutRing, DriverRing, NOTHING_USED, RawRing, type RingLayout, type Segment } from '@node-vmm/vring/driver'
import type { DataPlane, QueueSetup } from '../../src/index.ts'
import { VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/index.ts'

export interface GuestOptions {
  readonly size?: number
  readonly eventIdx?: boolean
  readonly memoryBytes?: number
}

/** What came back for a request. */
export interface Answer {
  readonly status: number
  /** Bytes that the device says it wrote. */
  readonly written: number
}

const EVENT_IDX = 1n << 29n
const INDIRECT = 1n << 28n
/** Nothing that a device writes as a status. */
export const NO_STATUS = 0xff

/** The driver of one queue, played by the test, in this process and on this thread. */
export class Guest {
  readonly memory: GuestMemory
  readonly layout: RingLayout
  readonly ring: DriverRing
  readonly raw: RawRing
  readonly kick = EventNotifier.create()
  readonly call = EventNotifier.create()
  readonly error = EventNotifier.create()
  readonly #eventIdx: boolean
  readonly #waiting = new Map<number, (written: number) => void>()
  readonly #watch: Watch
  /** Where the next allocation of guest memory begins. */
  #free: number
  #token = 0
  interrupts = 0

  constructor ({ size = 64, eventIdx = true, memoryBytes = 16 << 20 }: GuestOptions = {}) {
    const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0x100000, size: memoryBytes }])
    close(fd)
    this.memory = memory
    this.layout = layOutRing(0x100000, size)
    this.#eventIdx = eventIdx
    this.ring = new DriverRing(memory, this.layout, { eventIdx })
    this.raw = new RawRing(memory, this.layout)
    this.#free = 0x140000
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
      features: INDIRECT | (this.#eventIdx ? EVENT_IDX : 0n),
      kickFd: this.kick.fd,
      callFd: this.call.fd,
      errorFd: this.error.fd
    }
  }

  allocate (bytes: number): number {
    const address = this.#free
    this.#free += Math.ceil(bytes / 512) * 512
    return address
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

  /** Takes what the device finished. */
  poll (): void {
    do {
      while (this.ring.pollUsed() > NOTHING_USED) {
        const done = this.#waiting.get(this.ring.usedToken)
        this.#waiting.delete(this.ring.usedToken)
        done?.(this.ring.usedLength)
      }
    } while (this.ring.enableInterrupts() === 'more')
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
