import assert from 'node:assert/strict'
import { closeSync, fstatSync, writeSync } from 'node:fs'
import { suite } from 'uvu'
import { close, EFD_CLOEXEC, eventfd, NativeMemory, unixSocketPair, write } from '@node-vmm/libc'
import { EventNotifier } from '@node-vmm/event-poll'
import { heapGrowth } from '../../../test/support/heap-growth.ts'
import { pipe } from './pipe.ts'

const test = suite('EventNotifier')

test('many notifications are one', () => {
  const notifier = EventNotifier.create()
  assert.equal(notifier.clear(), false)
  for (let time = 0; time < 1000; time++) assert.equal(notifier.notify(), true)
  assert.equal(notifier.clear(), true)
  assert.equal(notifier.clear(), false)
  assert.equal(notifier.hungUp, false)
  notifier.close()
})

test('a full counter is signalled already: notify does not block and counts as done', () => {
  const fd = eventfd(0, EFD_CLOEXEC)
  const most = new NativeMemory(8)
  most.u8.fill(0xff)
  most.u8[0] = 0xfe
  assert.equal(write(fd, most.address, 8), 8)
  // The eventfd was made blocking: the notifier mends that.
  const notifier = EventNotifier.fromFd(fd, { owned: true })
  assert.equal(notifier.notify(), true)
  assert.equal(notifier.clear(), true)
  assert.equal(notifier.clear(), false)
  notifier.close()
  most.close()
})

test('a full pipe counts as done, and clear takes all of it', () => {
  const { readEnd, writeEnd } = pipe()
  const out = EventNotifier.fromFd(writeEnd, { owned: true })
  const into = EventNotifier.fromFd(readEnd, { owned: true })
  for (let time = 0; time < 65536 / 8 + 100; time++) assert.equal(out.notify(), true)
  assert.equal(into.clear(), true)
  assert.equal(into.clear(), false)
  assert.equal(into.hungUp, false)
  assert.equal(out.notify(), true)
  assert.equal(into.clear(), true)
  out.close()
  assert.equal(into.clear(), false)
  assert.equal(into.hungUp, true)
  into.close()
})

test('a pipe with one odd byte is signalled', () => {
  const { readEnd, writeEnd } = pipe()
  const into = EventNotifier.fromFd(readEnd, { owned: true })
  writeSync(writeEnd, 'x')
  assert.equal(into.clear(), true)
  assert.equal(into.clear(), false)
  into.close()
  closeSync(writeEnd)
})

test('notify says when the other side is gone', () => {
  const { readEnd, writeEnd } = pipe()
  const out = EventNotifier.fromFd(writeEnd, { owned: true })
  closeSync(readEnd)
  assert.equal(out.notify(), false)
  out.close()
  const [one, other] = unixSocketPair()
  const socket = EventNotifier.fromFd(one, { owned: true })
  assert.equal(socket.notify(), true)
  close(other)
  assert.equal(socket.notify(), false)
  socket.close()
})

test('close closes what is owned only, once, and what is closed notifies nobody', () => {
  const fd = eventfd()
  const guest = EventNotifier.fromFd(fd)
  guest.close()
  assert.ok(fstatSync(fd))
  const owner = EventNotifier.fromFd(fd, { owned: true })
  assert.equal(owner.fd, fd)
  owner[Symbol.dispose]()
  owner.close()
  assert.throws(() => fstatSync(fd), { code: 'EBADF' })
  assert.equal(owner.fd, -1)
  assert.equal(owner.notify(), false)
  assert.equal(owner.clear(), false)
})

test('a descriptor that is not open is an error at once', () => {
  assert.throws(() => EventNotifier.fromFd(1_000_000), { name: 'LinuxError', code: 'EBADF' })
})

test('notify and clear allocate nothing', () => {
  const notifier = EventNotifier.create()
  const times = 2000
  const grown = heapGrowth(() => {
    for (let time = 0; time < times; time++) {
      notifier.notify()
      notifier.clear()
    }
  }, 2 * times)
  assert.ok(grown <= 2 * times, `${grown / times} bytes a round`)
  notifier.close()
})

test.run()
