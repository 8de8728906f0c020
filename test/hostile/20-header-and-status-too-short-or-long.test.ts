import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_OUT } from '../../packages/virtio-blk/src/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'

const define = hostile()

define('less than a header, or no byte for the status: the ring is broken, the disk as it was', async ({ connect, sectors }) => {
  const guest = await connect()
  const [header, data, status] = guest.queue.goodChain()
  const write = { address: guest.header(VIRTIO_BLK_T_OUT, 3), length: 16 }
  const toRead = { address: data.address, length: 512 }
  await guest.queue.breaksByEach({
    'a header of 15 bytes': [{ ...header, length: 15 }, data, status],
    'a header of 1 byte': [{ ...header, length: 1 }, data, status],
    'a header of 15 bytes in pieces': [{ ...header, length: 8 }, { address: header.address + 8, length: 7 }, data, status],
    'a write without a status': [write, toRead],
    'a write whose status has no bytes': [write, toRead, { ...status, length: 0 }]
  })
  assert.deepEqual(sectors(3, 1), sectorPattern(3, 1))
})

define('the status is the last byte of all that may be written, however long that is', async ({ connect }) => {
  const guest = await connect()
  const tail = guest.filled(64)
  const header = { address: guest.header(VIRTIO_BLK_T_FLUSH), length: 16 }
  assert.equal(await guest.queue.send([header], [{ address: tail, length: 3 }, { address: tail + 3, length: 29 }]), 1)
  const expected = new Uint8Array(64).fill(0xa5)
  expected[31] = VIRTIO_BLK_S_OK
  assert.deepEqual(guest.memory.read(tail, 64), expected)
})

test.run()
