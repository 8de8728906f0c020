import assert from 'node:assert/strict'
import { fstatSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import {
  close, duplicate, errno, F_RDLCK, F_UNLCK, F_WRLCK, fallocate, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fdatasync,
  fileStatus, ftruncate, getSeals, lockConflicts, lseek, NativeMemory, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, open, preadv,
  pwritev, pwritev2, read, RWF_DSYNC, SEEK_DATA, SEEK_HOLE, setLock, touch, setNonBlocking, eventfd, EFD_CLOEXEC, write
} from '@node-vmm/libc'

const test = suite('file')
const directory = mkdtempSync(`${tmpdir()}/node-vmm-libc-`)
const path = `${directory}/file`
let fd = -1
test.before.each(() => { fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0o640) })
test.after.each(() => {
  close(fd)
  rmSync(path)
})
test.after(() => rmSync(directory, { recursive: true }))

test('opens close-on-exec, with the mode', () => {
  assert.equal(statSync(path).mode & 0o777, 0o640)
  // O_CLOEXEC is 02000000 in the flags.
  assert.match(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'), /flags:\s+02[0-7]{6}\n/)
})

test('reads and writes at 64-bit offsets, gathering and scattering', () => {
  const memory = new NativeMemory(4096)
  const offset = 5 * 2 ** 30 + 3
  memory.setUint64(0, memory.address + 1024)
  memory.setUint64(8, 10)
  memory.setUint64(16, memory.address + 2048)
  memory.setUint64(24, 20)
  memory.u8.fill(1, 1024, 1034)
  memory.u8.fill(2, 2048, 2068)
  assert.equal(pwritev(fd, memory.address, 2, offset), 30)
  assert.equal(fileStatus(fd).size, offset + 30)
  memory.u8.fill(0, 1024)
  assert.equal(preadv(fd, memory.address, 2, offset), 30)
  assert.equal(memory.u8[1033], 1)
  assert.equal(memory.u8[2067], 2)
  assert.equal(preadv(fd, memory.address, 2, offset + 30), 0)
  assert.equal(fdatasync(fd), 0)
  memory.close()
})

test('writes durably', () => {
  const memory = new NativeMemory(4096)
  memory.setUint64(0, memory.address + 1024)
  memory.setUint64(8, 10)
  memory.u8.fill(7, 1024, 1034)
  assert.equal(pwritev2(fd, memory.address, 1, 2 ** 32 + 5, RWF_DSYNC), 10)
  assert.equal(fileStatus(fd).size, 2 ** 32 + 15)
  assert.equal(pwritev2(fd, memory.address, 1, 0, 0x40000000), -errno.EOPNOTSUPP, 'an unknown flag')
  assert.equal(pwritev2(1_000_000, memory.address, 1, 0, 0), -errno.EBADF)
  memory.close()
})

test('failures of reading and writing are values', () => {
  const memory = new NativeMemory(64)
  assert.equal(read(1_000_000, memory.address, 8), -errno.EBADF)
  assert.equal(write(1_000_000, memory.address, 8), -errno.EBADF)
  assert.equal(read(fd, 1, 8), 0, 'the end of the file comes before the look at the buffer')
  assert.equal(write(fd, 1, 8), -errno.EFAULT)
  assert.equal(preadv(fd, 1, 1, 0), -errno.EFAULT)
  assert.equal(fdatasync(1_000_000), -errno.EBADF)
  memory.close()
})

test('close tells a descriptor that is closed already', () => {
  const second = duplicate(fd)
  assert.notEqual(second, fd)
  assert.equal(fstatSync(second).ino, fstatSync(fd).ino)
  close(second)
  assert.throws(() => close(second), { code: 'EBADF', syscall: 'close' })
})

test('punches holes', () => {
  const memory = new NativeMemory(4096)
  memory.u8.fill(7)
  for (let page = 0; page < 16; page++) assert.equal(write(fd, memory.address, 4096), 4096)
  assert.equal(fdatasync(fd), 0)
  const before = fileStatus(fd)
  assert.equal(before.size, 65536)
  const result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 16384, 32768)
  if (result === -errno.EOPNOTSUPP) return console.log('skipped: this file system has no holes')
  assert.equal(result, 0)
  assert.equal(fileStatus(fd).size, 65536)
  assert.ok(fileStatus(fd).allocated < before.allocated)
  assert.equal(readFileSync(path)[20000], 0)
  assert.equal(readFileSync(path)[60000], 7)
  assert.equal(fallocate(1_000_000, 0, 0, 1), -errno.EBADF)
  memory.close()
})

