import { constants } from 'node:fs'
import { errno, LinuxError } from './errors.ts'
import { check, lastErrno, native, orErrno } from './library.ts'

export const {
  /** For reading: `open(2)`, as are all of these. */
  O_RDONLY,
  /** For writing. */
  O_WRONLY,
  /** For both. */
  O_RDWR,
  /** Made where it is missing. */
  O_CREAT,
  /** With `O_CREAT`: fails where it exists. */
  O_EXCL,
  /** Emptied. */
  O_TRUNC,
  /** Fails with ELOOP where the path is a symbolic link. */
  O_NOFOLLOW,
  /** Does not wait for the other end of a FIFO or a device. */
  O_NONBLOCK,
  /** Past the page cache: buffers, offsets and lengths are aligned. */
  O_DIRECT,
  /** Reading leaves the file's access time alone. Fails with EPERM for who neither owns the file nor has CAP_FOWNER. */
  O_NOATIME,
  /** Writes are stable before they return. */
  O_DSYNC
} = constants
/** The bits of `openFlags` that are one of the first three. */
export const O_ACCMODE = 0o3
/** Not inherited by a program that is started: `open(2)`. */
export const O_CLOEXEC = 0o2000000

/** The file's size stays: `fallocate(2)`. */
export const FALLOC_FL_KEEP_SIZE = 0x01
/** Gives the space back; zeroes are read there. Needs `FALLOC_FL_KEEP_SIZE`. */
export const FALLOC_FL_PUNCH_HOLE = 0x02
/** Zeroes are read there; the space is kept. */
export const FALLOC_FL_ZERO_RANGE = 0x10

/** The write is stable before it returns, as if the file had been opened with O_DSYNC. See `pwritev2(2)`. */
export const RWF_DSYNC = 0x02
/**
 * The transfer does not wait: not for locks, nor for room in the device's queue. It fails with EAGAIN where it would, and with
 * EOPNOTSUPP where the file or the device cannot tell. See `pwritev2(2)`.
 */
export const RWF_NOWAIT = 0x08

/** From the end of the file: `lseek(2)`, as are the next two. */
export const SEEK_END = 2
/** The next byte at or after the offset that is not in a hole. */
export const SEEK_DATA = 3
/** The next hole at or after the offset; the end of the file is one. */
export const SEEK_HOLE = 4

/** No more seals: `fcntl(2)`, "File sealing". */
export const F_SEAL_SEAL = 0x1
/** The file gets no smaller. */
export const F_SEAL_SHRINK = 0x2
/** The file gets no larger. */
export const F_SEAL_GROW = 0x4

/** A lock that readers share: `fcntl(2)`. */
export const F_RDLCK = 0
/** A lock for one alone. */
export const F_WRLCK = 1
/** No lock. */
export const F_UNLCK = 2

const F_GETFL = 3
const F_SETFL = 4
const F_DUPFD_CLOEXEC = 1030
const F_ADD_SEALS = 1033
const F_GET_SEALS = 1034
const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const AT_EMPTY_PATH = 0x1000
const STATX_BASIC_STATS = 0x7ff
const STATX_DIOALIGN = 0x2000
const S_IFMT = 0o170000

const openC = native('int open(const char *path, int flags, unsigned int mode)')
const closeC = native('int close(int fd)')
const readC = native('intptr_t read(int fd, uintptr_t buffer, size_t count)')
const writeC = native('intptr_t write(int fd, uintptr_t buffer, size_t count)')
const preadvC = native('intptr_t preadv(int fd, uintptr_t iov, int count, int64_t offset)')
const pwritevC = native('intptr_t pwritev(int fd, uintptr_t iov, int count, int64_t offset)')
const pwritev2C = native('intptr_t pwritev2(int fd, uintptr_t iov, int count, int64_t offset, int flags)')
const fdatasyncC = native('int fdatasync(int fd)')
const ftruncateC = native('int ftruncate(int fd, int64_t length)')
const lseekC = native('int64_t lseek(int fd, int64_t offset, int whence)')
const futimensC = native('int futimens(int fd, void *times)')
const fallocateC = native('int fallocate(int fd, int mode, int64_t offset, int64_t length)')
const fcntlC = native('int fcntl(int fd, int command, intptr_t argument)')
const fcntlPointerC = native('int fcntl(int fd, int command, void *argument)')
const statxC = native('int statx(int directory, const char *path, int flags, unsigned int mask, void *result)')

/**
 * Opens a file, close-on-exec. See `open(2)`.
 *
 * @param flags `O_*` bits.
 * @param mode permissions of a file that is made, less the umask. @default 0o600
 * @throws LinuxError such as ENOENT, EACCES
 */
