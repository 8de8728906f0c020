import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP } from '../../packages/virtio-blk/src/index.ts'
import { hostile, SECTORS } from '../support/hostile.ts'

const define = hostile()

/** SCSI_CMD and its answer, SECURE_ERASE, the zone requests, those that were never given out, and nonsense. */
const TYPES = [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 18, 20, 22, 24, 26, 0xff, 0x100, 0x10000, 0x7fffffff, 0xfffffffe]

define('a type that the disk does not know, SCSI and zones among them, is unsupported, and touches no data', async ({ connect, sectors }) => {
  const guest = await connect()
  const before = sectors(0, SECTORS)
  const address = guest.filled(512)
  const free = guest.allocate(0)
  for (const type of TYPES) {
    for (const data of [{ writable: [{ address, length: 512 }] }, { readable: [{ address, length: 512 }] }, {}]) {
      assert.deepEqual(await guest.queue.request(type, 0, data), { status: VIRTIO_BLK_S_UNSUPP, written: 1 }, `type ${type}`)
      guest.rewind(free)
    }
  }
  assert.ok(guest.memory.read(address, 512).every((byte) => byte === 0xa5))
  assert.ok(Buffer.compare(sectors(0, SECTORS), before) === 0)
  assert.equal((await guest.queue.flush()).status, VIRTIO_BLK_S_OK)
})

test.run()
