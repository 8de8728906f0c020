import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { errno, errorName, LinuxError, open, O_RDONLY, UnsupportedPlatformError } from '@node-vmm/libc'

const test = suite('errors')

test('names numbers as Node does, also where one has two names', () => {
  assert.equal(errorName(2), 'ENOENT')
  assert.equal(errorName(errno.EAGAIN), 'EAGAIN')
  assert.equal(errorName(errno.EOPNOTSUPP), 'ENOTSUP')
  assert.equal(errorName(4095), 'E4095')
})

test('has the shape of a system error of Node, with the subject and the remedy', () => {
  const error = new LinuxError('io_setup', errno.EAGAIN, { subject: 'for 8 requests', remedy: 'Ask for less.' })
  assert.equal(error.name, 'LinuxError')
  assert.equal(error.code, 'EAGAIN')
  assert.equal(error.errno, 11)
  assert.equal(error.syscall, 'io_setup')
  assert.equal(error.message, 'io_setup for 8 requests: EAGAIN, resource temporarily unavailable. Ask for less.')
  assert.equal(new LinuxError('fsync', errno.EIO).message, 'fsync: EIO, i/o error')
})

test('a failed call throws it', () => {
  assert.throws(() => open('/no/such/file', O_RDONLY), (error) => error instanceof LinuxError && error instanceof Error &&
    error.code === 'ENOENT' && error.syscall === 'open' && error.message === 'open /no/such/file: ENOENT, no such file or directory')
})

test('an unsupported platform is named', () => {
  const error = new UnsupportedPlatformError('win32', 'x64')
  assert.equal(error.code, 'ERR_UNSUPPORTED_PLATFORM')
  assert.match(error.message, /this is win32 on x64/)
})

test.run()
