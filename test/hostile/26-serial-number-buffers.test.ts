import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_GET_ID } from '../../packages/virtio-blk/src/index.ts'
import { hostile, SERIAL } from '../support/hostile.ts'

const define = hostile()

define('GET_ID fills its buffer up to 20 bytes, padded with zeroes, and writes nothing behind', async ({ connect }) => {
  const { queue } = await connect()
  const serial = Buffer.alloc(20)
  serial.write(SERIAL)
  assert.equal(SERIAL.length, 19, 'so that there is a byte to pad')
  for (const length of [0, 1, 19, 20, 21, 512, 4096]) {
    const { status, written, id } = await queue.getId(length)
    const filled = Math.min(length, 20)
    assert.deepEqual({ status, written }, { status: VIRTIO_BLK_S_OK, written: filled + 1 }, `${length} bytes`)
    assert.deepEqual(Buffer.from(id), Buffer.concat([serial.subarray(0, filled), Buffer.alloc(length - filled, 0xa5)]), `${length} bytes`)
  }
})

define('GET_ID into a buffer in pieces', async ({ connect }) => {
  const guest = await connect()
  const address = guest.filled(64)
  const writable = [{ address, length: 3 }, { address: address + 8, length: 15 }, { address: address + 32, length: 9 }]
  assert.deepEqual(await guest.queue.request(VIRTIO_BLK_T_GET_ID, 0, { writable }), { status: VIRTIO_BLK_S_OK, written: 21 })
  const found = Buffer.concat(writable.map((piece) => guest.memory.read(piece.address, piece.length)))
  assert.deepEqual(found, Buffer.concat([Buffer.from(SERIAL), Buffer.alloc(1), Buffer.alloc(7, 0xa5)]))
})

test.run()
