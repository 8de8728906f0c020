// The guest changes what it offered while the device looks at it, as fast as it can. Whatever the device saw, it saw once:
// what it did is what one of the offers, or a mixture of their words, asked for.
import assert from 'node:assert/strict'
import { test } from 'uvu'
import {
  SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN
} from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import type { RawDescriptor } from '../../packages/vring/src/driver/index.ts'
import { hostile, sectorPattern, SERIAL } from '../support/hostile.ts'
import { type HostileGuest, type HostileQueue, NO_STATUS } from '../support/hostile-guest.ts'

const define = hostile()

const ROUNDS = 100
/** Room around each buffer in which nothing may be written. */
const GUARD = 1024

/** Offers a chain and changes memory until the device is done or has given up, on this thread: the device is in another process. */
function race (queue: HostileQueue, chain: readonly RawDescriptor[], change: (turn: number) => void): 'answered' | 'broken' {
  const count = queue.collect().length
  queue.offer(chain)
  queue.kick.signal()
  for (const deadline = Date.now() + 20_000; ;) {
    for (let turn = 0; turn < 100; turn++) change(turn)
    if (queue.collect().length > count) return 'answered'
    if (queue.error.count > 0) return 'broken'
    if (Date.now() > deadline) throw new Error('neither an answer nor a fault')
  }
}

/** A buffer with guards around it. */
function guarded (guest: HostileGuest, bytes: number): number {
  return guest.filled(bytes + 2 * GUARD) + GUARD
}

function assertGuards (guest: HostileGuest, buffer: number, bytes: number): void {
  for (const guard of [buffer - GUARD, buffer + bytes]) {
    assert.ok(guest.memory.read(guard, GUARD).every((byte) => byte === 0xa5), 'nothing is written around a buffer')
  }
}

define('the address and the length of a buffer change', async ({ connect }) => {
  const guest = await connect()
  const { queue, memory } = guest
  const buffers = [guarded(guest, 1024), guarded(guest, 1024)]
  const header = guest.header(VIRTIO_BLK_T_IN, 5)
  const status = guest.allocate(1)
  for (let round = 0; round < ROUNDS; round++) {
    memory.write(status, Uint8Array.of(NO_STATUS))
    for (const buffer of buffers) memory.write(buffer, new Uint8Array(1024).fill(0xa5))
    const chain = [{ address: header, length: 16 }, { address: buffers[0]!, length: 512, flags: VIRTQ_DESC_F_WRITE }, { address: status, length: 1, flags: VIRTQ_DESC_F_WRITE }]
    const table = queue.table(chain)
    const words = new Uint32Array(memory.view(table.address + 16, 12))
    assert.equal(race(queue, [table], (turn) => {
      words[0] = buffers[turn % 2]!
      words[2] = turn % 3 === 0 ? 1024 : 512
    }), 'answered')
    const { length } = queue.used.at(-1)!
    assert.ok(length === 513 || length === 1025, `${length} bytes written`)
    assert.equal(memory.getUint8(status), VIRTIO_BLK_S_OK)
    const expected = Buffer.concat([sectorPattern(5, (length - 1) / SECTOR_BYTES), new Uint8Array(1025 - length).fill(0xa5)])
    const found = buffers.map((buffer) => Buffer.from(memory.read(buffer, 1024)))
    const untouched = new Uint8Array(1024).fill(0xa5)
    assert.ok(found.some((bytes) => bytes.equals(expected)) && found.some((bytes) => bytes.equals(untouched)), 'one buffer has as much as was said')
    for (const buffer of buffers) assertGuards(guest, buffer, 1024)
    guest.rewind(table.address)
  }
})

define('the type and the sector of a request change', async ({ connect }) => {
  const guest = await connect()
  const { queue, memory } = guest
  const buffer = guarded(guest, SECTOR_BYTES)
  const header = guest.header(VIRTIO_BLK_T_IN, 9)
  const status = guest.allocate(1)
  const words = new Uint32Array(memory.view(header, 16))
  const id = Buffer.alloc(SECTOR_BYTES, 0xa5)
  id.fill(0, 0, 20)
  id.write(SERIAL)
  const answers = new Map([
    [`${VIRTIO_BLK_S_OK} 513`, Buffer.from(sectorPattern(9, 1))],
    [`${VIRTIO_BLK_S_OK} 21`, id],
    [`${VIRTIO_BLK_S_IOERR} 1`, Buffer.alloc(SECTOR_BYTES, 0xa5)],
    [`${VIRTIO_BLK_S_UNSUPP} 1`, Buffer.alloc(SECTOR_BYTES, 0xa5)]
  ])
  for (let round = 0; round < ROUNDS; round++) {
    memory.write(status, Uint8Array.of(NO_STATUS))
    memory.write(buffer, new Uint8Array(SECTOR_BYTES).fill(0xa5))
    const chain = [
      { address: header, length: 16 }, { address: buffer, length: SECTOR_BYTES, flags: VIRTQ_DESC_F_WRITE },
      { address: status, length: 1, flags: VIRTQ_DESC_F_WRITE }
    ]
    assert.equal(race(queue, chain, (turn) => {
      words[0] = [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_GET_ID, 99][turn % 3]!
      words[2] = turn % 2 === 0 ? 9 : 0xffffffff
      words[3] = turn % 5 === 0 ? 0xffffffff : 0
    }), 'answered')
    const answer = `${memory.getUint8(status)} ${queue.used.at(-1)!.length}`
    assert.deepEqual(Buffer.from(memory.read(buffer, SECTOR_BYTES)), answers.get(answer), answer)
    assertGuards(guest, buffer, SECTOR_BYTES)
  }
})

define('flags and links change to what breaks the ring: it is broken, or the request is served', async ({ connect }) => {
  const guest = await connect()
  const { queue, memory } = guest
  const outcomes = { answered: 0, broken: 0 }
  for (let round = 0; round < ROUNDS && outcomes.broken < 5; round++) {
    const chain = queue.goodChain()
    const table = queue.table(chain)
    const links = new Uint16Array(memory.view(table.address + 16 + 12, 4))
    const good = Uint16Array.from(links)
    const outcome = race(queue, [table], (turn) => {
      links[0] = turn % 3 === 0 ? 0 : good[0]! | VIRTQ_DESC_F_NEXT
      links[1] = turn % 5 === 0 ? 0xffff : good[1]!
    })
    outcomes[outcome]++
    if (outcome === 'broken') {
      await queue.isBroken()
      await queue.restart()
    } else {
      assert.ok([1, 2, 21].includes(queue.used.at(-1)!.length))
    }
    guest.rewind(chain[0].address)
  }
})

test.run()
