import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { Load } from '../support/hostile-load.ts'
import { directRefused } from '../support/image.ts'

// Past the page cache requests take their time.
const define = hostile({ direct: directRefused() === undefined })

define('GET_VRING_BASE waits for what is in flight: the base says what was done, and a start from there does the rest, once', async ({ connect, frozen, sectors }) => {
  const guest = await connect({ size: 64 })
  const { front, queue } = guest
  const load = new Load(queue)
  let stopped: Promise<number> | undefined
  await frozen(() => {
    load.offerAll()
    queue.kick.signal()
    stopped = front.getVringBase(0)
  })
  const base = await stopped!
  const done = queue.collect().length
  assert.equal(base, load.baseAfter(done), 'all that was taken was given back')
  const then = guest.snapshot()
  assert.equal((await front.getConfig(0, 8)).length, 8)
  assert.ok(guest.snapshot().equals(then), 'nothing is written any more')

  await front.setVringBase(0, base)
  await front.setVringKick(0, queue.kick.fd)
  await load.check(sectors)
  assert.equal((await queue.flush()).status, VIRTIO_BLK_S_OK)
})

test.run()
