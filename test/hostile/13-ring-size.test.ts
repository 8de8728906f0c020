import assert from 'node:assert/strict'
import { test } from 'uvu'
import { RING_SIZE_MAX } from '../../packages/vhost-user/src/ring.ts'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { inCase } from '../support/hostile-guest.ts'

const define = hostile()

define('a size of 0, or beyond the largest ring: refused, and the size before still holds', async ({ open }) => {
  const guest = await open()
  const { front, queue } = guest
  await front.setMemTable(guest.regions)
  await queue.configure()
  for (const size of [0, RING_SIZE_MAX + 1, 65536, 0xffffffff]) {
    await inCase(`size ${size}`, () => assert.rejects(front.setVringNum(0, size), { code: 'ERR_VHOST_USER_REFUSED' }))
  }
  await front.setVringEnable(0, true)
  assert.equal((await queue.flush()).status, VIRTIO_BLK_S_OK)
})

define('a running ring gets no other size', async ({ connect }) => {
  const { front, queue } = await connect()
  await assert.rejects(front.setVringNum(0, 8), { code: 'ERR_VHOST_USER_REFUSED' })
  assert.equal((await queue.flush()).status, VIRTIO_BLK_S_OK)
})

define('a size that is no power of two: a split ring does not run', async ({ open }) => {
  const { front, queue, regions } = await open()
  await front.setMemTable(regions)
  for (const size of [3, 12, 15]) {
    await queue.configure()
    await front.setVringNum(0, size)
    await inCase(`size ${size}`, () => assert.rejects(front.setVringEnable(0, true), { code: 'ERR_VHOST_USER_REFUSED' }))
    assert.equal(queue.error.take(), 1)
    await front.setVringEnable(0, false)
  }
  await queue.start()
  assert.equal((await queue.flush()).status, VIRTIO_BLK_S_OK)
}, ['split'])

define('a size that is no power of two: a packed ring runs', async ({ connect }) => {
  for (const size of [3, 13]) {
    const guest = await connect({ size })
    for (let round = 0; round < 2 * size; round++) assert.equal((await inCase(`size ${size}`, () => guest.queue.flush())).status, VIRTIO_BLK_S_OK)
    guest.front.close()
  }
}, ['packed'])

define('no ring at all, kicked: nothing is looked for where no ring is', async ({ open }) => {
  const guest = await open()
  const { front, queue } = guest
  await front.setVringKick(0, queue.kick.fd)
  await front.setVringCall(0, queue.call.fd)
  await front.setVringEnable(0, true)
  queue.kick.signal()
  assert.equal(await front.getVringBase(0), queue.base())
})

for (const size of [1, RING_SIZE_MAX]) {
  define(`a ring of ${size} is served`, async ({ connect }) => {
    const { queue } = await connect({ size })
    for (let round = 0; round < 3; round++) {
      queue.offer([queue.table(queue.goodChain())])
      queue.kick.signal()
      assert.deepEqual((await queue.answers(round + 1))[round], { id: 0, length: 21 })
    }
  })
}

test.run()
