import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { footprint, holdsAgain } from '../support/footprint.ts'
import { hostile } from '../support/hostile.ts'
import { HIGH } from '../support/hostile-guest.ts'
import { Load } from '../support/hostile-load.ts'
import { directRefused } from '../support/image.ts'

const define = hostile({ direct: directRefused() === undefined })

define('SET_MEM_TABLE under load: every request is done once, in the memory that it was sent in', async ({ connect, frozen, sectors }) => {
  const guest = await connect({ size: 64 })
  const { front, queue, regions } = guest
  const load = new Load(queue)
  const changes: Promise<void>[] = []
  await frozen(() => {
    load.offerAll()
    queue.kick.signal()
    for (let change = 0; change < 5; change++) changes.push(front.setMemTable(change % 2 === 0 ? regions.slice(0, 1) : regions))
  })
  await Promise.all(changes)
  await load.check(sectors)
  assert.equal(queue.error.count, 0)
})

define('regions come and go under load, and are unmapped when they are gone', async ({ connect, frozen, sectors, program }) => {
  const { front, queue, regions } = await connect({ size: 64 })
  const [, high, border] = regions
  const mapped = footprint(program.pid)
  const load = new Load(queue)
  const changes: Promise<void>[] = []
  await frozen(() => {
    load.offerAll()
    queue.kick.signal()
    for (const region of [high!, border!]) changes.push(front.remMemReg(region), front.addMemReg(region))
  })
  await Promise.all(changes)
  await load.check(sectors)
  await holdsAgain(program.pid, mapped)
})

define('what is no longer in the memory is outside memory: the ring is broken', async ({ connect }) => {
  const { front, queue, regions } = await connect()
  const [header, , status] = queue.goodChain()
  await front.setMemTable(regions.slice(0, 1))
  await queue.breaksBy(header, { address: HIGH, length: 512, flags: VIRTQ_DESC_F_WRITE }, status)
})

define('memory without the ring: it stands still, its error descriptor signalled, and goes on when the memory is back', async ({ connect }) => {
  const { front, queue, regions } = await connect()
  assert.equal((await queue.getId()).status, VIRTIO_BLK_S_OK)
  await front.setMemTable(regions.slice(1))
  assert.equal(queue.error.take(), 1)
  queue.offer(queue.goodChain())
  queue.kick.signal()
  await front.getConfig(0, 8)
  assert.equal(queue.collect().length, 1)
  await front.setMemTable(regions)
  await queue.answers(2)
  assert.equal(queue.error.count, 0)
})

test.run()
