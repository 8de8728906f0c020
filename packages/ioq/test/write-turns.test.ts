import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { close, O_RDWR, open } from '@node-vmm/libc'
import { REQUEST_BUFFERED, WriteTurns } from '@node-vmm/ioq'
import { Harness, scratchFile } from './support.ts'

const test = suite('WriteTurns')

function twoQueues (): [WriteTurns, WriteTurns] {
  const buffer = WriteTurns.allocate()
  return [new WriteTurns(buffer), new WriteTurns(buffer)]
}

test('writes of one kind go together, of both kinds never', () => {
  const [one, other] = twoQueues()
  assert.equal(one.enter(false), true)
  assert.equal(other.enter(false), true)
  assert.equal(other.enter(true), false)
  one.leave(false)
  assert.equal(other.enter(true), false)
  other.leave(false)
  assert.equal(other.enter(true), true)
  assert.equal(other.enter(true), true)
  assert.equal(one.enter(false), false)
  other.leave(true)
  other.leave(true)
  assert.equal(one.enter(false), true)
})

test('who waits gets a turn: those under way are not joined any more', () => {
  for (const kind of [false, true]) {
    const [one, other] = twoQueues()
    assert.equal(one.enter(kind), true)
    assert.equal(other.enter(!kind), false)
    assert.equal(one.enter(kind), false)
    one.leave(kind)
    assert.equal(other.enter(!kind), true)
    assert.equal(other.enter(!kind), false, 'and now the first one waits')
    other.leave(!kind)
    assert.equal(one.enter(kind), true)
    assert.equal(one.enter(kind), false, 'and now the second one')
    one.leave(kind)
    assert.equal(other.enter(!kind), true)
    assert.equal(one.enter(kind), false)
    other.leave(!kind)
    assert.equal(one.enter(kind), true)
    assert.equal(one.enter(kind), true, 'and now nobody')
  }
})

test('who stops waiting is in nobody\'s way', () => {
  const [one, other] = twoQueues()
  assert.equal(one.enter(false), true)
  assert.equal(other.enter(true), false)
  assert.equal(one.enter(false), false)
  other.stopWaiting()
  other.stopWaiting()
  assert.equal(one.enter(false), true)
})

test('queues that share the memory take turns', () => {
  const file = scratchFile('/dev/shm')
  const bufferedFd = open(file.path, O_RDWR)
  const writeTurns = WriteTurns.allocate()
  const slow = new Harness('sync', file.fd, { bufferedFd, writeTurns, plan: { rules: [{ at: 0, fault: { kind: 'late', reaps: 3 } }] } })
  const other = new Harness('sync', file.fd, { bufferedFd, writeTurns })
  slow.queue.writev(0, [{ address: slow.memory.address, length: 512 }], 0)
  slow.queue.submit()
  other.queue.flags[0] = REQUEST_BUFFERED
  other.queue.writev(0, [{ address: other.memory.address, length: 512 }], 512)
  other.queue.readv(1, [{ address: other.memory.address, length: 512 }], 0)
  other.queue.submit()
  assert.equal(other.queue.stalled, true)
  assert.equal(other.queue.submissions, 0)
  slow.queue.writev(1, [{ address: slow.memory.address, length: 512 }], 1024)
  slow.queue.submit()
  assert.equal(slow.queue.stalled, true, 'the other one is next')
  while (slow.queue.completions === 0) slow.queue.reap()
  other.queue.submit()
  assert.equal(other.queue.stalled, false)
  slow.queue.submit()
  assert.equal(slow.queue.stalled, true)
  other.finish()
  slow.finish()
  assert.deepEqual([...slow.results, ...other.results], [[0, 512], [1, 512], [0, 512], [1, 512]])
  slow.close()
  other.close()
  close(bufferedFd)
  file.remove()
})

test('a queue that is closed waits for nothing', () => {
  const file = scratchFile('/dev/shm')
  const bufferedFd = open(file.path, O_RDWR)
  const writeTurns = WriteTurns.allocate()
  const holder = new WriteTurns(writeTurns)
  assert.equal(holder.enter(false), true)
  const harness = new Harness('sync', file.fd, { bufferedFd, writeTurns })
  harness.queue.flags[0] = REQUEST_BUFFERED
  harness.queue.writev(0, [{ address: harness.memory.address, length: 512 }], 0)
  assert.equal(harness.queue.close({ timeout: 20 }), 1)
  assert.equal(holder.enter(false), true)
  close(bufferedFd)
  file.remove()
})

test.run()
