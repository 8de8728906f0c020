import assert from 'node:assert/strict'
import { EventNotifier } from '@node-vmm/event-poll'
import { test } from 'uvu'
import type { BlockQueue } from '../src/block-queue.ts'
import { type Member, ThreadLoop } from '../src/thread-loop.ts'

test('while it looks at a ring the guest is asked for no kick, and before it sleeps it is', async () => {
  const loop = new ThreadLoop(Int32Array.of(1), 1000)
  const event = EventNotifier.create()
  let isArmed = false
  let looks = 0
  let sleeps = 0
  const queue: Pick<BlockQueue, 'arm' | 'disarm' | 'isBusy'> & { ioq: Partial<BlockQueue['ioq']> } = {
    ioq: { inFlight: 0, stalled: false },
    // What the sleep that comes now is ended by: a short one, after which looking is worth it.
    arm () {
      isArmed = true
      event.notify()
      return true
    },
    disarm () {
      isArmed = false
    },
    get isBusy () {
      assert.equal(isArmed, false)
      looks++
      return false
    }
  }
  const member: Member = { served: [{ queue: queue as BlockQueue, onCompletion: () => {} }], abandon () {}, markDone () {} }
  loop.add(member)
  loop.queuesChanged()
  loop.poll.add(event, () => {
    event.clear()
    assert.equal(isArmed, true)
    if (++sleeps === 10) loop.remove(member)
  })
  await loop.run()
  assert.ok(looks > 0)
  event.close()
})

test.run()
