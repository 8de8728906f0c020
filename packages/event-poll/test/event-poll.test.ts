import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import { Worker } from 'node:worker_threads'
import { close, EPOLLIN, EPOLLOUT, eventfd, NativeMemory, read, shutdown, unixSocketPair } from '@node-vmm/libc'
import { EventNotifier, EventPoll, type EventSource } from '@node-vmm/event-poll'
import { runWithFewDescriptors } from '../../../test/support/few-descriptors.ts'
import { heapGrowth } from '../../../test/support/heap-growth.ts'
import { pipe } from './pipe.ts'

const test = suite('EventPoll')
const blockedWorker = new URL('./blocked-worker.ts', import.meta.url)
let poll: EventPoll
test.before.each(() => { poll = new EventPoll() })
test.after.each(() => poll.close())

/**
 * The longest of a few waits for nothing, in milliseconds. The kernel may interrupt one: from Node 24 on, the io_uring of
 * a child process's loop goes about now.
 */
function longestSleep (poll: EventPoll, milliseconds: number): number {
  return Math.max(...Array.from({ length: 5 }, () => {
    const started = performance.now()
    assert.equal(poll.poll(milliseconds), 0)
    return performance.now() - started
  }))
}

test('runs the callback of what is ready, once a notification', () => {
  const [one, other] = [EventNotifier.create(), EventNotifier.create()]
  const ran: string[] = []
  poll.add(one, (events) => { ran.push(`one ${events}`) })
  poll.add(other, () => { ran.push('other') })
  assert.equal(poll.poll(0), 0)
  one.notify()
  one.notify()
  assert.equal(poll.poll(-1), 1)
  assert.deepEqual(ran, [`one ${EPOLLIN}`])
  assert.equal(poll.poll(0), 0)
  one.notify()
  other.notify()
  assert.equal(poll.poll(-1), 2)
  assert.deepEqual(ran.slice(1).sort(), [`one ${EPOLLIN}`, 'other'])
})

test('waits as long as it is told', () => {
  assert.ok(longestSleep(poll, 40) >= 39)
})

test('fractions of milliseconds count', () => {
  const waits = Array.from({ length: 20 }, () => {
    const started = performance.now()
    assert.equal(poll.poll(0.1), 0)
    return performance.now() - started
  })
  assert.ok(Math.min(...waits) >= 0.1)
  assert.ok(Math.min(...waits) < 1)
  assert.ok(longestSleep(poll, 40.5) >= 40)
  const notifier = EventNotifier.create()
  let ran = 0
  poll.add(notifier, () => { ran++ })
  notifier.notify()
  assert.equal(poll.poll(59_999.5), 1)
  assert.equal(ran, 1)
  notifier.close()
})

test('where the kernel knows whole milliseconds only, fractions are rounded up', () => {
  const { status, stderr } = spawnSync(process.execPath, [...process.execArgv, fileURLToPath(new URL('./whole-milliseconds.ts', import.meta.url))],
    { timeout: 60_000, killSignal: 'SIGKILL', encoding: 'utf8' })
  assert.equal(status, 0, stderr)
})

for (const timeout of [-1, 1000.5]) {
  test(`waiting allocates nothing, with a time limit of ${timeout}`, () => {
    const notifier = EventNotifier.create()
    let ran = 0
    poll.add(notifier, () => { ran++ }, { edges: true })
    const times = 2000
    const grown = heapGrowth(() => {
      for (let time = 0; time < times; time++) {
        notifier.notify()
        poll.poll(timeout)
      }
    }, 2 * times)
    assert.ok(ran >= times)
    assert.ok(grown <= 2 * times, `${grown / times} bytes a wait`)
    notifier.close()
  })
}

test('a notification during the callback is not lost', () => {
  const notifier = EventNotifier.create()
  let ran = 0
  poll.add(notifier, () => { if (ran++ === 0) notifier.notify() })
  notifier.notify()
  assert.equal(poll.poll(0), 1)
  assert.equal(poll.poll(0), 1)
  assert.equal(poll.poll(0), 0)
})

