import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { O_DIRECT, errno } from '@node-vmm/libc'
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

test.run()
