import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_F_EVENT_IDX } from '../../packages/vring/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile } from '../support/hostile.ts'
import type { HostileQueue } from '../support/hostile-guest.ts'

const define = hostile()
const EVENT_IDX = 1n << BigInt(VIRTIO_F_EVENT_IDX)

/** Asks for an interrupt at the next used chain, in the way that was agreed on. */
function wantInterrupt (queue: HostileQueue, eventIdx: boolean, index: number): void {
  if (queue.isPacked) queue.packed.driverEvent(eventIdx ? { index: queue.packed.after(0x8000, 3 * index), flags: 2 } : { index: 0, flags: 0 })
  else if (eventIdx) queue.split.usedEvent(index)
  else queue.split.availableFlags(0)
}

define('EVENT_IDX is switched on and off while the ring runs: it goes on, and interrupts as agreed', async ({ connect }) => {
  const { front, features, queue } = await connect()
  for (let round = 0; round < 6; round++) {
    const eventIdx = round % 2 === 0
    await front.setFeatures(eventIdx ? features | EVENT_IDX : features)
    wantInterrupt(queue, eventIdx, round)
    queue.call.take()
    assert.equal((await queue.getId()).written, 21)
    await eventually('the interrupt', () => queue.call.count > 0)
  }
  assert.equal(queue.error.count, 0)
})

define('features that are set again as they are, and SET_OWNER, do not disturb a ring', async ({ connect }) => {
  const { front, features, queue } = await connect()
  for (let round = 0; round < 10; round++) {
    await front.setFeatures(features)
    await front.setOwner()
    assert.equal((await queue.getId()).written, 21)
  }
})

define('RESET_DEVICE, and status 0, again and again: the ring stops, all is forgotten, and it begins anew', async ({ connect }) => {
  const { front, features, queue, memory } = await connect()
  for (let round = 0; round < 4; round++) {
    assert.equal((await queue.getId()).written, 21)
    queue.offer(queue.goodChain())
    if (round % 2 === 0) await front.resetDevice()
    else await front.setStatus(0)
    // Twice is as good as once.
    await front.resetDevice()
    const given = queue.collect().length
    queue.kick.signal()
    await front.getConfig(0, 8)
    assert.equal(queue.collect().length, given, 'it is stopped')
    assert.equal(await front.getStatus(), 0)
    memory.write(queue.layout.descriptorAddress, new Uint8Array(queue.layout.usedAddress + 8 - queue.layout.descriptorAddress))
    await front.setFeatures(features)
    await queue.start()
  }
  assert.equal((await queue.getId()).written, 21)
  assert.equal(queue.error.count, 0)
})

define('a layout that is changed while the ring runs: it does not run in the other one\'s memory', async ({ connect }) => {
  const { front, features, queue } = await connect()
  assert.equal((await queue.getId()).written, 21)
  await front.setFeatures(features ^ 1n << 34n)
  queue.kick.signal()
  await front.getConfig(0, 8)
  await front.setFeatures(features)
  await front.getVringBase(0)
})

test.run()
