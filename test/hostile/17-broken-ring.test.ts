import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile } from '../support/hostile.ts'
import { type HostileQueue, inCase, NOWHERE } from '../support/hostile-guest.ts'

const define = hostile()

/** Offers what breaks the ring. */
function breakRing (queue: HostileQueue): void {
  queue.offer([{ address: NOWHERE, length: 16 }, { address: NOWHERE, length: 1, flags: VIRTQ_DESC_F_WRITE }])
  queue.kick.signal()
}

define('a broken ring pops and pushes no more, is told of once, and still says where it stands; the other ring goes on', async ({ connect, program }) => {
  const { queues, front } = await connect({ queues: 2 })
  const [broken, other] = queues as [HostileQueue, HostileQueue]
  for (let count = 0; count < 3; count++) assert.equal((await broken.getId()).status, VIRTIO_BLK_S_OK)
  const stands = broken.isPacked ? broken.base(broken.packed.after(0x8000, 9)) : 3
  breakRing(broken)
  await eventually('the ring is said to be broken', () => broken.error.count === 1)
  // The guest mends its ring, and kicks: too late.
  for (let count = 0; count < 5; count++) {
    broken.offer(broken.goodChain(), 8)
    broken.kick.signal()
    assert.equal((await other.getId()).status, VIRTIO_BLK_S_OK)
  }
  assert.equal(broken.collect().length, 3)
  assert.deepEqual([broken.error.count, other.error.count], [1, 0])
  assert.equal(await front.getVringBase(0), stands)
  assert.equal(broken.error.count, 1)
  assert.match(program.output, /queue 0 is broken until the guest resets it: /)

  await broken.restart()
  assert.equal((await broken.getId()).status, VIRTIO_BLK_S_OK)
  assert.equal((await other.getId()).status, VIRTIO_BLK_S_OK)
  assert.equal(broken.error.count, 0)
})

define('bug: a ring broken by the last request of a batch was told of at the next kick only', async ({ connect, frozen }) => {
  for (let good = 0; good < 9; good++) {
    const { front, queue } = await connect({ size: 32 })
    await frozen(() => {
      for (let count = 0; count < good; count++) queue.offer([queue.table(queue.goodChain())], count)
      // Well-formed, but nowhere is a status to be put: found out when the request is processed.
      queue.offer([queue.goodChain()[0]], good)
      queue.kick.signal()
    })
    await inCase(`after ${good} others`, () => eventually('the ring is said to be broken', () => queue.error.count === 1))
    front.close()
  }
})

define('what is not taken away is still there at the next start: broken again, and told of again', async ({ connect }) => {
  const { queue, front } = await connect()
  breakRing(queue)
  const base = await queue.isBroken(0)
  assert.equal(base, queue.base())
  queue.error.take()
  await front.setVringBase(0, base)
  await front.setVringKick(0, queue.kick.fd)
  await queue.isBroken(0)
})

test.run()