export function open (path: string, flags: number, mode = 0o600): number {
  return check(openC()(path, flags | O_CLOEXEC, mode), 'open', () => ({ subject: path }))
}

/** Closes a file descriptor. See `close(2)`. @throws LinuxError such as EBADF for one that is closed already */
export function close (fd: number): void {
  check(closeC()(fd), 'close', () => ({ subject: `fd ${fd}` }))
}

/** Reads to native memory. @returns bytes, 0 at the end, or a negative error number. See `read(2)`. */
export function read (fd: number, address: number, count: number): number {
  return orErrno(readC()(fd, address, count))
}

/** Writes from native memory. @returns bytes or a negative error number. See `write(2)`. */
export function write (fd: number, address: number, count: number): number {
  return orErrno(writeC()(fd, address, count))
}

/** Reads at an offset to the buffers of an iovec array. @returns bytes or a negative error number. See `preadv(2)`. */
export function preadv (fd: number, iovAddress: number, count: number, offset: number): number {
  return orErrno(preadvC()(fd, iovAddress, count, offset))
}

/** Writes at an offset from the buffers of an iovec array. @returns bytes or a negative error number. See `pwritev(2)`. */
export function pwritev (fd: number, iovAddress: number, count: number, offset: number): number {
  return orErrno(pwritevC()(fd, iovAddress, count, offset))
}

/** `pwritev` with `RWF_*` flags. @returns bytes or a negative error number. See `pwritev2(2)`. */
export function pwritev2 (fd: number, iovAddress: number, count: number, offset: number, flags: number): number {
  return orErrno(pwritev2C()(fd, iovAddress, count, offset, flags))
}

/** Makes written data durable, blocking. @returns 0 or a negative error number. See `fdatasync(2)`. */
export function fdatasync (fd: number): number {
  return orErrno(fdatasyncC()(fd))
}

/** Sets a file's length, in bytes. See `ftruncate(2)`. @throws LinuxError such as EINVAL, EPERM for one that is sealed */
export function ftruncate (fd: number, length: number): void {
  check(ftruncateC()(fd, length), 'ftruncate', () => ({ subject: `fd ${fd} to ${length} bytes` }))
}

/** Allocates, punches or zeroes a range, blocking. @returns 0 or a negative error number. See `fallocate(2)`. */
export function fallocate (fd: number, mode: number, offset: number, length: number): number {
  return orErrno(fallocateC()(fd, mode, offset, length))
}

/**
 * Finds an offset: of data, of a hole, or as far from the end. The position of the open file, which this moves, is only for
 * `read` and `write`. See `lseek(2)`.
 *
 * @param whence `SEEK_*`.
 * @returns the offset, or a negative error number: ENXIO past the last data, EINVAL before the file's begin.
 */
export function lseek (fd: number, offset: number, whence: number): number {
  return orErrno(lseekC()(fd, offset, whence))
}

/** Has a file read and changed just now. @returns 0 or a negative error number: EPERM, EACCES for one that this process may not write. See `futimens(3)`. */
export function touch (fd: number): number {
  return orErrno(futimensC()(fd, null))
}

/** A second descriptor of the same open file, close-on-exec. See `fcntl(2)`, F_DUPFD_CLOEXEC. @throws LinuxError */
export function duplicate (fd: number): number {
  return check(fcntlC()(fd, F_DUPFD_CLOEXEC, 0), 'fcntl', () => ({ subject: `F_DUPFD_CLOEXEC of fd ${fd}` }))
}

/** Makes reads and writes of the open file fail with EAGAIN where they would wait. See `fcntl(2)`, F_SETFL. @throws LinuxError such as EBADF */
export function setNonBlocking (fd: number): void {
  check(fcntlC()(fd, F_SETFL, openFlags(fd) | O_NONBLOCK), 'fcntl', () => ({ subject: `F_SETFL of fd ${fd}` }))
}

/** The status flags that a descriptor was opened with: access mode, O_DIRECT and others. See `fcntl(2)`, F_GETFL. @throws LinuxError */
export function openFlags (fd: number): number {
  return check(fcntlC()(fd, F_GETFL, 0), 'fcntl', () => ({ subject: `F_GETFL of fd ${fd}` }))
}

/** Seals a memfd with `F_SEAL_*` bits. See `fcntl(2)`, F_ADD_SEALS. @throws LinuxError */
export function addSeals (fd: number, seals: number): void {
  check(fcntlC()(fd, F_ADD_SEALS, seals), 'fcntl', () => ({ subject: `F_ADD_SEALS of fd ${fd}` }))
}

