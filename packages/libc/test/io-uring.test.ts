import assert from 'node:assert/strict'
import { suite } from 'uvu'
import {
  close, errno, eventfd, IO_URING_CQE_BYTES, IO_URING_PARAMS_BYTES, IO_URING_SQE_BYTES, IORING_ENTER_GETEVENTS,
  IORING_FEAT_SINGLE_MMAP, IORING_OFF_SQ_RING, IORING_OFF_SQES, IORING_OP_NOP, IORING_REGISTER_EVENTFD, ioUringEnter,
  ioUringRegister, ioUringSetup, mmap, munmap, NativeMemory, read, viewMemory
} from '@node-vmm/libc'

const test = suite('io_uring')

test('takes an entry, completes it, and tells an eventfd', () => {
  const params = new NativeMemory(IO_URING_PARAMS_BYTES)
  const ring = ioUringSetup(4, params.address)
  if (ring === -errno.ENOSYS || ring === -errno.EPERM) return console.log('skipped: no io_uring here')
  assert.ok(ring >= 0)
  const word = (index: number): number => params.u32[index]!
  assert.ok((word(5) & IORING_FEAT_SINGLE_MMAP) !== 0)
  const length = word(20 + 5) + word(1) * IO_URING_CQE_BYTES
  const rings = mmap({ length, fd: ring, offset: IORING_OFF_SQ_RING })
  const entries = mmap({ length: word(0) * IO_URING_SQE_BYTES, fd: ring, offset: IORING_OFF_SQES })
  const view = new Uint32Array(viewMemory(rings, length))
  const entry = new Uint32Array(viewMemory(entries, IO_URING_SQE_BYTES))
  const argument = new NativeMemory(8)
  const counter = eventfd()
  argument.i32[0] = counter
  assert.equal(ioUringRegister(ring, IORING_REGISTER_EVENTFD, argument.address, 1), 0)
  entry[0] = IORING_OP_NOP
  entry[8] = 4711
  view[word(10 + 6) / 4] = 0
  Atomics.store(view, word(10 + 1) / 4, 1)
  assert.equal(ioUringEnter(ring, 1, 1, IORING_ENTER_GETEVENTS), 1)
  assert.equal(Atomics.load(view, word(20 + 1) / 4), 1)
  assert.equal(view[word(20 + 5) / 4], 4711)
  assert.equal(read(counter, argument.address, 8), 8)
  munmap(rings, length)
  munmap(entries, word(0) * IO_URING_SQE_BYTES)
  close(ring)
  close(counter)
  argument.close()
  params.close()
})

test('failures are values', () => {
  const params = new NativeMemory(IO_URING_PARAMS_BYTES)
  assert.ok([-errno.EINVAL, -errno.ENOSYS, -errno.EPERM].includes(ioUringSetup(0, params.address)))
  assert.ok([-errno.EBADF, -errno.ENOSYS, -errno.EPERM].includes(ioUringEnter(1_000_000, 0, 0, 0)))
  assert.ok([-errno.EBADF, -errno.ENOSYS, -errno.EPERM].includes(ioUringRegister(1_000_000, 4, 0, 0)))
  params.close()
})

test.run()