test('watched by its edges, an eventfd wakes once for each notification and is not read', () => {
  const notifier = EventNotifier.create()
  let ran = 0
  notifier.notify()
  const source = poll.add(notifier, () => { if (ran++ === 2) notifier.notify() }, { edges: true })
  assert.equal(poll.poll(0), 1, 'of before')
  assert.equal(poll.poll(0), 0)
  notifier.notify()
  notifier.notify()
  assert.equal(poll.poll(0), 1, 'two at once')
  assert.equal(poll.poll(0), 0)
  notifier.notify()
  assert.equal(poll.poll(0), 1)
  assert.equal(poll.poll(0), 1, 'during the callback')
  assert.equal(poll.poll(0), 0)
  poll.modify(source, 0)
  notifier.notify()
  assert.equal(poll.poll(0), 0, 'paused')
  poll.modify(source, EPOLLIN)
  assert.equal(poll.poll(0), 1, 'of meanwhile')
  assert.equal(poll.poll(0), 0, 'by its edges as before')
  assert.equal(notifier.clear(), true)
  notifier.close()
})

test('a pipe that stands in for an eventfd is never watched by its edges: it would fill up', () => {
  const { readEnd, writeEnd } = pipe()
  const [reader, writer] = [EventNotifier.fromFd(readEnd, { owned: true }), EventNotifier.fromFd(writeEnd, { owned: true })]
  let ran = 0
  poll.add(reader, () => { ran++ }, { edges: true })
  writer.notify()
  assert.equal(poll.poll(0), 1)
  assert.equal(reader.clear(), false)
  assert.deepEqual([reader.isEventfd, writer.isEventfd], [false, false])
  writer.close()
  reader.close()
})

test('an edge is not lost to what another callback throws', () => {
  const [one, other] = [EventNotifier.create(), EventNotifier.create()]
  const ran: string[] = []
  const run = (name: string) => (): void => {
    ran.push(name)
    if (ran.length === 1) throw new Error(name)
  }
  poll.add(one, run('one'), { edges: true })
  poll.add(other, run('other'), { edges: true })
  one.notify()
  other.notify()
  assert.throws(() => poll.poll(0), { message: /one|other/ })
  assert.equal(poll.poll(0), 1)
  assert.deepEqual([...ran].sort(), ['one', 'other'])
  assert.equal(poll.poll(0), 0)
  one.close()
  other.close()
})

test('a bare descriptor, or a notifier that is not to be cleared, is reported for as long as it is ready', () => {
  const notifier = EventNotifier.create()
  const fd = eventfd(1)
  let ran = 0
  poll.add(notifier, () => { ran++ }, { clear: false })
  poll.add(fd, () => { ran++ })
  notifier.notify()
  for (let turn = 0; turn < 3; turn++) assert.equal(poll.poll(0), 2)
  assert.equal(ran, 6)
  notifier.clear()
  assert.equal(poll.poll(0), 1)
  close(fd)
})

test('an event of a source that was removed in the same batch is not delivered', () => {
  const notifiers = Array.from({ length: 8 }, () => EventNotifier.create())
  const sources: EventSource[] = []
  let ran = 0
  for (const notifier of notifiers) {
    sources.push(poll.add(notifier, () => {
      ran++
      for (const source of sources) poll.remove(source)
    }))
    notifier.notify()
  }
  assert.equal(poll.poll(0), 1)
  assert.equal(ran, 1)
  assert.equal(poll.poll(0), 0)
  assert.ok(sources.every((source) => !source.active))
})

test('nor is it delivered to a source that was given its place', () => {
  const [one, other, next] = [EventNotifier.create(), EventNotifier.create(), EventNotifier.create()]
  const pair = [one, other]
  let wrong = 0
  const sources: EventSource[] = pair.map((notifier, index) => poll.add(notifier, () => {
    poll.remove(sources[1 - index]!)
    poll.add(next, () => { wrong++ })
  }))
  for (const notifier of pair) notifier.notify()
  assert.equal(poll.poll(0), 1)
  assert.equal(wrong, 0)
})

test('delivers all of more events than one wait fetches', () => {
  let ran = 0
  const notifiers = Array.from({ length: 200 }, () => EventNotifier.create())
  const sources = notifiers.map((notifier) => poll.add(notifier, () => { ran++ }))
  for (const notifier of notifiers) notifier.notify()
  while (poll.poll(0) > 0) { /* the next batch */ }
  assert.equal(ran, 200)
  for (const [index, source] of sources.entries()) {
    poll.remove(source)
    notifiers[index]!.close()
  }
})

