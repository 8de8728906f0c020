// What is special about copying: the file, its holes and its end behind the mapping's back.
import assert from 'node:assert/strict'
import { readFileSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { test } from 'uvu'
import { close, errno, fileStatus, ftruncate, memfdCreate, mmap, munmap, O_RDWR, open } from '@node-vmm/libc'
import { FileMap, IoQueue } from '@node-vmm/ioq'
import { mountTest, tmpfs, withMount } from '../../../test/support/mount.ts'
import { Harness, scratchFile } from './support.ts'

const PAGE = 4096
const MIB = 1 << 20
let file: ReturnType<typeof scratchFile>
let harness: Harness
test.before.each(() => {
  file = scratchFile('/dev/shm')
  ftruncate(file.fd, 4 * MIB)
  harness = new Harness('mapped', file.fd, { bytes: 4 * MIB })
})
test.after.each(() => {
  harness.close()
  file.remove()
})

const systemCalls = (work: () => void): number => {
  const before = harness.queue.systemCalls
  work()
  return harness.queue.systemCalls - before
}

/** A transfer twice in one batch, for one that is alone is not copied. @returns the result of both */
function transfer (on: Harness, operation: 'readv' | 'writev', places: readonly (readonly [start: number, length: number])[], offset: number): number | undefined {
  const segments = places.map(([start, length]) => ({ address: on.memory.address + start, length }))
  for (const id of [0, 1]) on.queue[operation](id, segments, offset)
  on.finish()
  assert.equal(on.results.get(1), on.results.get(0))
  return on.results.get(0)
}

test('one request alone is a call of its own, which copies the same', () => {
  harness.memory.u8.fill(7, 0, PAGE)
  // One more says that something is complete.
  assert.equal(systemCalls(() => assert.equal(harness.transfer('writev', [[0, PAGE]], PAGE), PAGE)), 1 + 1)
  assert.equal(systemCalls(() => assert.equal(harness.transfer('readv', [[PAGE, 2 * PAGE]], PAGE), 2 * PAGE)), 1 + 1)
  assert.deepEqual([harness.memory.u8[2 * PAGE - 1], harness.memory.u8[2 * PAGE]], [7, 0])
})

test('one request alone, far behind the beginning, is copied', () => {
  const far = 2 ** 31
  harness.close()
  ftruncate(file.fd, far + MIB)
  harness = new Harness('mapped', file.fd)
  harness.memory.u8.fill(8, 0, PAGE)
  assert.equal(harness.transfer('writev', [[0, PAGE]], far), PAGE, 'a hole is filled')
  assert.equal(systemCalls(() => assert.equal(harness.transfer('writev', [[0, PAGE]], far), PAGE)), 2 + 1, 'a copy, and a look at the size')
  assert.equal(systemCalls(() => assert.equal(harness.transfer('readv', [[PAGE, PAGE]], far), PAGE)), 1 + 1)
  assert.equal(harness.memory.u8[2 * PAGE - 1], 8)
})

test('reads and writes of one batch are two copies and a look at the size, whatever their segments', () => {
  writeFileSync(file.path, Buffer.alloc(4 * MIB, 7))
  const { queue, memory } = harness
  memory.u8.fill(9, 0, 16 * PAGE)
  const calls = systemCalls(() => {
    for (let id = 0; id < 32; id++) {
      const address = memory.address + id * 2 * PAGE
      const segments = [{ address, length: 100 }, { address: address + 512, length: PAGE - 100 }]
      if (id % 2 === 0) queue.writev(id, segments, id * PAGE)
      else queue.readv(id, segments, id * PAGE)
    }
    // All are complete when this returns, and nobody has to be told.
    assert.equal(queue.submitAndReap(), 32)
  })
  assert.equal(calls, 3)
  const content = readFileSync(file.path)
  for (let id = 0; id < 32; id++) {
    assert.equal(harness.results.get(id), PAGE)
    if (id % 2 === 1) assert.equal(memory.u8[id * 2 * PAGE + 512 + PAGE - 101], 7)
    else if (id < 8) assert.ok(content.subarray(id * PAGE, (id + 1) * PAGE).every((byte) => byte === 9))
  }
})

test('more segments than one call takes are several calls', () => {
  writeFileSync(file.path, Buffer.alloc(4 * MIB, 5))
  const { queue, memory } = harness
  const calls = systemCalls(() => {
    for (let id = 0; id < 3; id++) {
      queue.readv(id, Array.from({ length: 1000 }, (_, index) => ({ address: memory.address + (id * 1000 + index) * 128, length: 64 })), id * 64000)
    }
    queue.submitAndReap()
  })
  assert.equal(calls, 3)
  assert.ok(memory.u8.subarray(0, 3 * 128000).every((byte, at) => byte === ((at & 64) === 0 ? 5 : 0)))
})

test('segments one behind the other are one to the kernel, as far as that goes', () => {
  writeFileSync(file.path, Buffer.from(Array.from({ length: 4 * MIB / 64 }, (_, index) => index & 0xff).flatMap((byte) => new Array<number>(64).fill(byte))))
  const { queue, memory } = harness
  const calls = systemCalls(() => {
    // 3000 of them: three calls for as many that are apart.
    for (let id = 0; id < 3; id++) {
      queue.readv(id, Array.from({ length: 1000 }, (_, index) => ({ address: memory.address + (id * 1000 + index) * 64, length: 64 })), id * 64000)
    }
    queue.submitAndReap()
  })
  assert.equal(calls, 1)
  assert.ok(memory.u8.subarray(0, 3 * 64000).every((byte, at) => byte === (at >>> 6 & 0xff)))
  // Backwards, nothing is.
  for (let id = 0; id < 64; id++) queue.readv(id, [{ address: memory.address + (63 - id) * 64, length: 64 }], id * 64)
  queue.submitAndReap()
  for (let id = 0; id < 64; id++) assert.equal(memory.u8[(63 - id) * 64], id)
})

test('reading holes takes no memory', () => {
  writeFileSync(file.path, Buffer.alloc(PAGE, 1))
  ftruncate(file.fd, 4 * MIB)
  harness.memory.u8.fill(0xee)
  assert.equal(transfer(harness, 'readv', [[0, 4 * MIB]], 0), 4 * MIB)
  assert.ok(harness.memory.u8.subarray(0, PAGE).every((byte) => byte === 1))
  assert.ok(harness.memory.u8.subarray(PAGE).every((byte) => byte === 0))
  assert.equal(fileStatus(file.fd).allocated, PAGE)
})

test('a discarded range reads as zeroes and stays given back', () => {
  writeFileSync(file.path, Buffer.alloc(4 * MIB, 1))
  assert.equal(transfer(harness, 'readv', [[0, 4 * MIB]], 0), 4 * MIB)
  assert.equal(harness.discard(MIB, 2 * MIB), 0)
  assert.equal(transfer(harness, 'readv', [[0, 4 * MIB]], 0), 4 * MIB)
  assert.ok(harness.memory.u8.subarray(MIB, 3 * MIB).every((byte) => byte === 0))
  assert.equal(harness.memory.u8[3 * MIB], 1)
  assert.equal(fileStatus(file.fd).allocated, 2 * MIB)
  assert.equal(transfer(harness, 'writev', [[3 * MIB, PAGE]], MIB), PAGE)
  assert.equal(transfer(harness, 'readv', [[0, 2 * PAGE]], MIB), 2 * PAGE)
  assert.ok(harness.memory.u8.subarray(0, PAGE).every((byte) => byte === 1))
  assert.ok(harness.memory.u8.subarray(PAGE, 2 * PAGE).every((byte) => byte === 0))
})

// Behind a mapping there is SIGBUS for whoever looks: here the kernel does, and says EFAULT.
test('a file that somebody cuts is one that has ended, not the end of the process', () => {
  writeFileSync(file.path, Buffer.alloc(4 * MIB, 1))
  assert.equal(transfer(harness, 'readv', [[0, 4 * MIB]], 0), 4 * MIB)
  truncateSync(file.path, PAGE)
  harness.memory.u8.fill(0xee)
  assert.equal(transfer(harness, 'readv', [[0, 2 * PAGE]], 0), 2 * PAGE)
  assert.equal(harness.memory.u8[PAGE - 1], 1)
  assert.ok(harness.memory.u8.subarray(PAGE, 2 * PAGE).every((byte) => byte === 0))
  harness.memory.u8.fill(3, 0, PAGE)
  assert.equal(transfer(harness, 'writev', [[0, PAGE]], MIB), PAGE)
  assert.equal(statSync(file.path).size, MIB + PAGE, 'it grows, as by any other write')
  assert.ok(readFileSync(file.path).subarray(MIB).every((byte) => byte === 3))
})

test('bug: what was written behind the end of a file that somebody had cut, within its last page, was lost', () => {
  writeFileSync(file.path, Buffer.alloc(4 * MIB, 1))
  harness.memory.u8.fill(2, 0, PAGE)
  assert.equal(transfer(harness, 'writev', [[0, PAGE]], 2 * PAGE), PAGE)
  truncateSync(file.path, PAGE + 512)
  assert.equal(transfer(harness, 'writev', [[0, 512]], PAGE + 1024), 512)
  assert.equal(statSync(file.path).size, PAGE + 1536)
  const end = readFileSync(file.path).subarray(PAGE)
  assert.deepEqual([end[511], end[512], end[1023], end[1024], end[1535]], [1, 0, 0, 2, 2])
})

test('what fails in a batch fails alone', () => {
  writeFileSync(file.path, Buffer.alloc(4 * MIB, 1))
  const { queue, memory } = harness
  for (let id = 0; id < 9; id++) queue.readv(id, [{ address: id === 4 ? 4096 : memory.address + id * PAGE, length: PAGE }], id * PAGE)
  harness.finish()
  for (let id = 0; id < 9; id++) assert.equal(harness.results.get(id), id === 4 ? -errno.EFAULT : PAGE, `request ${id}`)
})

test('memory that its owner has cut is the result EFAULT', () => {
  const memfd = memfdCreate('segments')
  ftruncate(memfd, 2 * PAGE)
  const address = mmap({ fd: memfd, length: 2 * PAGE })
  ftruncate(memfd, PAGE)
  writeFileSync(file.path, Buffer.alloc(4 * MIB, 1))
  harness.queue.readv(0, [{ address: address + PAGE, length: PAGE }], 0)
  harness.queue.writev(1, [{ address: address + PAGE, length: PAGE }], 0)
  harness.queue.readv(2, [{ address, length: PAGE }], 0)
  harness.queue.writev(3, [{ address, length: PAGE }], 0)
  harness.finish()
  assert.deepEqual([0, 1, 2, 3].map((id) => harness.results.get(id)), [-errno.EFAULT, -errno.EFAULT, PAGE, PAGE])
  munmap(address, 2 * PAGE)
  close(memfd)
})

mountTest('a hole that there is no room to fill is the result ENOSPC', () => withMount(tmpfs(64 << 10), (directory) => {
  const small = scratchFile(directory)
  ftruncate(small.fd, MIB)
  const full = new Harness('mapped', small.fd)
  full.memory.u8.fill(6)
  assert.equal(transfer(full, 'writev', [[0, 32768]], 0), 32768)
  assert.equal(transfer(full, 'writev', [[0, 65536]], 65536), -errno.ENOSPC)
  assert.equal(transfer(full, 'readv', [[65536, 32768]], 0), 32768)
  assert.ok(full.memory.u8.subarray(65536, 65536 + 32768).every((byte) => byte === 6))
  full.close()
  small.remove()
}))

test('the end of a file within a page is kept, and a write across it extends the file', () => {
  harness.close()
  ftruncate(file.fd, PAGE + 512)
  harness = new Harness('mapped', file.fd)
  harness.memory.u8.fill(2, 0, PAGE)
  assert.equal(transfer(harness, 'writev', [[0, 512]], PAGE), 512)
  assert.equal(statSync(file.path).size, PAGE + 512)
  assert.equal(transfer(harness, 'writev', [[0, 512]], PAGE + 512), 512)
  assert.equal(statSync(file.path).size, PAGE + 1024)
  assert.ok(readFileSync(file.path).subarray(PAGE).every((byte) => byte === 2))
})

test('a file that was written is one that has changed, once it is flushed or closed', () => {
  const changed = (): boolean => statSync(file.path).mtimeMs > 1e12
  const forget = (): void => utimesSync(file.path, 0, 0)
  forget()
  assert.equal(transfer(harness, 'writev', [[0, PAGE]], 0), PAGE)
  assert.equal(harness.flush(), 0)
  assert.ok(changed(), 'flushed')
  forget()
  assert.equal(harness.flush(), 0)
  assert.ok(!changed(), 'nothing was written since')
  assert.equal(transfer(harness, 'writev', [[0, PAGE]], 0), PAGE)
  harness.queue.close()
  assert.ok(changed(), 'closed')
})

test('queues on one file share a map, which outlives them', () => {
  writeFileSync(file.path, Buffer.alloc(MIB, 4))
  const map = FileMap.create(file.fd)
  const count = (): number => readFileSync('/proc/self/maps', 'utf8').split(file.path).length
  const before = count()
  const shared = new Harness('mapped', file.fd, { map: map.data })
  const fd = open(file.path, O_RDWR)
  const other = new IoQueue({ fd, depth: 4, engine: 'mapped', map: map.data, onComplete: () => {} })
  assert.equal(count(), before)
  assert.equal(shared.transfer('readv', [[0, PAGE]], 0), PAGE)
  assert.equal(shared.memory.u8[0], 4)
  other.close()
  close(fd)
  shared.close()
  assert.equal(count(), before)
  map.close()
})

test.run()
