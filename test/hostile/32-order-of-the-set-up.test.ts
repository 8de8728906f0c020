import assert from 'node:assert/strict'
import { test } from 'uvu'
import { TransportFeature } from '../../packages/vhost-user/src/index.ts'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH } from '../../packages/virtio-blk/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { type HostileGuest, inCase } from '../support/hostile-guest.ts'

const define = hostile()

/** What a ring must be told to run, each by a message. */
const messages: Readonly<Record<string, (guest: HostileGuest) => Promise<void>>> = {
  size: ({ front, queue }) => front.setVringNum(0, queue.layout.size),
  addresses: ({ front, queue }) => front.setVringAddr(0, queue.addresses),
  kick: ({ front, queue }) => front.setVringKick(0, queue.kick.fd),
  enable: ({ front }) => front.setVringEnable(0, true),
  memory: ({ front, regions }) => front.setMemTable(regions)
}

/** Each message first and last, and kick before enable as well as after it. */
function orders (): string[][] {
  const names = Object.keys(messages)
  const turned = names.map((_, index) => [...names.slice(index), ...names.slice(0, index)])
  return [...turned, [...names].reverse()]
}

for (const kicked of [true, false]) {
  define(`a request is there before the ring, ${kicked ? 'and kicked for' : 'never kicked for'}: it is served once all is told, in whatever order`, async ({ open }) => {
    for (const order of orders()) {
      const guest = await open()
      const { queue } = guest
      const [, , status] = queue.goodChain()
      queue.offer([{ address: guest.header(VIRTIO_BLK_T_FLUSH), length: 16 }, status])
      if (kicked) queue.kick.signal()
      await inCase(order.join(), async () => {
        for (const [told, name] of order.entries()) {
          assert.equal(queue.collect().length, 0, `after ${told} messages`)
          await messages[name]!(guest)
        }
        await queue.answers(1)
      })
      assert.equal(guest.memory.getUint8(status.address), VIRTIO_BLK_S_OK)
      guest.front.close()
    }
  })
}

define('a ring that is disabled serves nothing, loses no kick, and goes on where it was', async ({ connect }) => {
  const { front, queue } = await connect()
  assert.equal((await queue.getId()).status, VIRTIO_BLK_S_OK)
  for (let round = 2; round <= 4; round++) {
    await front.setVringEnable(0, false)
    queue.offer(queue.goodChain())
    queue.kick.signal()
    await front.getConfig(0, 8)
    assert.equal(queue.collect().length, round - 1)
    await front.setVringEnable(0, true)
    await queue.answers(round)
  }
})

define('without PROTOCOL_FEATURES a ring needs no enabling, and what disables it is not heeded', async ({ open }) => {
  const { front, features, queue, regions } = await open()
  await front.setFeatures(features & ~TransportFeature.PROTOCOL_FEATURES)
  await front.setMemTable(regions)
  await queue.configure()
  assert.equal((await queue.getId()).status, VIRTIO_BLK_S_OK)
  await front.setVringEnable(0, false)
  assert.equal((await queue.getId()).status, VIRTIO_BLK_S_OK)
})

test.run()
