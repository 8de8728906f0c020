import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_T_OUT } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import type { RawDescriptor } from '../../packages/vring/src/driver/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { eventually } from '../support/eventually.ts'
import { NO_STATUS } from '../support/hostile-guest.ts'

const define = hostile()

define('the same head, or buffer id, twice at once: the ring is broken, and what was in flight harms nobody', async ({ connect, frozen, sectors }) => {
  const guest = await connect()
  const { queue, memory } = guest
  const bytes = sectorPattern(300, 8, 1)
  const status = guest.filled(1, NO_STATUS)
  const write: RawDescriptor[] = [
    { address: guest.header(VIRTIO_BLK_T_OUT, 300), length: 16 },
    { address: guest.place(bytes), length: bytes.length },
    { address: status, length: 1, flags: VIRTQ_DESC_F_WRITE }
  ]
  // At once: the device finds both in one batch, and none of them done.
  await frozen(() => {
    queue.offer(write)
    queue.offer(write)
    queue.kick.signal()
  })
  // Stopped is drained: the first one was done on the disk, but on a broken ring it is shown to nobody.
  await queue.isBroken(0)
  await eventually('the write is on the disk', () => Buffer.from(sectors(300, 8)).equals(bytes))
  assert.equal(memory.getUint8(status), 0)
})

define('a head that was given back may come again, as often as the guest likes', async ({ connect }) => {
  const { queue } = await connect()
  for (let round = 0; round < 50; round++) assert.deepEqual(await queue.flush(), { status: 0, written: 1 })
  assert.equal(queue.error.count, 0)
})

test.run()
