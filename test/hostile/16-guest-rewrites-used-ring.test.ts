import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile } from '../support/hostile.ts'

const define = hostile()

define('what the guest writes over the used ring means nothing to the device, which goes on where it was', async ({ connect }) => {
  const { queue, front } = await connect()
  const ring = queue.split
  for (let count = 1; count <= 40; count++) {
    ring.usedIndex(0x1234 + count * 777)
    ring.usedFlags(0xffff)
    ring.availableEvent(count * 999)
    for (let slot = 0; slot < 16; slot++) ring.usedElement(slot, { id: 0xffffffff, length: 0xffffffff })
    const chain = queue.goodChain()
    queue.offer(chain)
    queue.kick.signal()
    // The index that was overwritten is overwritten in turn: the device has its own.
    await eventually('the used index is the device\'s', () => ring.getUsedIndex() === count)
    assert.deepEqual(ring.used(count - 1, count), [{ id: 0, length: 21 }])
    assert.equal(queue.guest.memory.getUint8(chain[2].address), VIRTIO_BLK_S_OK)
  }
  assert.equal(queue.error.count, 0)
  assert.equal(await front.getVringBase(0), 40)
}, ['split'])

define('what the guest writes over used descriptors and the device\'s event area means nothing to the device', async ({ connect }) => {
  const { queue, front } = await connect()
  const ring = queue.packed
  let at = 0x8000
  for (let count = 1; count <= 40; count++) {
    ring.deviceEvent({ index: 0x7fff, flags: 0xffff })
    const chain = queue.goodChain()
    queue.offer(chain, count)
    queue.kick.signal()
    assert.deepEqual((await queue.answers(count))[count - 1], { id: count, length: 21 })
    for (let descriptor = 0; descriptor < 3; descriptor++) {
      ring.use(at, { id: 0xffff, length: 0xffffffff }, 0x7f7f)
      at = ring.after(at)
    }
  }
  assert.equal(queue.error.count, 0)
  assert.equal(await front.getVringBase(0), queue.base(at))
}, ['packed'])

test.run()
