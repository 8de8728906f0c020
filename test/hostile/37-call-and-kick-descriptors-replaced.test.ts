import assert from 'node:assert/strict'
import { test } from 'uvu'
import { eventually } from '../support/eventually.ts'
import { footprint, holdsAgain } from '../support/footprint.ts'
import { hostile } from '../support/hostile.ts'
import { EventCounter } from '../support/hostile-guest.ts'

const define = hostile()

define('a call descriptor replaced on a running ring is signalled once, and from then on instead of the old one', async ({ connect, program }) => {
  const { front, queue } = await connect()
  const held = footprint(program.pid)
  const calls = [new EventCounter(), new EventCounter(), queue.call]
  let old = queue.call
  for (const call of calls) {
    await queue.getId()
    await eventually('the old one is signalled', () => old.count > 0)
    old.take()
    call.take()
    await front.setVringCall(0, call.fd)
    assert.equal(call.take(), 1, 'the new one is signalled, for what may have been lost with the old')
    await holdsAgain(program.pid, held)
    await queue.getId()
    await eventually('the new one is signalled', () => call.count > 0)
    if (old !== call) assert.equal(old.count, 0)
    old = call
  }
  for (const call of calls.slice(0, 2)) call.close()
})

define('a ring without a call descriptor is polled, and served', async ({ connect }) => {
  const { front, queue } = await connect()
  await front.setVringCall(0, undefined)
  queue.call.take()
  for (let count = 0; count < 5; count++) assert.equal((await queue.getId()).written, 21)
  assert.equal(queue.call.count, 0)
})

define('a kick descriptor replaced on a running ring: the new one counts, the old one no more', async ({ connect, program }) => {
  const { front, queue } = await connect()
  await queue.getId()
  const held = footprint(program.pid)
  const kick = new EventCounter()
  await front.setVringKick(0, kick.fd)
  await holdsAgain(program.pid, held)
  queue.offer(queue.goodChain())
  kick.signal()
  await queue.answers(2)
  queue.kick.signal()
  assert.equal(queue.kick.take(), 1, 'nobody reads the old one')
  kick.close()
})

define('memory that is passed again, the same files: the ring goes on where it was', async ({ connect, program }) => {
  const { front, queue, regions } = await connect()
  const held = footprint(program.pid)
  for (let count = 1; count <= 5; count++) {
    await queue.getId()
    await front.setMemTable(regions)
    await holdsAgain(program.pid, held)
  }
  await queue.answers(5)
  await front.getVringBase(0)
  await front.setMemTable(regions)
  await front.setVringKick(0, queue.kick.fd)
  assert.equal((await queue.getId()).written, 21)
})

test.run()
