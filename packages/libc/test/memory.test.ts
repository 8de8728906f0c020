import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import {
  addressOf, addSeals, close, errno, F_SEAL_SHRINK, ftruncate, getSeals, madvise, MADV_POPULATE_READ, MAP_ANONYMOUS, MAP_PRIVATE, memfdCreate, mmap, mprotect,
  munmap, NativeMemory, PAGE_SIZE, PROT_NONE, PROT_READ, viewMemory, VIEW_BYTES_MAX
} from '@node-vmm/libc'

const test = suite('memory')

test('two mappings of one memfd show the same bytes', () => {
  const fd = memfdCreate('test')
  ftruncate(fd, 3 * PAGE_SIZE)
  const whole = mmap({ length: 3 * PAGE_SIZE, fd })
  const second = mmap({ length: PAGE_SIZE, fd, offset: PAGE_SIZE })
  const bytes = new Uint8Array(viewMemory(whole, 3 * PAGE_SIZE))
  const page = new Uint8Array(viewMemory(second, PAGE_SIZE))
  page[5] = 77
  assert.equal(bytes[PAGE_SIZE + 5], 77)
  bytes[PAGE_SIZE + 6] = 78
  assert.equal(page[6], 78)
  munmap(whole, 3 * PAGE_SIZE)
  munmap(second, PAGE_SIZE)
  close(fd)
})

test('Atomics work on a view of any mapping', () => {
  const memory = new NativeMemory(64)
  Atomics.store(memory.u16, 3, 0xffff)
  assert.equal(Atomics.add(memory.u16, 3, 1), 0xffff)
  assert.equal(Atomics.load(memory.u16, 3), 0)
  assert.equal(memory.u16[4], 0, 'no carry into the next')
  memory.close()
})

test('advice is taken, or refused with its error', () => {
  const address = mmap({ length: PAGE_SIZE, flags: MAP_PRIVATE | MAP_ANONYMOUS })
  // Linux 5.14 knows it.
  assert.ok([0, -errno.EINVAL].includes(madvise(address, PAGE_SIZE, MADV_POPULATE_READ)))
  assert.equal(madvise(address, PAGE_SIZE, 4711), -errno.EINVAL)
  munmap(address, PAGE_SIZE)
})

test('memory is protected, or the reason why not is returned', () => {
  const address = mmap({ length: PAGE_SIZE, flags: MAP_PRIVATE | MAP_ANONYMOUS })
  assert.equal(mprotect(address, PAGE_SIZE, PROT_READ), 0)
  assert.equal(new Uint8Array(viewMemory(address, PAGE_SIZE))[0], 0)
  assert.equal(mprotect(address + 1, PAGE_SIZE, PROT_READ), -errno.EINVAL)
  munmap(address, PAGE_SIZE)
  assert.equal(mprotect(address, PAGE_SIZE, PROT_READ), -errno.ENOMEM)
})

test('a failed mapping says what it was of', () => {
  assert.throws(() => mmap({ length: 4096, fd: 1_000_000 }), { name: 'LinuxError', code: 'EBADF', message: /^mmap of 4096 bytes at offset 0 of fd 1000000/ })
  assert.throws(() => mmap({ length: 0, flags: MAP_PRIVATE | MAP_ANONYMOUS }), { code: 'EINVAL' })
  assert.throws(() => mmap({ length: 2 ** 52, protection: PROT_NONE, flags: MAP_PRIVATE | MAP_ANONYMOUS }), { code: 'ENOMEM' })
})

test('a view that would make the runtime abort is refused', () => {
  for (const address of [0, -1, 1.5, NaN, 2 ** 53]) assert.throws(() => viewMemory(address, 16), RangeError)
  for (const length of [0, -1, 1.5, NaN, VIEW_BYTES_MAX + 1]) assert.throws(() => viewMemory(4096, length), RangeError)
})

test('the address of a view leads back to its bytes', () => {
  const bytes = new Uint8Array(100)
  new Uint8Array(viewMemory(addressOf(bytes.subarray(40)), 10))[2] = 7
  assert.equal(bytes[42], 7)
  assert.equal(addressOf(new DataView(bytes.buffer, 8)), addressOf(bytes) + 8)
})

test('the largest view of Node 20 has 4 GiB, and works to its end', () => {
  const length = 2 ** 32
  const address = mmap({ length, flags: MAP_PRIVATE | MAP_ANONYMOUS | 0x4000 })
  const bytes = new Uint8Array(viewMemory(address, length))
  bytes[length - 1] = 9
  assert.equal(bytes[length - 1], 9)
  munmap(address, length)
})

test('NativeMemory is zeroed whole pages, and takes 64-bit values', () => {
  const memory = new NativeMemory(5000)
  assert.equal(memory.length, 8192)
  assert.equal(memory.address % PAGE_SIZE, 0)
  assert.ok(memory.u8.every((byte) => byte === 0))
  for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 47 + 12345, Number.MAX_SAFE_INTEGER]) {
    memory.setUint64(8, value)
    assert.equal(memory.getUint64(8), value)
    assert.equal(new DataView(memory.u8.buffer).getBigUint64(8, true), BigInt(value))
  }
  memory.close()
  assert.equal(memory.u8[0], undefined)
  assert.equal(memory.i32.length, 0)
  memory.close()
  memory[Symbol.dispose]()
  for (const bytes of [0, -1, 1.5]) assert.throws(() => new NativeMemory(bytes), RangeError)
})

test('memory that is not touched takes none', () => {
  const resident = (): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1])
  const before = resident()
  const memory = new NativeMemory(2 ** 30)
  memory.u8[2 ** 29] = 1
  assert.ok(resident() - before < 65536, 'less than 64 MiB of 1 GiB')
  memory.close()
})

test('a memfd can be sealed against shrinking', () => {
  const fd = memfdCreate('sealed')
  ftruncate(fd, 8192)
  assert.equal(getSeals(fd), 0)
  addSeals(fd, F_SEAL_SHRINK)
  assert.equal(getSeals(fd), F_SEAL_SHRINK)
  assert.throws(() => ftruncate(fd, 4096), { code: 'EPERM' })
  ftruncate(fd, 16384)
  close(fd)
})

test.run()
