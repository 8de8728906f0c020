import { watchReadable } from '@node-vmm/libc'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '@node-vmm/virtio-blk-dataplane'
import { DriverRing, layOutRing, NOTHING_USED, type Segment } from '@node-vmm/vring/driver'
import type { RingRegisters, Vmm } from './vmm.ts'

const RING = 0x10000
const HEADER = 0x20000
const STATUS = 0x20010
const DATA = 0x30000
const EVENT_IDX = 1n << 29n

/** The guest's driver, played by this process. One request at a time, to keep it short. */
export class Guest {
  readonly #vmm: Vmm
  readonly #ring: DriverRing
  readonly registers: RingRegisters

  constructor (vmm: Vmm) {
    const layout = layOutRing(RING, 64)
    this.#vmm = vmm
    this.registers = { ...layout, features: EVENT_IDX }
    this.#ring = new DriverRing(vmm.memory, layout, { eventIdx: true })
  }

  async write (sector: number, bytes: Uint8Array): Promise<void> {
    this.#vmm.memory.write(DATA, bytes)
    await this.#request(VIRTIO_BLK_T_OUT, sector, [{ address: DATA, length: bytes.length }], [])
  }

  async read (sector: number, length: number): Promise<Uint8Array> {
    await this.#request(VIRTIO_BLK_T_IN, sector, [], [{ address: DATA, length }])
    return this.#vmm.memory.read(DATA, length)
  }

  async flush (): Promise<void> {
    await this.#request(VIRTIO_BLK_T_FLUSH, 0, [], [])
  }

  async #request (type: number, sector: number, readable: Segment[], writable: Segment[]): Promise<void> {
    const { memory, kick } = this.#vmm
    memory.setUint32(HEADER, type)
    memory.setUint64(HEADER + 8, BigInt(sector))
    const interrupted = this.#interrupt()
    this.#ring.add([{ address: HEADER, length: 16 }, ...readable], [...writable, { address: STATUS, length: 1 }])
    this.#ring.publish()
    if (this.#ring.needsKick()) kick.notify()
    await interrupted
    if (this.#ring.pollUsed() <= NOTHING_USED) throw new Error('an interrupt, but nothing is used')
    const status = memory.getUint8(STATUS)
    if (status !== VIRTIO_BLK_S_OK) throw new Error(`the device answered with status ${status}`)
  }

  /** The next interrupt. */
  #interrupt (): Promise<void> {
    const { call } = this.#vmm
    this.#ring.enableInterrupts()
    return new Promise((resolve) => {
      const watch = watchReadable(call.fd, () => {
        if (!call.clear()) return
        watch.close()
        resolve()
      })
    })
  }
}
