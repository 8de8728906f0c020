// Many requests at once, whose data can be checked.
import assert from 'node:assert/strict'
import { SECTOR_BYTES, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { sectorPattern } from './hostile.ts'
import { type HostileQueue, NO_STATUS } from './hostile-guest.ts'

/** Sectors of each request. */
const COUNT = 32
/** Half of them writes, half of them reads, of 16 KiB each. */
const REQUESTS = 20
const VERSION = 3

interface Sent {
  readonly write: boolean
  readonly sector: number
  readonly data: number
  readonly status: number
}

/** Requests for a ring of 64 or more that nobody else uses; more than one load does the same again. */
export class Load {
  readonly #queue: HostileQueue
  readonly #sent: Sent[] = []
  readonly #before: number

  constructor (queue: HostileQueue) {
    this.#queue = queue
    this.#before = queue.collect().length
  }

  /** Makes them all available, and does not kick. */
  offerAll (): void {
    const { guest } = this.#queue
    for (let index = 0; index < REQUESTS; index++) {
      const write = index % 2 === 0
      const sector = index * COUNT
      const data = Math.ceil(guest.allocate(COUNT * SECTOR_BYTES + 4096) / 4096) * 4096
      guest.memory.write(data, write ? sectorPattern(sector, COUNT, VERSION) : new Uint8Array(COUNT * SECTOR_BYTES).fill(0xa5))
      const status = guest.filled(1, NO_STATUS)
      this.#queue.offer([
        { address: guest.header(write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, sector), length: 16 },
        { address: data, length: COUNT * SECTOR_BYTES, flags: write ? 0 : VIRTQ_DESC_F_WRITE },
        { address: status, length: 1, flags: VIRTQ_DESC_F_WRITE }
      ], index * 3)
      this.#sent.push({ write, sector, data, status })
    }
  }

  /** Where a fresh ring stands after so many of them, as vhost-user says it. */
  baseAfter (count: number): number {
    return this.#queue.base(this.#queue.isPacked ? this.#queue.packed.after(0x8000, 3 * count) : count)
  }

  /** Waits for all of them: each must have been given back once, well, with the right bytes. @param sectors of the image, as the host finds them */
  async check (sectors: (sector: number, count: number) => Uint8Array): Promise<void> {
    const used = (await this.#queue.answers(this.#before + REQUESTS)).slice(this.#before)
    assert.deepEqual(used.map(({ id }) => id).sort((one, other) => one - other), this.#sent.map((_, index) => index * 3))
    const { memory } = this.#queue.guest
    for (const { write, sector, data, status } of this.#sent) {
      assert.equal(memory.getUint8(status), VIRTIO_BLK_S_OK, `sector ${sector}`)
      const expected = sectorPattern(sector, COUNT, write ? VERSION : 0)
      assert.ok(Buffer.compare(memory.read(data, expected.length), expected) === 0, `memory of sector ${sector}`)
      assert.ok(Buffer.compare(sectors(sector, COUNT), expected) === 0, `disk at sector ${sector}`)
    }
  }
}
