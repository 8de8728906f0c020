import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { NOWHERE, NO_STATUS } from '../support/hostile-guest.ts'

const define = hostile()

define('descriptors without bytes among others, wherever they point, are served', async ({ connect }) => {
  const guest = await connect()
  const { queue, memory } = guest
  const [header, data, status] = [guest.header(VIRTIO_BLK_T_IN, 30), guest.filled(512), guest.filled(1, NO_STATUS)]
  const nothing = { address: NOWHERE, length: 0 }
  const written = await queue.send(
    [nothing, { address: header, length: 16 }, nothing],
    [nothing, { address: data, length: 100 }, nothing, { address: data + 100, length: 412 }, nothing, { address: status, length: 1 }, nothing])
  assert.equal(written, 513)
  assert.equal(memory.getUint8(status), VIRTIO_BLK_S_OK)
  assert.deepEqual(memory.read(data, 512), sectorPattern(30, 1))
})

define('nothing but descriptors without bytes, or none for header or status: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  const [header, data, status] = queue.goodChain()
  const nothing = { address: 0, length: 0 }
  await queue.breaksByEach({
    'one': [nothing],
    'as many as the ring has': Array.from({ length: 16 }, (_, index) => ({ ...nothing, flags: index < 8 ? 0 : VIRTQ_DESC_F_WRITE })),
    'as many as a table has': [queue.table(Array.from({ length: 1024 }, () => nothing))],
    'for the status': [header, { ...status, length: 0 }],
    'for the header': [{ ...header, length: 0 }, data, status]
  })
})

test.run()
