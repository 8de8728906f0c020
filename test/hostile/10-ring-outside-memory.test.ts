import assert from 'node:assert/strict'
import { test } from 'uvu'
import { FrontEndRequest } from '../../packages/vhost-user/src/index.ts'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { BORDER, HIGH, type HostileQueue, inCase, MAIN, NOWHERE, USER } from '../support/hostile-guest.ts'

const define = hostile()

type Addresses = HostileQueue['addresses']

/** Where the parts of a ring of 16 cannot be. */
function crooked (good: Addresses, isPacked: boolean): Record<string, Partial<Addresses>> {
  const { descriptor, available, used } = good
  return {
    'descriptors where no memory is': { descriptor: USER + NOWHERE },
    'what the driver writes where no memory is': { available: USER + NOWHERE },
    'what the device writes where no memory is': { used: USER + NOWHERE },
    'descriptors at guest addresses, not at the front-end\'s own': { descriptor: MAIN },
    'the last descriptor outside memory': { descriptor: USER + NOWHERE - 15 * 16 },
    'the end of what the driver writes outside memory': { available: USER + NOWHERE - 2 },
    'the end of what the device writes outside memory': { used: USER + NOWHERE - 2 },
    'descriptors across a border of regions': { descriptor: USER + BORDER - 16 },
    'descriptors that begin before a region': { descriptor: USER + HIGH - 16 },
    'descriptors at a multiple of 8': { descriptor: descriptor + 8 },
    'what the driver writes at an odd address': { available: available + 1 },
    'what the device writes at a multiple of 2': { used: used + 2 },
    'what the driver writes among the descriptors': { available: descriptor + 15 * 16 + 12 },
    'what the device writes among the descriptors': { used: descriptor + 4 },
    'what the device writes over what the driver writes': { used: available - available % 4 },
    'descriptors at the last address of a number': { descriptor: Number.MAX_SAFE_INTEGER - 15 },
    ...(!isPacked && { 'the used ring over the available ring\'s last entry': { used: available + 4 + 2 * 14 } })
  }
}

define('a ring whose parts are not in memory, misaligned or overlapping does not run: the front-end is told, and it runs when mended', async ({ connect }) => {
  const { queue, front } = await connect()
  const good = queue.addresses
  for (const [title, part] of Object.entries(crooked(good, queue.isPacked))) {
    await inCase(title, async () => {
      await assert.rejects(front.setVringAddr(0, { ...good, ...part }), { code: 'ERR_VHOST_USER_REFUSED' })
      assert.equal(queue.error.take(), 1, 'the error descriptor is signalled')
      await front.setVringAddr(0, good)
      assert.equal((await queue.getId()).status, VIRTIO_BLK_S_OK)
    })
  }
  assert.equal(queue.error.count, 0)
})

define('addresses beyond 2^53 are refused, and the ring runs on', async ({ connect }) => {
  const { queue, front } = await connect()
  for (const byte of [0xff, 0x80]) {
    await assert.rejects(front.tell(FrontEndRequest.SET_VRING_ADDR, { payload: new Uint8Array(40).fill(byte, 8) }), { code: 'ERR_VHOST_USER_REFUSED' })
  }
  assert.equal((await queue.getId()).status, VIRTIO_BLK_S_OK)
})

test.run()
