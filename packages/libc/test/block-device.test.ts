import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { blockDiscard, close, errno, fdatasync, fileStatus, NativeMemory, O_RDONLY, O_RDWR, open, write } from '@node-vmm/libc'
import { withLoopDevice } from '../../../test/support/loop-device.ts'

const test = suite('block device')

test('gives space back', () => withLoopDevice({ directory: tmpdir(), bytes: 1 << 20 }, (device) => {
  const fd = open(device.path, O_RDWR)
  const behind = open(device.file, O_RDONLY)
  const memory = new NativeMemory(1 << 20)
  memory.u8.fill(1)
  assert.equal(write(fd, memory.address, 1 << 20), 1 << 20)
  assert.equal(fdatasync(fd), 0)
  const before = fileStatus(behind).allocated
  assert.equal(blockDiscard(fd, 4096, 1 << 19), 0)
  assert.equal(before - fileStatus(behind).allocated, 1 << 19)
  assert.equal(blockDiscard(fd, 1, 4096), -errno.EINVAL)
  assert.equal(blockDiscard(fd, 1 << 20, 4096), -errno.EINVAL)
  const readOnly = open(device.path, O_RDONLY)
  assert.equal(blockDiscard(readOnly, 0, 4096), -errno.EBADF)
  close(readOnly)
  memory.close()
  close(fd)
  close(behind)
}))

test('what is no block device has no discard', () => {
  for (const path of ['/dev/null', tmpdir()]) {
    const fd = open(path, O_RDONLY)
    assert.equal(blockDiscard(fd, 0, 4096), -errno.ENOTTY)
    close(fd)
  }
  assert.equal(blockDiscard(1_000_000, 0, 4096), -errno.EBADF)
})

test.run()
