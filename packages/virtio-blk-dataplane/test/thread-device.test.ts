import assert from 'node:assert/strict'
import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import { IoQueue } from '@node-vmm/ioq'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH } from '@node-vmm/virtio-blk'
import { test } from 'uvu'
import { DataPlane } from '../src/index.ts'
import { collectGarbage } from '../../../test/support/collect-garbage.ts'
import { Guest } from './support/guest.ts'
import { MapDisk } from './support/map-disk.ts'

/** More than V8 lets a shape live that no object has (`--retain-maps-for-n-gc`). */
const COLLECTIONS = 5

async function outliveShapes (): Promise<void> {
  for (let count = 0; count < COLLECTIONS; count++) {
    collectGarbage()
    await eventLoopTurn()
  }
}

test('bug: between two guests the shapes of all hot objects were collected, and with them the code compiled for them', async () => {
  const closed: WeakRef<IoQueue>[] = []
  const { close } = IoQueue.prototype
  IoQueue.prototype.close = function (options) {
    closed.push(new WeakRef(this))
    return close.call(this, options)
  }
  // In this thread, so that its objects can be watched.
  const plane = await DataPlane.open({ disk: new MapDisk() })
  try {
    for (let session = 1; session <= 3; session++) {
      const player = new Guest()
      await plane.startQueue(0, player.setup)
      assert.equal((await player.request(VIRTIO_BLK_T_FLUSH, 0, {})).status, VIRTIO_BLK_S_OK)
      await plane.stopQueue(0)
      player.close()
      await outliveShapes()
      assert.equal(closed.length, session)
      const kept = closed.map((queue) => queue.deref() !== undefined)
      assert.deepEqual(kept, closed.map((_, index) => index === session - 1), 'the last one is kept, and no other')
    }
  } finally {
    await plane.close()
    IoQueue.prototype.close = close
  }
})

test.run()
