import assert from 'node:assert/strict'
import { suite } from 'uvu'
import {
  close, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, epollCreate, epollCtl, EPOLLHUP, EPOLLIN, EPOLLOUT, epollPwait2, EPOLLRDHUP,
  epollWait, errno, eventfd, NativeMemory, platform, unixSocketPair
} from '@node-vmm/libc'

const test = suite('epoll')
const { epollEventBytes, epollDataOffset } = platform()
const dataWord = epollDataOffset / 4

test('tells what is ready, with the data that it was given', () => {
  const epoll = epollCreate()
  const memory = new NativeMemory(8 * epollEventBytes)
  const fds = [eventfd(1), eventfd(0), eventfd(1)]
  fds.forEach((fd, index) => {
    memory.u32[0] = EPOLLIN
    memory.u32[dataWord] = 100 + index
    memory.u32[dataWord + 1] = 0xfeed
    epollCtl(epoll, EPOLL_CTL_ADD, fd, memory.address)
  })
  memory.u32.fill(0)
  assert.equal(epollWait(epoll, memory.address, 8, 0), 2)
  const stride = epollEventBytes / 4
  const seen = [0, 1].map((index) => [memory.u32[index * stride], memory.u32[index * stride + dataWord], memory.u32[index * stride + dataWord + 1]])
  assert.deepEqual(seen.sort(), [[EPOLLIN, 100, 0xfeed], [EPOLLIN, 102, 0xfeed]])
  assert.equal(epollWait(epoll, memory.address, 1, 0), 1)
  memory.u32[0] = EPOLLOUT
  epollCtl(epoll, EPOLL_CTL_MOD, fds[1]!, memory.address)
  epollCtl(epoll, EPOLL_CTL_DEL, fds[0]!, 0)
  epollCtl(epoll, EPOLL_CTL_DEL, fds[2]!, 0)
  assert.equal(epollWait(epoll, memory.address, 8, 0), 1)
  assert.equal(memory.u32[0], EPOLLOUT)
  for (const fd of [...fds, epoll]) close(fd)
  memory.close()
})

test('tells a hang-up', () => {
  const epoll = epollCreate()
  const memory = new NativeMemory(epollEventBytes)
  const [one, other] = unixSocketPair()
  memory.u32[0] = EPOLLRDHUP
  epollCtl(epoll, EPOLL_CTL_ADD, one, memory.address)
  assert.equal(epollWait(epoll, memory.address, 1, 0), 0)
  close(other)
  assert.equal(epollWait(epoll, memory.address, 1, -1), 1)
  assert.equal(memory.u32[0], EPOLLRDHUP | EPOLLHUP)
  close(one)
  close(epoll)
  memory.close()
})

test('waits for nanoseconds, or until something is ready', () => {
  const epoll = epollCreate()
  const memory = new NativeMemory(16 + epollEventBytes)
  const wait = (nanoseconds: number): number => {
    memory.setUint64(0, 0)
    memory.setUint64(8, nanoseconds)
    return epollPwait2(epoll, memory.address + 16, 1, memory.address)
  }
  const waits = Array.from({ length: 20 }, () => {
    const started = performance.now()
    assert.equal(wait(100_000), 0)
    return performance.now() - started
  })
  assert.ok(Math.min(...waits) >= 0.1)
  assert.ok(Math.min(...waits) < 1, 'no more than whole milliseconds')
  const fd = eventfd(1)
  memory.u32[4] = EPOLLIN
  epollCtl(epoll, EPOLL_CTL_ADD, fd, memory.address + 16)
  memory.u32[4] = 0
  assert.equal(wait(999_999_999), 1)
  assert.equal(memory.u32[4], EPOLLIN)
  assert.equal(wait(1_000_000_000), -errno.EINVAL)
  for (const each of [fd, epoll]) close(each)
  memory.close()
})

test('errors: thrown where a call is misused, values where a loop waits', () => {
  const epoll = epollCreate()
  const memory = new NativeMemory(epollEventBytes)
  assert.throws(() => epollCtl(epoll, EPOLL_CTL_ADD, 1_000_000, memory.address), { code: 'EBADF', message: /^epoll_ctl fd 1000000: / })
  const fd = eventfd()
  assert.throws(() => epollCtl(epoll, EPOLL_CTL_DEL, fd, 0), { code: 'ENOENT' })
  close(fd)
  assert.equal(epollWait(epoll, memory.address, 0, 0), -errno.EINVAL)
  close(epoll)
  assert.equal(epollWait(epoll, memory.address, 1, 0), -errno.EBADF)
  memory.close()
})

test.run()
