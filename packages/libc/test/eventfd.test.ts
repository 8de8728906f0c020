import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import { close, errno, eventfd, NativeMemory, read, write } from '@node-vmm/libc'

const test = suite('eventfd')

test('adds up, gives all at once, and does not block', () => {
  const fd = eventfd(5)
  const memory = new NativeMemory(8)
  memory.setUint64(0, 2 ** 40)
  assert.equal(write(fd, memory.address, 8), 8)
  assert.equal(read(fd, memory.address, 8), 8)
  assert.equal(memory.getUint64(0), 2 ** 40 + 5)
  assert.equal(read(fd, memory.address, 8), -errno.EAGAIN)
  assert.equal(read(fd, memory.address, 4), -errno.EINVAL)
  close(fd)
  memory.close()
})

test('is close-on-exec', () => {
  const fd = eventfd()
  assert.match(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'), /flags:\s+02004002/)
  close(fd)
})

test.run()
