import { test } from 'uvu'
import { VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { inCase } from '../support/hostile-guest.ts'

const define = hostile()

const loops: Readonly<Record<string, readonly number[]>> = {
  'a descriptor is its own next one': [0],
  'two descriptors name each other': [1, 0],
  'all descriptors make a circle': Array.from({ length: 16 }, (_, index) => (index + 1) % 16),
  'a circle comes after a straight beginning': [1, 2, 3, 2]
}

define('descriptors in a loop, with and without bytes: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  for (const [title, links] of Object.entries(loops)) {
    for (const length of [1, 0]) {
      await queue.restart()
      const [{ address }] = queue.goodChain()
      links.forEach((next, index) => queue.split.descriptor(index, { address, length, flags: VIRTQ_DESC_F_NEXT, next }))
      queue.split.available(0)
      queue.kick.signal()
      await inCase(`${title}, of ${length} bytes`, () => queue.isBroken(0))
    }
  }
}, ['split'])

define('the descriptors of a table in a loop: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  const [header, data] = queue.goodChain()
  const table = queue.table([header, data, data])
  queue.split.descriptor(2, { ...data, flags: VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, next: 1 }, table.address)
  await queue.breaksBy(table)
}, ['split'])

define('every descriptor of the ring says that it goes on: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  const [{ address }] = queue.goodChain()
  for (const length of [1, 0]) {
    await queue.restart()
    for (let position = 15; position >= 0; position--) {
      queue.packed.descriptor(position, { address, length, flags: VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_AVAIL })
    }
    queue.kick.signal()
    await inCase(`of ${length} bytes`, () => queue.isBroken(0))
  }
}, ['packed'])

test.run()
