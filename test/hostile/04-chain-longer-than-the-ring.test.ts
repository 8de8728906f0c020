import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN } from '../../packages/virtio-blk/src/index.ts'
import { CHAIN_DESCRIPTORS_MAX, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import type { RawDescriptor } from '../../packages/vring/src/driver/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { type HostileGuest, NO_STATUS } from '../support/hostile-guest.ts'

const define = hostile()

/** A read of so many descriptors, header and status among them, each of the others half a sector. */
function read (guest: HostileGuest, descriptors: number): { chain: RawDescriptor[], data: number, bytes: number, status: number } {
  const bytes = (descriptors - 2) * 256
  const [data, status] = [guest.filled(bytes), guest.filled(1, NO_STATUS)]
  const pieces = Array.from({ length: descriptors - 2 }, (_, index) => ({ address: data + index * 256, length: 256, flags: VIRTQ_DESC_F_WRITE }))
  return {
    chain: [{ address: guest.header(VIRTIO_BLK_T_IN, 8), length: 16 }, ...pieces, { address: status, length: 1, flags: VIRTQ_DESC_F_WRITE }],
    data,
    bytes,
    status
  }
}

define('a chain as long as the ring is served', async ({ connect }) => {
  const guest = await connect()
  const { chain, data, bytes, status } = read(guest, 16)
  guest.queue.offer(chain)
  guest.queue.kick.signal()
  assert.deepEqual(await guest.queue.answers(1), [{ id: 0, length: bytes + 1 }])
  assert.equal(guest.memory.getUint8(status), VIRTIO_BLK_S_OK)
  assert.deepEqual(guest.memory.read(data, bytes), sectorPattern(8, bytes / 512))
})

define('a table longer than the ring is served: drivers must not make it, and it does no harm', async ({ connect }) => {
  const guest = await connect()
  for (const [index, descriptors] of [18, 128, CHAIN_DESCRIPTORS_MAX].entries()) {
    const { chain, data, bytes, status } = read(guest, descriptors)
    guest.queue.offer([guest.queue.table(chain)])
    guest.queue.kick.signal()
    assert.deepEqual((await guest.queue.answers(index + 1))[index], { id: 0, length: bytes + 1 }, `${descriptors} descriptors`)
    assert.equal(guest.memory.getUint8(status), VIRTIO_BLK_S_OK)
    assert.deepEqual(guest.memory.read(data, bytes), sectorPattern(8, bytes / 512))
  }
})

define('a table longer than one I/O can be: the ring is broken', async ({ connect }) => {
  const guest = await connect()
  await guest.queue.breaksByEach({
    'a descriptor too many': [guest.queue.table(read(guest, CHAIN_DESCRIPTORS_MAX + 1).chain)],
    '4 GiB of descriptors': [{ address: guest.allocate(16), length: 0xfffffff0, flags: VIRTQ_DESC_F_INDIRECT }]
  })
})

test.run()
