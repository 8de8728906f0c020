import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { suite } from 'uvu'
import {
  AIO_RING_MAGIC, errno, IOCB_BYTES, IOCB_CMD_PREAD, ioDestroy, ioDestroyInBackground, ioGetevents, ioSetup, ioSubmit, memfdCreate,
  NativeMemory, viewMemory, close, ftruncate
} from '@node-vmm/libc'
import { eventually } from '../../../test/support/eventually.ts'

const test = suite('aio')

test('reads a file, and the context is the address of its completion ring', () => {
  const memory = new NativeMemory(8192)
  const made = ioSetup(4, memory.address)
  if (made === -errno.ENOSYS || made === -errno.EPERM) return console.log('skipped: no Linux AIO here')
  assert.equal(made, 0)
  const context = memory.getUint64(0)
  assert.equal(new Uint32Array(viewMemory(context, 32))[4], AIO_RING_MAGIC)
  const fd = memfdCreate('aio')
  ftruncate(fd, 100)
  // struct iocb at 64, the array of pointers at 0, struct io_event at 256, data at 4096.
  const block = 64
  memory.u32.fill(0)
  memory.setUint64(0, memory.address + block)
  memory.setUint64(block, 77)
  memory.u16[(block + 16) / 2] = IOCB_CMD_PREAD
  memory.u32[(block + 20) / 4] = fd
  memory.setUint64(block + 24, memory.address + 4096)
  memory.setUint64(block + 32, 512)
  assert.equal(IOCB_BYTES, 64)
  assert.equal(ioSubmit(context, 1, memory.address), 1)
  assert.equal(ioGetevents(context, 1, 1, memory.address + 256), 1)
  assert.equal(memory.getUint64(256), 77)
  assert.equal(memory.getUint64(256 + 16), 100)
  assert.equal(ioGetevents(context, 0, 1, memory.address + 256), 0)
  memory.u32[(block + 20) / 4] = 1_000_000
  assert.equal(ioSubmit(context, 1, memory.address), -errno.EBADF)
  assert.equal(ioDestroy(context), 0)
  assert.equal(ioDestroy(context), -errno.EINVAL)
  close(fd)
  memory.close()
})

const contexts = (): number => readFileSync('/proc/self/maps', 'utf8').split('[aio]').length - 1

test('contexts are ended in the background, however many', async () => {
  const memory = new NativeMemory(8)
  const before = contexts()
  let made = 0
  for (; made < 300; made++) {
    memory.setUint64(0, 0)
    if (ioSetup(1, memory.address) !== 0) break
    ioDestroyInBackground(memory.getUint64(0))
  }
  if (made < 300) console.log(`note: ${made} contexts can be had here`)
  await eventually('all are ended', () => contexts() === before)
  memory.close()
})

test('a thread that ends meanwhile waits for it', async () => {
  const before = contexts()
  for (let round = 0; round < 10; round++) {
    const worker = new Worker(new URL('./support/aio-worker.ts', import.meta.url))
    const ended = once(worker, 'exit')
    const [made] = await once(worker, 'message') as [number]
    if (made < 0) console.log(`note: no context can be had here (${made})`)
    assert.deepEqual(await ended, [0])
    assert.equal(contexts(), before)
  }
})

test('a context that is too large is a value', () => {
  const memory = new NativeMemory(8)
  assert.ok([-errno.EAGAIN, -errno.EINVAL, -errno.ENOSYS, -errno.EPERM].includes(ioSetup(0x7fffffff, memory.address)))
  memory.close()
})

test.run()