test('tells data from holes', () => {
  const offset = 8 * 2 ** 30
  ftruncate(fd, offset + 8192)
  const memory = new NativeMemory(4096)
  memory.setUint64(0, memory.address)
  memory.setUint64(8, 4096)
  assert.equal(pwritev(fd, memory.address, 1, offset), 4096)
  assert.equal(lseek(fd, 0, SEEK_DATA), offset)
  assert.equal(lseek(fd, offset, SEEK_HOLE), offset + 4096)
  assert.equal(lseek(fd, offset + 4096, SEEK_DATA), -errno.ENXIO)
  assert.equal(lseek(1_000_000, 0, SEEK_DATA), -errno.EBADF)
  memory.close()
})

test('touches a file', () => {
  utimesSync(path, 0, 0)
  assert.equal(touch(fd), 0)
  assert.ok(statSync(path).mtimeMs > 1e12)
  assert.equal(touch(1_000_000), -errno.EBADF)
})

test('statx tells kinds, sizes and identities as Node does', () => {
  ftruncate(fd, 12345)
  const status = fileStatus(fd)
  const node = fstatSync(fd, { bigint: true })
  assert.equal(status.kind, 'file')
  assert.equal(status.size, 12345)
  assert.equal(status.inode, node.ino)
  assert.equal(status.allocated, Number(node.blocks) * 512)
  // Linux's dev_t: minor in bits 0-7 and 20-31, major in 8-19.
  const { major, minor } = status.device
  assert.equal(BigInt((minor & 0xff) | (major << 8)) + (BigInt(minor >>> 8) << 20n), node.dev)
  if (status.direct !== undefined) {
    assert.ok(status.direct.offsetAlignment >= 512)
    assert.ok(Number.isInteger(Math.log2(status.direct.memoryAlignment)))
  }
  const device = open('/dev/null', O_RDONLY)
  assert.equal(fileStatus(device).kind, 'character device')
  close(device)
  const folder = open('/', O_RDONLY)
  assert.equal(fileStatus(folder).kind, 'directory')
  close(folder)
  assert.throws(() => fileStatus(1_000_000), { code: 'EBADF', syscall: 'statx' })
})

test('a lock belongs to the open file', () => {
  const other = open(path, O_RDWR)
  const all = { start: 0, length: 0 }
  assert.equal(setLock(fd, { type: F_WRLCK, ...all }), true)
  assert.equal(setLock(other, { type: F_RDLCK, ...all }), false)
  assert.equal(lockConflicts(other, { type: F_RDLCK, ...all }), true)
  assert.equal(lockConflicts(fd, { type: F_WRLCK, ...all }), false)
  assert.equal(setLock(fd, { type: F_RDLCK, ...all }), true)
  assert.equal(setLock(other, { type: F_RDLCK, ...all }), true)
  assert.equal(setLock(other, { type: F_WRLCK, ...all }), false)
  assert.equal(setLock(fd, { type: F_UNLCK, ...all }), true)
  assert.equal(setLock(other, { type: F_UNLCK, ...all }), true)
  assert.equal(setLock(other, { type: F_WRLCK, start: 2 ** 33, length: 1 }), true)
  assert.equal(lockConflicts(fd, { type: F_WRLCK, start: 2 ** 33, length: 1 }), true)
  assert.equal(lockConflicts(fd, { type: F_WRLCK, start: 2 ** 33 + 1, length: 1 }), false)
  assert.throws(() => setLock(1_000_000, { type: F_RDLCK, ...all }), { code: 'EBADF' })
  close(other)
  assert.equal(lockConflicts(fd, { type: F_WRLCK, ...all }), false, 'closing gives it back')
})

test('a non-blocking descriptor does not wait', () => {
  const counter = eventfd(0, EFD_CLOEXEC)
  const memory = new NativeMemory(8)
  setNonBlocking(counter)
  assert.equal(read(counter, memory.address, 8), -errno.EAGAIN)
  close(counter)
  memory.close()
  assert.throws(() => setNonBlocking(1_000_000), { code: 'EBADF' })
})

test('what cannot be sealed has no seals', () => {
  assert.ok([0, 1].includes(getSeals(fd)))
  assert.equal(getSeals(1_000_000), 0)
})

test.run()
