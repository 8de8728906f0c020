import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH } from '../../packages/virtio-blk/src/index.ts'
import { hostile, SECTORS } from '../support/hostile.ts'

const define = hostile()

define('a flush is done, whatever sector it names and whatever data comes along', async ({ connect }) => {
  const guest = await connect()
  const data = { address: guest.filled(512), length: 512 }
  for (const sector of [0, 1, SECTORS, SECTORS + 1, 2n ** 55n, 2n ** 64n - 1n]) {
    for (const along of [{}, { readable: [data] }, { writable: [data] }]) {
      assert.deepEqual(await guest.queue.request(VIRTIO_BLK_T_FLUSH, sector, along), { status: VIRTIO_BLK_S_OK, written: 1 }, `sector ${sector}`)
    }
  }
  assert.ok(guest.memory.read(data.address, 512).every((byte) => byte === 0xa5))
})

test.run()
