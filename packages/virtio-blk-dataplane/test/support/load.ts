import assert from 'node:assert/strict'
import { SECTOR_BYTES, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/index.ts'
import { type Guest, NO_STATUS } from './guest.ts'
import { sectorPattern } from './image.ts'

const SECTORS = 8
/** Milliseconds in which even a slow machine answers. */
const LIMIT = 60_000

/** A guest that never stops: each of its slots writes to a place of its own, reads that back, and begins anew. */
export class Load {
  answered = 0
  readonly #guest: Guest
  readonly #slots: Promise<void>[]
  #stopped = false

  constructor (guest: Guest, slots: number) {
    this.#guest = guest
    this.#slots = Array.from({ length: slots }, (_, slot) => this.#run(slot))
    for (const slot of this.#slots) slot.catch(() => {})
  }

  async #run (slot: number): Promise<void> {
    const guest = this.#guest
    const sector = slot * SECTORS
    const write = guest.header(VIRTIO_BLK_T_OUT, sector)
    const read = guest.header(VIRTIO_BLK_T_IN, sector)
    const data = { address: guest.allocate(SECTORS * SECTOR_BYTES), length: SECTORS * SECTOR_BYTES }
    const status = { address: guest.allocate(1), length: 1 }
    const send = async (header: number, readable: typeof data[], writable: typeof data[], written: number): Promise<void> => {
      guest.memory.setUint8(status.address, NO_STATUS)
      assert.equal(await guest.send([{ address: header, length: 16 }, ...readable], [...writable, status]), written)
      assert.equal(guest.memory.getUint8(status.address), VIRTIO_BLK_S_OK)
      this.answered++
    }
    for (let version = 1; !this.#stopped; version++) {
      const bytes = sectorPattern(sector, SECTORS, version)
      guest.memory.write(data.address, bytes)
      await send(write, [data], [], 1)
      guest.memory.write(data.address, new Uint8Array(data.length))
      await send(read, [], [data], data.length + 1)
      assert.deepEqual(guest.memory.read(data.address, data.length), bytes)
    }
  }

  /** Waits until more of its requests were answered. */
  async advance (requests = 1): Promise<void> {
    const wanted = this.answered + requests
    for (const end = Date.now() + LIMIT; this.answered < wanted;) {
      assert.ok(Date.now() < end, 'requests are answered')
      await Promise.race([...this.#slots, new Promise((resolve) => setImmediate(resolve))])
    }
  }

  /** Ends it when every request was answered once, with what it should. */
  async stop (): Promise<void> {
    this.#stopped = true
    const late = new Promise<never>((_, reject) => {
      setTimeout(() => reject(new Error(`${this.#guest.ring.inFlight} requests were never answered`)), LIMIT).unref()
    })
    await Promise.race([Promise.all(this.#slots), late])
    assert.equal(this.#guest.ring.inFlight, 0)
    assert.equal(this.#guest.ring.broken, false)
  }
}
