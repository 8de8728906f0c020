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
    ioq: { inFlight: 0, stalled: false, enableNotification: () => 'empty' },
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

test('what is complete before a sleep is handed out first, and with ever more of that others have their turn', async () => {
  const loop = new ThreadLoop()
  const event = EventNotifier.create()
  const events: string[] = []
  let left = 5
  const queue = {
    ioq: {
      inFlight: 1,
      stalled: false,
      enableNotification () {
        if (left > 0) return 'more'
        // It is asleep when this comes, and awake after it.
        event.notify()
        return 'empty'
      },
      disableNotification () {}
    },
    arm () {
      events.push('arm')
      return true
    }
  }
  const onCompletion = (): void => {
    left--
    events.push('complete')
  }
  const member: Member = { served: [{ queue: queue as unknown as BlockQueue, onCompletion }], abandon () {}, markDone () {} }
  loop.add(member)
  loop.queuesChanged()
  // Commands come by epoll only: this one is there from the beginning.
  const command = EventNotifier.create()
  command.notify()
  loop.poll.add(command, () => events.push('command'))
  loop.poll.add(event, () => {
    events.push('wake')
    loop.remove(member)
  })
  await loop.run()
  const pair = ['arm', 'complete']
  assert.deepEqual(events, [...pair, ...pair, 'command', ...pair, ...pair, ...pair, 'arm', 'wake'])
  event.close()
  command.close()
})

test.run()
