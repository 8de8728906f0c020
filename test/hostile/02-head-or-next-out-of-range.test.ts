import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTQ_DESC_F_NEXT } from '../../packages/vring/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { inCase } from '../support/hostile-guest.ts'

const define = hostile()

define('a head that is none of the ring\'s: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  for (const head of [16, 0x7fff, 0xffff]) {
    await queue.restart()
    queue.split.available(head)
    queue.kick.signal()
    assert.equal(await inCase(`head ${head}`, () => queue.isBroken(0)), 0)
  }
}, ['split'])

define('a next descriptor that is none of the ring\'s: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  for (const next of [16, 0x8000, 0xffff]) {
    await queue.restart()
    const [header, data] = queue.goodChain()
    queue.split.descriptor(0, { ...header, flags: VIRTQ_DESC_F_NEXT, next: 1 })
    queue.split.descriptor(1, { ...data, flags: data.flags | VIRTQ_DESC_F_NEXT, next })
    queue.split.available(0)
    queue.kick.signal()
    assert.equal(await inCase(`next ${next}`, () => queue.isBroken(0)), 0)
  }
}, ['split'])

define('a next descriptor that is none of its table\'s: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  const tables = [3, 16, 0xffff].map((next) => {
    const chain = queue.goodChain()
    const table = queue.table(chain)
    queue.split.descriptor(1, { ...chain[1], flags: chain[1].flags | VIRTQ_DESC_F_NEXT, next }, table.address)
    return [`next ${next} of 3`, [table]] as const
  })
  await queue.breaksByEach(Object.fromEntries(tables))
}, ['split'])

define('a buffer id beyond the size of the ring is the driver\'s own affair, and given back', async ({ connect }) => {
  const { queue } = await connect()
  const ids = [16, 0x8000, 0xffff, 0]
  for (const id of ids) queue.offer(queue.goodChain(), id)
  queue.kick.signal()
  assert.deepEqual(await queue.answers(4), ids.map((id) => ({ id, length: 21 })))
}, ['packed'])

test.run()