test('modify changes what is waited for, and pauses', () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  const seen: number[] = []
  const source = poll.add(one, (events) => { seen.push(events) }, { events: EPOLLOUT })
  writeSync(other, 'x')
  poll.poll(0)
  assert.equal(poll.modify(source, EPOLLIN | EPOLLOUT), true)
  poll.poll(0)
  poll.modify(source, EPOLLIN)
  poll.poll(0)
  poll.modify(source, 0)
  assert.equal(poll.poll(0), 0)
  assert.equal(source.active, true)
  assert.deepEqual(seen, [EPOLLOUT, EPOLLIN | EPOLLOUT, EPOLLIN])
  poll.modify(source, EPOLLIN)
  assert.equal(poll.poll(0), 1)
  poll.remove(source)
  assert.equal(poll.modify(source, EPOLLIN), false)
  close(one)
  close(other)
})

test('a pause within a batch holds for an event that was fetched already', () => {
  const [one, other] = [EventNotifier.create(), EventNotifier.create()]
  const pair = [one, other]
  let ran = 0
  const sources: EventSource[] = pair.map((notifier, index) => poll.add(notifier, () => {
    ran++
    poll.modify(sources[1 - index]!, 0)
  }))
  for (const notifier of pair) notifier.notify()
  assert.equal(poll.poll(0), 1)
  assert.equal(poll.poll(0), 0)
  assert.equal(ran, 1)
  for (const source of sources) {
    assert.equal(source.active, true)
    poll.modify(source, EPOLLIN)
  }
  assert.equal(poll.poll(0), 1, 'the event is still there')
})

test('a pipe whose writer is gone is delivered, then hangs up once, and never spins', () => {
  const { readEnd, writeEnd } = pipe()
  const notifier = EventNotifier.fromFd(readEnd, { owned: true })
  const ran: string[] = []
  const source = poll.add(notifier, () => { ran.push('ready') }, { onHangup: () => { ran.push('hangup') } })
  writeSync(writeEnd, 'x')
  closeSync(writeEnd)
  while (poll.poll(0) > 0) { /* until quiet */ }
  assert.deepEqual(ran, ['ready', 'hangup'])
  assert.equal(source.active, false)
  assert.equal(poll.modify(source, EPOLLIN), false)
  poll.remove(source)
  assert.ok(longestSleep(poll, 50) >= 49, 'it slept')
  notifier.close()
})

test('a hang-up without a handler, or while paused, removes the source as well', () => {
  for (const events of [EPOLLIN, 0]) {
    const { readEnd, writeEnd } = pipe()
    let ran = 0
    const source = poll.add(readEnd, () => { ran++ }, { events })
    closeSync(writeEnd)
    assert.equal(poll.poll(0), 0)
    assert.equal(source.active, false)
    assert.equal(ran, 0)
    closeSync(readEnd)
  }
})

test('a socket that only ends its direction does not make a notifier spin', () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  const notifier = EventNotifier.fromFd(one)
  let hangups = 0
  poll.add(notifier, () => assert.fail('nothing was sent'), { onHangup: () => { hangups++ } })
  shutdown(other)
  while (poll.poll(0) > 0) { /* until quiet */ }
  assert.equal(hangups, 1)
  close(one)
  close(other)
})

test('an eventfd that somebody else cleared is no event', () => {
  const [one, other] = [EventNotifier.create(), EventNotifier.create()]
  const pair = [one, other]
  let ran = 0
  for (const [index, notifier] of pair.entries()) {
    poll.add(notifier, () => {
      ran++
      pair[1 - index]!.clear()
    })
    notifier.notify()
  }
  assert.equal(poll.poll(0), 1)
  assert.equal(ran, 1)
})

test('what a callback throws comes out of poll, and the others are delivered by the next', () => {
  const notifiers = [EventNotifier.create(), EventNotifier.create(), EventNotifier.create()]
  let ran = 0
  for (const notifier of notifiers) {
    poll.add(notifier, () => {
      if (ran++ === 0) throw new Error('from a callback')
    })
    notifier.notify()
  }
  assert.throws(() => poll.poll(0), /from a callback/)
  assert.equal(poll.poll(0), 2)
  assert.equal(ran, 3)
})

test('run returns when stopped: before it, from a callback, and again', () => {
  poll.stop()
  poll.run()
  const notifier = EventNotifier.create()
  let ran = 0
  poll.add(notifier, () => {
    if (++ran < 3) notifier.notify()
    else poll.stop()
  })
  notifier.notify()
  poll.run()
  assert.equal(ran, 3)
  notifier.notify()
  poll.run()
  assert.equal(ran, 4)
})

