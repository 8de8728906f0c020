import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { type HostileQueue, inCase } from '../support/hostile-guest.ts'

const define = hostile()

define('the available index jumps by more than the ring has entries: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  for (const [start, jump] of [[0, 17], [0, 0x8000], [0, 0xffff], [65534, 17], [10, -1]] as const) {
    await queue.restart(start)
    queue.split.availableIndex(start + jump)
    queue.kick.signal()
    assert.equal(await inCase(`from ${start} by ${jump}`, () => queue.isBroken(0)), start)
  }
}, ['split'])

/** Makes as many requests available as the ring has descriptors, each in a table. @returns where their statuses will be */
function fill (queue: HostileQueue): number[] {
  return Array.from({ length: queue.layout.size }, (_, id) => {
    const chain = queue.goodChain()
    queue.offer([queue.table(chain)], id)
    return chain[2].address
  })
}

define('a ring that is full to the last descriptor is served, lap after lap', async ({ connect, frozen }) => {
  const { queue, memory } = await connect()
  for (let lap = 1; lap <= 3; lap++) {
    let statuses: number[] = []
    await frozen(() => {
      statuses = fill(queue)
      queue.kick.signal()
    })
    const used = await queue.answers(lap * 16)
    assert.deepEqual(used.slice(-16).map(({ id }) => id).sort((one, other) => one - other), Array.from({ length: 16 }, (_, id) => id))
    assert.ok(statuses.every((status) => memory.getUint8(status) === VIRTIO_BLK_S_OK))
  }
  assert.equal(queue.error.count, 0)
})

test.run()
