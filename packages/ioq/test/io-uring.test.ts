import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { O_DIRECT, errno, read } from '@node-vmm/libc'
import { openEngine } from '@node-vmm/ioq'
import { Harness, scratchFile } from './support.ts'

const test = suite('IoUringEngine')

const add = isAvailable() ? test : test.skip

function isAvailable (): boolean {
  try {
    openEngine('io_uring', { fd: 0, depth: 1 }).engine.close()
    return true
  } catch (error) {
    console.log(`skipped: ${(error as Error).message}`)
    return false
  }
}

add('many batches, each one system call, asynchronous on a disk', () => {
  let file
  try {
    file = scratchFile(tmpdir(), O_DIRECT)
  } catch {
    file = scratchFile(tmpdir())
  }
  const harness = new Harness('io_uring', file.fd, { depth: 128 })
  const { queue, memory } = harness
  for (let round = 0; round < 50; round++) {
    for (let id = 0; id < 128; id++) queue.writev(id, [{ address: memory.address + id * 4096, length: 4096 }], id * 4096)
    const before = queue.systemCalls
    queue.submit()
    assert.equal(queue.systemCalls, before + 1)
    harness.finish()
    for (let id = 0; id < 128; id++) assert.equal(harness.results.get(id), 4096)
    harness.results.clear()
  }
  harness.close()
  file.remove()
})

add('a refused entry in the middle of a batch is withdrawn from the ring, not sent twice', () => {
  const file = scratchFile('/dev/shm')
  const harness = new Harness('io_uring', file.fd, { depth: 8 })
  const { queue, memory } = harness
  for (let round = 0; round < 1000; round++) {
    for (let id = 0; id < 8; id++) {
      queue.writev(id, [{ address: memory.address, length: 8 }, { address: memory.address, length: 8 }], id * 16)
      if (id === round % 8) queue.iovecs[id * 32 + 3] = 0x80000000
    }
    harness.finish()
    for (let id = 0; id < 8; id++) assert.equal(harness.results.get(id), id === round % 8 ? -errno.EINVAL : 16)
    harness.results.clear()
  }
  assert.equal(queue.completions, 8000)
  assert.equal(queue.submissions, 8000)
  harness.close()
  file.remove()
})

add('completions are announced where that is wanted, and those that were not are told of when it is wanted again', () => {
  const file = scratchFile(tmpdir())
  const harness = new Harness('io_uring', file.fd)
  const { queue, memory, results } = harness
  const isAnnounced = (): boolean => read(queue.completionFd, memory.address + 4096, 8) > 0
  const nap = new Int32Array(new SharedArrayBuffer(4))
  /** A write, until it is complete and system calls have had the kernel post that. */
  const write = (): boolean => {
    results.clear()
    queue.writev(0, [{ address: memory.address, length: 4096 }], 0)
    queue.submit()
    let announced = false
    for (let looks = 0; looks < 5000 && !queue.hasCompletions; looks++) Atomics.wait(nap, 0, 0, 1)
    for (let looks = 0; looks < 10; looks++) announced = isAnnounced() || announced
    return announced
  }

  assert.equal(write(), true)
  queue.reap()
  assert.equal(results.get(0), 4096)

  queue.disableNotification()
  queue.disableNotification()
  assert.equal(write(), false)
  assert.equal(queue.enableNotification(), 'more')
  assert.equal(results.size, 0)
  queue.reap()
  assert.equal(results.get(0), 4096)
  assert.equal(queue.enableNotification(), 'empty')

  queue.disableNotification()
  assert.equal(queue.enableNotification(), 'empty')
  assert.equal(write(), true)
  harness.close()
  file.remove()
})

test.run()
