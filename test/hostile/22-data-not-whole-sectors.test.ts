import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile, SECTORS } from '../support/hostile.ts'

const define = hostile()

define('data that is not whole sectors is an I/O error, and touches nothing', async ({ connect, sectors }) => {
  const { queue } = await connect()
  const before = sectors(0, 8)
  for (const length of [1, 511, 513, 1023, 4095]) {
    const { status, written, data } = await queue.read(0, length)
    assert.deepEqual({ status, written }, { status: VIRTIO_BLK_S_IOERR, written: 1 }, `${length} bytes`)
    assert.ok(data.every((byte) => byte === 0xa5))
    assert.deepEqual(await queue.write(0, new Uint8Array(length)), { status: VIRTIO_BLK_S_IOERR, written: 1 }, `${length} bytes`)
  }
  assert.deepEqual(sectors(0, 8), before)
})

define('no data at all is done, unless it is past the end', async ({ connect }) => {
  const { queue } = await connect()
  for (const [sector, status] of [[0, VIRTIO_BLK_S_OK], [SECTORS, VIRTIO_BLK_S_OK], [SECTORS + 1, VIRTIO_BLK_S_IOERR], [2n ** 64n - 1n, VIRTIO_BLK_S_IOERR]] as const) {
    const read = await queue.read(sector, 0)
    assert.deepEqual({ status: read.status, written: read.written }, { status, written: 1 })
    assert.deepEqual(await queue.write(sector, new Uint8Array(0)), { status, written: 1 })
  }
})

test.run()
