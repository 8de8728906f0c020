// What a power cut would leave is what the kernel no longer has to write: it counts that by page.
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { CONFIG_WRITEBACK, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { blankImage } from '../support/image.ts'
import { unstablePages, unstablePagesUnknown } from '../support/page-cache.ts'
import { skip } from '../support/programs.ts'

const unknown = unstablePagesUnknown(blankImage(1))

if (unknown !== undefined) {
  skip('writes that must be stable', unknown)
} else {
  const define = hostile({ onDisk: true })

  define('what was written before a flush is stable after it', async ({ connect, image }) => {
    const { queue } = await connect()
    for (let round = 1; round <= 3; round++) {
      for (let write = 0; write < 5; write++) await queue.write(write * 64, sectorPattern(write * 64, 8, round))
      assert.deepEqual(await queue.flush(), { status: VIRTIO_BLK_S_OK, written: 1 })
      assert.equal(unstablePages(image), 0)
    }
  })

  define('a disk without a write cache: every write is stable when it is answered, from then on that it is asked for', async ({ connect, image }) => {
    const { front, queue } = await connect()
    assert.deepEqual(await queue.write(0, sectorPattern(0, 8, 1)), { status: VIRTIO_BLK_S_OK, written: 1 })
    await front.setConfig(CONFIG_WRITEBACK, Uint8Array.of(0))
    assert.equal(unstablePages(image), 0, 'what was written before')
    for (let round = 2; round < 6; round++) {
      assert.deepEqual(await queue.write(round * 8, sectorPattern(0, 8, round)), { status: VIRTIO_BLK_S_OK, written: 1 })
      assert.equal(unstablePages(image), 0)
    }
  })

  define('a guest that cannot flush: every write is stable when it is answered', async ({ connect, image }) => {
    const { front, features, queue } = await connect()
    await front.setFeatures(features & ~(1n << BigInt(VIRTIO_BLK_F_FLUSH)))
    for (let round = 1; round < 5; round++) {
      assert.deepEqual(await queue.write(round * 8, sectorPattern(0, 8, round)), { status: VIRTIO_BLK_S_OK, written: 1 })
      assert.equal(unstablePages(image), 0)
    }
  })
}

test.run()
