import assert from 'node:assert/strict'
import { test } from 'uvu'
import { SECTOR_BYTES, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../packages/virtio-blk/src/index.ts'
import type { Segment } from '../../packages/vring/src/driver/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { NO_STATUS } from '../support/hostile-guest.ts'

const define = hostile()

/** A range in so many pieces. */
function split (address: number, length: number, pieces: number): Segment[] {
  return Array.from({ length: pieces }, (_, piece) => {
    const from = Math.floor(piece * length / pieces)
    return { address: address + from, length: Math.floor((piece + 1) * length / pieces) - from }
  })
}

define('a header in 2 to 16 descriptors', async ({ connect }) => {
  const guest = await connect({ size: 32 })
  const { queue, memory } = guest
  for (let pieces = 2; pieces <= 16; pieces++) {
    const [data, status] = [guest.filled(SECTOR_BYTES), guest.filled(1, NO_STATUS)]
    const header = split(guest.header(VIRTIO_BLK_T_IN, 33), 16, pieces)
    assert.equal(await queue.send(header, [{ address: data, length: SECTOR_BYTES }, { address: status, length: 1 }]), SECTOR_BYTES + 1, `${pieces} pieces`)
    assert.equal(memory.getUint8(status), VIRTIO_BLK_S_OK)
    assert.deepEqual(memory.read(data, SECTOR_BYTES), sectorPattern(33, 1))
  }
})

define('a read in two descriptors: the status shares the one of the data', async ({ connect }) => {
  const guest = await connect()
  const bytes = 2 * SECTOR_BYTES
  const data = guest.filled(bytes + 1)
  assert.equal(await guest.queue.send([{ address: guest.header(VIRTIO_BLK_T_IN, 40), length: 16 }], [{ address: data, length: bytes + 1 }]), bytes + 1)
  assert.deepEqual(guest.memory.read(data, bytes), sectorPattern(40, 2))
  assert.equal(guest.memory.getUint8(data + bytes), VIRTIO_BLK_S_OK)
})

define('a write in two descriptors: the data shares the one of the header', async ({ connect, sectors }) => {
  const guest = await connect()
  const bytes = sectorPattern(210, 3, 3)
  const [buffer, status] = [guest.allocate(16 + bytes.length), guest.filled(1, NO_STATUS)]
  guest.memory.write(buffer, Buffer.concat([guest.memory.read(guest.header(VIRTIO_BLK_T_OUT, 210), 16), bytes]))
  assert.equal(await guest.queue.send([{ address: buffer, length: 16 + bytes.length }], [{ address: status, length: 1 }]), 1)
  assert.equal(guest.memory.getUint8(status), VIRTIO_BLK_S_OK)
  assert.deepEqual(sectors(209, 5), Uint8Array.from([...sectorPattern(209, 1), ...bytes, ...sectorPattern(213, 1)]))
})

define('data in pieces of a byte and more, the last one with the status', async ({ connect, sectors }) => {
  const guest = await connect({ size: 128 })
  for (const pieces of [3, 61, 100]) {
    const bytes = sectorPattern(220, 2, pieces)
    const [source, target] = [guest.place(bytes), guest.filled(bytes.length + 1)]
    assert.deepEqual(await guest.queue.request(VIRTIO_BLK_T_OUT, 220, { readable: split(source, bytes.length, pieces) }), { status: VIRTIO_BLK_S_OK, written: 1 })
    assert.deepEqual(sectors(220, 2), bytes)
    assert.equal(await guest.queue.send([{ address: guest.header(VIRTIO_BLK_T_IN, 220), length: 16 }], split(target, bytes.length + 1, pieces)), bytes.length + 1)
    assert.deepEqual(guest.memory.read(target, bytes.length), bytes)
    assert.equal(guest.memory.getUint8(target + bytes.length), VIRTIO_BLK_S_OK)
  }
})

test.run()
