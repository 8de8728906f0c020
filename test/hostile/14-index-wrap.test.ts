import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_F_EVENT_IDX } from '../../packages/vring/src/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { eventually } from '../support/eventually.ts'
import type { HostileQueue } from '../support/hostile-guest.ts'

const define = hostile()
const EVENT_IDX = 1n << BigInt(VIRTIO_F_EVENT_IDX)

/** Offers the disk's serial number's request, as one descriptor, and waits for the answer. */
async function one (queue: HostileQueue): Promise<void> {
  const count = queue.collect().length + 1
  const chain = queue.goodChain()
  queue.offer([queue.table(chain)])
  queue.kick.signal()
  assert.deepEqual((await queue.answers(count))[count - 1], { id: 0, length: 21 })
  queue.guest.rewind(chain[0].address)
}

define('available, used and event index pass 65535, and interrupts come where they were asked for', async ({ connect }) => {
  const { queue } = await connect({ features: EVENT_IDX })
  await queue.restart(65530)
  const ring = queue.split
  // Wanted once the used index has passed 2: behind the wrap. The first of all always interrupts.
  ring.usedEvent(2)
  await one(queue)
  await eventually('the first interrupt', () => queue.call.count === 1)
  for (let index = 65532; index !== 3; index = (index + 1) & 0xffff) {
    await one(queue)
    assert.equal(ring.getUsedIndex(), index)
    assert.equal(queue.call.count, 1, `no interrupt at ${index}`)
  }
  await one(queue)
  await eventually('the interrupt that was asked for', () => queue.call.count === 2)
  assert.equal(ring.getUsedIndex(), 3)
  await eventually('the device asks for a kick at the next', () => ring.getAvailableEvent() === 3)
  assert.equal(await queue.guest.front.getVringBase(0), 3)
}, ['split'])

define('a stop right at the wrap, and on from there', async ({ connect }) => {
  const { queue, front } = await connect({ features: EVENT_IDX })
  await queue.restart(65535)
  await one(queue)
  assert.equal(await front.getVringBase(0), 0)
  await queue.start(0)
  for (let round = 0; round < 3; round++) await one(queue)
  assert.equal(await front.getVringBase(0), 3)
}, ['split'])

define('the wrap counters turn lap after lap, and interrupts come where they were asked for', async ({ connect }) => {
  const { queue, front } = await connect({ features: EVENT_IDX })
  const ring = queue.packed
  let at = 0x8000
  await one(queue)
  await eventually('the first interrupt', () => queue.call.count === 1)
  at = ring.after(at)
  for (let lap = 0; lap < 3; lap++) {
    // Wanted once this one is used: 15 from here, behind the end of the ring.
    ring.driverEvent({ index: ring.after(at, 15), flags: 2 })
    for (let descriptor = 0; descriptor < 15; descriptor++) {
      await one(queue)
      assert.equal(queue.call.count, 1 + lap, `no interrupt at descriptor ${descriptor} of lap ${lap}`)
    }
    await one(queue)
    await eventually('the interrupt that was asked for', () => queue.call.count === 2 + lap)
    at = ring.after(at, 16)
    await eventually('the device asks for a kick at the next', () => ring.getDeviceEvent().index === at)
  }
  const base = await front.getVringBase(0)
  assert.equal(base, queue.base(at))
  await queue.start(at)
  for (let round = 0; round < 20; round++) await one(queue)
}, ['packed'])

define('data is whole over many laps of a small ring', async ({ connect, sectors }) => {
  const guest = await connect({ size: 4 })
  const free = guest.allocate(0)
  for (let round = 0; round < 100; round++) {
    const bytes = sectorPattern(round, 2, round)
    assert.deepEqual(await guest.queue.write(round, bytes), { status: 0, written: 1 })
    assert.deepEqual((await guest.queue.read(round, bytes.length)).data, bytes)
    guest.rewind(free)
  }
  assert.deepEqual(sectors(99, 2), sectorPattern(99, 2, 99))
})

test.run()