test('a worker that is blocked in run is stopped from here', async () => {
  const worker = new Worker(blockedWorker)
  const stopFd = await new Promise<number>((resolve) => worker.once('message', resolve))
  const ended = new Promise((resolve) => worker.once('exit', resolve))
  await new Promise((resolve) => setTimeout(resolve, 100))
  EventPoll.stop(stopFd)
  assert.equal(await ended, 0)
})

test('a process whose worker is blocked in run can end all the same', () => {
  const script = `
    const { Worker } = require('node:worker_threads')
    new Worker(new URL('${blockedWorker}')).on('message', () => setTimeout(() => process.exit(7), 100))
  `
  const { status, stderr } = spawnSync(process.execPath, [...process.execArgv, '-e', script],
    { timeout: 60_000, killSignal: 'SIGKILL', encoding: 'utf8' })
  assert.equal(status, 7, stderr)
})

test('misuse is told', () => {
  const notifier = EventNotifier.create()
  const source = poll.add(notifier, () => {
    assert.throws(() => poll.poll(0), { name: 'EventPollError', code: 'ERR_EVENT_POLL_REENTERED' })
    assert.throws(() => poll.run(), { code: 'ERR_EVENT_POLL_REENTERED' })
  })
  notifier.notify()
  assert.equal(poll.poll(0), 1)
  assert.throws(() => poll.add(notifier, () => {}), { name: 'LinuxError', code: 'EEXIST' })
  assert.throws(() => poll.add(1_000_000, () => {}), { code: 'EBADF' })
  const other = new EventPoll()
  assert.throws(() => other.remove(source), { code: 'ERR_EVENT_POLL_FOREIGN_SOURCE' })
  assert.throws(() => other.modify(source, 0), { code: 'ERR_EVENT_POLL_FOREIGN_SOURCE' })
  other.close()
  poll.close()
  poll.close()
  assert.equal(poll.closed, true)
  assert.equal(source.active, false)
  for (const use of [() => poll.poll(0), () => poll.run(), () => poll.add(notifier, () => {}), () => poll.modify(source, 0)]) {
    assert.throws(use, { code: 'ERR_EVENT_POLL_CLOSED' })
  }
  poll.remove(source)
  poll.stop()
  notifier.close()
})

test('a failed add leaves no place behind', () => {
  const notifier = EventNotifier.create()
  let ran = 0
  const first = poll.add(notifier, () => { ran++ })
  poll.remove(first)
  for (let time = 0; time < 3; time++) assert.throws(() => poll.add(1_000_000, () => {}), { code: 'EBADF' })
  poll.add(notifier, () => { ran++ })
  notifier.notify()
  assert.equal(poll.poll(0), 1)
  assert.equal(ran, 1)
})

test('a callback may close the poll, also within run', () => {
  const notifiers = [EventNotifier.create(), EventNotifier.create()]
  let ran = 0
  for (const notifier of notifiers) {
    poll.add(notifier, () => {
      ran++
      poll.close()
    })
    notifier.notify()
  }
  poll.run()
  assert.equal(ran, 1)
  assert.equal(poll.closed, true)
})

test('a source that was closed first can still be removed', () => {
  const notifier = EventNotifier.create()
  const source = poll.add(notifier, () => {})
  notifier.close()
  poll.remove(source)
  assert.equal(source.active, false)
})

test('polls nest', () => {
  const inner = new EventPoll()
  const notifier = EventNotifier.create()
  let ran = 0
  inner.add(notifier, () => { ran++ })
  poll.add(inner.fd, () => { inner.poll(0) })
  notifier.notify()
  assert.equal(poll.poll(0), 1)
  assert.equal(poll.poll(0), 0)
  assert.equal(ran, 1)
  inner.close()
})

test('a bare socket is read by its callback until the end', () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  const buffer = new NativeMemory(64)
  const got: number[] = []
  const source: EventSource = poll.add(one, () => {
    const length = read(one, buffer.address, 64)
    got.push(length)
    if (length === 0) poll.remove(source)
  })
  writeSync(other, 'hello')
  close(other)
  while (poll.poll(0) > 0) { /* until quiet */ }
  assert.deepEqual(got, [5, 0])
  close(one)
  buffer.close()
})

// It left its eventfd, where the epoll instance could not be had.
test('a poll that cannot be had for lack of descriptors leaves none behind', () => {
  runWithFewDescriptors(new URL('few-descriptors.ts', import.meta.url))
})

test.run()