/** The `F_SEAL_*` bits of a file, 0 for one that cannot be sealed. See `fcntl(2)`, F_GET_SEALS. */
export function getSeals (fd: number): number {
  return Math.max(0, fcntlC()(fd, F_GET_SEALS, 0))
}

/** A byte range and how it is locked: see `fcntl(2)`, "Open file description locks". */
export interface FileLock {
  /** `F_RDLCK`, `F_WRLCK` or `F_UNLCK`. */
  readonly type: number
  /** Its first byte. */
  readonly start: number
  /** Bytes; 0 means to the end of the file, however it grows. */
  readonly length: number
}

// struct flock on 64-bit Linux: l_type, l_whence, padding, l_start, l_len, l_pid.
function flock (lock: FileLock): DataView {
  const view = new DataView(new ArrayBuffer(32))
  view.setInt16(0, lock.type, true)
  view.setBigInt64(8, BigInt(lock.start), true)
  view.setBigInt64(16, BigInt(lock.length), true)
  return view
}

/**
 * Takes, changes or (`F_UNLCK`) gives back a lock that belongs to the open file, without waiting.
 * See `fcntl(2)`, F_OFD_SETLK.
 *
 * @returns false when another open file holds a conflicting lock.
 * @throws LinuxError for anything else
 */
export function setLock (fd: number, lock: FileLock): boolean {
  if (fcntlPointerC()(fd, F_OFD_SETLK, flock(lock)) >= 0) return true
  const number = lastErrno()
  if (number === errno.EAGAIN || number === errno.EACCES) return false
  throw new LinuxError('fcntl', number, { subject: `F_OFD_SETLK of fd ${fd}` })
}

/** Whether another open file's lock stands against this one. See `fcntl(2)`, F_OFD_GETLK. @throws LinuxError */
export function lockConflicts (fd: number, lock: FileLock): boolean {
  const view = flock(lock)
  check(fcntlPointerC()(fd, F_OFD_GETLK, view), 'fcntl', () => ({ subject: `F_OFD_GETLK of fd ${fd}` }))
  return view.getInt16(0, true) !== F_UNLCK
}

/** What `statx(2)` knows of an open file. */
export interface FileStatus {
  /** By the type in the mode: see `inode(7)`. `anonymous` is what has none: an eventfd, or another of the kernel's own such as an epoll instance. */
  readonly kind: 'file' | 'directory' | 'block device' | 'character device' | 'anonymous' | 'other'
  /** Bytes; 0 for a device. */
  readonly size: number
  /** Bytes that the file takes up on its disk. */
  readonly allocated: number
  /** The preferred unit of I/O in bytes; on hugetlbfs the size of a page. */
  readonly blockSize: number
  /** The device that has the file. */
  readonly device: { readonly major: number, readonly minor: number }
  /** The device that a device file stands for; zeroes for other files. */
  readonly specialDevice: { readonly major: number, readonly minor: number }
  /** The file's number on its device. */
  readonly inode: bigint
  /** Alignments in bytes that O_DIRECT asks for, of buffers, and of offsets and lengths; or undefined where the kernel does not say (STATX_DIOALIGN, Linux 6.1). */
  readonly direct: { readonly memoryAlignment: number, readonly offsetAlignment: number } | undefined
}

const kinds: Readonly<Record<number, FileStatus['kind']>> = {
  0: 'anonymous', 0o100000: 'file', 0o040000: 'directory', 0o060000: 'block device', 0o020000: 'character device'
}

/** The status of an open file. See `statx(2)`. @throws LinuxError */
export function fileStatus (fd: number): FileStatus {
  const view = new DataView(new ArrayBuffer(256))
  check(statxC()(fd, '', AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_DIOALIGN, view), 'statx', () => ({ subject: `fd ${fd}` }))
  const u32 = (offset: number): number => view.getUint32(offset, true)
  const hasDirect = (u32(0) & STATX_DIOALIGN) !== 0 && u32(156) !== 0
  return {
    kind: kinds[view.getUint16(28, true) & S_IFMT] ?? 'other',
    size: Number(view.getBigUint64(40, true)),
    allocated: Number(view.getBigUint64(48, true)) * 512,
    blockSize: u32(4),
    device: { major: u32(136), minor: u32(140) },
    specialDevice: { major: u32(128), minor: u32(132) },
    inode: view.getBigUint64(32, true),
    direct: hasDirect ? { memoryAlignment: u32(152), offsetAlignment: u32(156) } : undefined
  }
}
