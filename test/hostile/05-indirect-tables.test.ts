import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import type { RawDescriptor } from '../../packages/vring/src/driver/index.ts'
import { hostile, SERIAL } from '../support/hostile.ts'
import { BORDER, type GoodChain, HIGH, type HostileQueue, inCase, NOWHERE } from '../support/hostile-guest.ts'

const define = hostile()

define('a malformed table: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  const table = queue.table(queue.goodChain())
  const { address } = table
  await queue.breaksByEach({
    'no bytes': [{ ...table, length: 0 }],
    'a byte too few': [{ ...table, length: table.length - 1 }],
    'a byte too many': [{ ...table, length: table.length + 1 }],
    '15 bytes': [{ ...table, length: 15 }],
    'a next descriptor': [{ ...table, flags: VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_NEXT }, { address, length: 1 }],
    'a table in it': [queue.table([table])],
    'a table in it, behind a header': [queue.table([{ address, length: 16 }, table])],
    'its end outside memory': [{ ...table, address: NOWHERE - 16 }],
    'all of it outside memory': [{ ...table, address: NOWHERE }],
    'the last address of all': [{ ...table, address: 0xfffffffffffffff0n }]
  })
})

define('a table where the feature was not accepted: the ring is broken', async ({ connect }) => {
  const guest = await connect()
  await guest.front.setFeatures(guest.features & ~(1n << 28n))
  await guest.queue.breaksBy(guest.queue.table(guest.queue.goodChain()))
})

const wellFormed: Readonly<Record<string, (queue: HostileQueue, chain: GoodChain) => RawDescriptor[]>> = {
  'with the flag for a buffer to write, which means nothing': (queue, chain) => {
    const table = queue.table(chain)
    return [{ ...table, flags: table.flags | VIRTQ_DESC_F_WRITE }]
  },
  'across a border of regions': (queue, chain) => [queue.table(chain, BORDER - 24)],
  'at the end of all memory': (queue, chain) => [queue.table(chain, NOWHERE - 48)],
  'at an address that is no multiple of 16': (queue, chain) => [queue.table(chain, HIGH + 8)],
  'behind a descriptor': (queue, [header, ...rest]) => [header, queue.table(rest)]
}

define('a table in an unusual place is served', async ({ connect }) => {
  const { queue, memory } = await connect()
  for (const [index, [title, make]] of Object.entries(wellFormed).entries()) {
    const chain = queue.goodChain()
    queue.offer(make(queue, chain))
    queue.kick.signal()
    assert.deepEqual((await inCase(title, () => queue.answers(index + 1)))[index], { id: 0, length: 21 }, title)
    assert.equal(memory.getUint8(chain[2].address), VIRTIO_BLK_S_OK, title)
    assert.equal(Buffer.from(memory.read(chain[1].address, SERIAL.length)).toString(), SERIAL, title)
  }
})

test.run()
