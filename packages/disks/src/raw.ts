import { F_RDLCK, F_WRLCK, fileStatus, type FileStatus, lockConflicts, setLock } from '@node-vmm/libc'
import type { Segments } from '@node-vmm/virtio-blk-dataplane'
import { closeSync, constants, existsSync, openSync, readFileSync, realpathSync } from 'node:fs'
import { OpenFile } from './disk-file.ts'
import { DiskError } from './errors.ts'
import { type OpenedDisk, opened } from './opened-disk.ts'

const SECTOR_BYTES = 512
// QEMU's image locks (block/file-posix.c): byte 100 + n is locked by who uses permission n, byte 200 + n by who does
// not share it with others.
const USED_BASE = 100
const UNSHARED_BASE = 200
const CONSISTENT_READ = 0
const WRITE = 1
const RESIZE = 3

/** A raw image. */
export interface RawOptions {
  /** A file of whole sectors of 512 bytes, or a block device. */
  readonly path: string
  /** Many may have it open so, nobody else may write to it. @default false */
  readonly readOnly?: boolean
}

/**
 * A raw image, to be the base of a stack of disks. Served alone, the data plane's own raw image (its `path` option) is the
 * faster one: it reads and writes through io_uring or Linux AIO, and allocates nothing.
 *
 * It is locked as QEMU locks images, so that QEMU, qemu-img and other servers see that it is in use. A discarded range of a
 * file becomes a hole.
 *
 * @throws DiskError ERR_DISK_IMAGE, ERR_DISK_LOCKED; Node's error where the file cannot be opened
 */
export function raw ({ path, readOnly = false }: RawOptions): OpenedDisk {
  const fd = openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR)
  try {
    const status = fileStatus(fd)
    const capacity = sizeOf(status, path)
    lock(fd, path, readOnly)
    return rawDisk(new OpenFile(fd), capacity, blockSizeOf(status), readOnly)
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

function rawDisk (file: OpenFile, capacity: number, blockSize: number, readOnly: boolean): OpenedDisk {
  const disk = {
    capacity,
    blockSize,
    readOnly,
    read: (offset: number, segments: Segments) => file.read(offset, segments),
    close: () => file.close()
  }
  if (readOnly) return opened(disk)
  return opened({
    ...disk,
    write: (offset, segments) => file.write(offset, segments),
    flush: () => file.sync(),
    discard: (offset, length) => file.punch(offset, length),
    writeZeroes: (offset, length, unmap) => unmap ? file.punch(offset, length) : file.zero(offset, length)
  })
}

function sizeOf (status: FileStatus, path: string): number {
  if (status.kind === 'block device') return Number(readFileSync(`${deviceFolder(status)}/size`, 'utf8')) * SECTOR_BYTES
  if (status.kind !== 'file') throw new DiskError('ERR_DISK_IMAGE', `${path} is neither a file nor a block device`)
  if (status.size === 0 || status.size % SECTOR_BYTES !== 0) {
    throw new DiskError('ERR_DISK_IMAGE', `${path} has ${status.size} bytes: a disk has whole sectors of ${SECTOR_BYTES}, one at least. ` +
      `Round it up: truncate -s '%${SECTOR_BYTES}' ${path}`)
  }
  return status.size
}

function blockSizeOf (status: FileStatus): number {
  if (status.kind !== 'block device') return SECTOR_BYTES
  // A partition has the limits of its disk.
  const folder = realpathSync(deviceFolder(status))
  const queue = existsSync(`${folder}/queue`) ? `${folder}/queue` : `${folder}/../queue`
  return Number(readFileSync(`${queue}/logical_block_size`, 'utf8'))
}

function deviceFolder ({ specialDevice }: FileStatus): string {
  return `/sys/dev/block/${specialDevice.major}:${specialDevice.minor}`
}

/** Given back when the file is closed. */
function lock (fd: number, path: string, readOnly: boolean): void {
  const used = readOnly ? [CONSISTENT_READ] : [CONSISTENT_READ, WRITE]
  const unshared = [WRITE, RESIZE]
  const take = (at: number): boolean => setLock(fd, { type: F_RDLCK, start: at, length: 1 })
  // Taken are read locks, tested is for write locks: so any holder of the opposite byte stands against it.
  const free = (at: number): boolean => !lockConflicts(fd, { type: F_WRLCK, start: at, length: 1 })
  const locked = used.every((permission) => take(USED_BASE + permission)) &&
    unshared.every((permission) => take(UNSHARED_BASE + permission)) &&
    used.every((permission) => free(UNSHARED_BASE + permission)) &&
    unshared.every((permission) => free(USED_BASE + permission))
  if (locked) return
  throw new DiskError('ERR_DISK_LOCKED', `${path} is in use by another process (QEMU, qemu-img or another server). ` +
    'Stop it, or use the image read-only where the other only reads.')
}
