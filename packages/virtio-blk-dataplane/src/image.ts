import {
  close, F_RDLCK, fileStatus, LinuxError, lockConflicts, O_DIRECT, O_RDONLY, O_RDWR, open, setLock
} from '@node-vmm/libc'
import { readFileSync } from 'node:fs'
import { DataPlaneError } from './errors.ts'
import { SECTOR_BYTES } from './request.ts'

/** A raw image: which file, and how to use it. */
export interface ImageOptions {
  /** A file or a block device. */
  readonly path: string
  /** What the image is; anything but raw is refused, and nothing is ever guessed from its content. @default 'raw' */
  readonly format?: string
  /** Serve it read-only: the lock is shared with other readers then. @default false */
  readonly readOnly?: boolean
  /** Bypass the page cache (O_DIRECT). @default false */
  readonly direct?: boolean
}

// QEMU's image locks (block/file-posix.c): byte 100 + n is locked by who uses permission n, byte 200 + n by who does
// not share it with others. Thereby QEMU, qemu-img and another node-vmm see that the image is in use.
const USED_BASE = 100
const UNSHARED_BASE = 200
const CONSISTENT_READ = 0
const WRITE = 1
const RESIZE = 3

/** An open image, locked. */
export class Image {
  readonly path: string
  readonly fd: number
  readonly readOnly: boolean
  readonly direct: boolean
  /** Bytes, a multiple of the sector's. */
  readonly size: number
  /** Bytes of a block: what requests should be multiples of. */
  readonly blockSize: number

  private constructor (fd: number, { path, readOnly = false, direct = false }: ImageOptions, size: number) {
    this.path = path
    this.fd = fd
    this.readOnly = readOnly
    this.direct = direct
    this.size = size
    this.blockSize = SECTOR_BYTES
  }

  /** @throws DataPlaneError, or LinuxError when the file cannot be opened */
  static open (options: ImageOptions): Image {
    const { path, format = 'raw', readOnly = false, direct = false } = options
    if (format !== 'raw') {
      throw new DataPlaneError('ERR_FORMAT', `${path} is to be served as ${format}, but the data plane serves raw images only. ` +
        `Convert it: qemu-img convert -O raw ${path} ${path}.raw`)
    }
    const fd = openImage(path, (readOnly ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0))
    try {
      const size = imageSize(fd, path)
      if (direct) checkDirect(fd, path)
      lockImage(fd, path, readOnly)
      return new Image(fd, options, size)
    } catch (error) {
      close(fd)
      throw error
    }
  }

  close (): void {
    close(this.fd)
  }
}

function openImage (path: string, flags: number): number {
  try {
    return open(path, flags)
  } catch (error) {
    if (!(error instanceof LinuxError)) throw error
    const remedies: Record<string, string> = {
      ENOENT: `Create it, for instance: truncate -s 1G ${path}`,
      EACCES: 'Give this user the right to it, or serve it read-only.',
      EROFS: 'Its file system is read-only: serve it read-only.',
      EINVAL: 'Its file system may not support O_DIRECT: serve it without.',
      EISDIR: 'It is a directory: name a file or a block device.'
    }
    const remedy = remedies[error.code]
    throw new LinuxError('open', error.errno, { subject: path, ...(remedy !== undefined && { remedy }) })
  }
}

function imageSize (fd: number, path: string): number {
  const { kind, size, device } = fileStatus(fd)
  if (kind === 'block device') return Number(readFileSync(`/sys/dev/block/${device.major}:${device.minor}/size`, 'utf8')) * SECTOR_BYTES
  if (kind !== 'file') throw new DataPlaneError('ERR_IMAGE', `${path} is neither a file nor a block device`)
  if (size === 0 || size % SECTOR_BYTES !== 0) {
    throw new DataPlaneError('ERR_IMAGE', `${path} has ${size} bytes: a disk has whole sectors of ${SECTOR_BYTES}, one at least. ` +
      `Round it up: truncate -s '%${SECTOR_BYTES}' ${path}`)
  }
  return size
}

// Guests address sectors; where direct I/O needs larger units, some of their requests would fail.
function checkDirect (fd: number, path: string): void {
  const alignment = fileStatus(fd).direct?.offsetAlignment ?? SECTOR_BYTES
  if (alignment > SECTOR_BYTES) {
    throw new DataPlaneError('ERR_IMAGE', `direct I/O on ${path} needs multiples of ${alignment} bytes, and a guest may ask for single sectors of ${SECTOR_BYTES}. ` +
      'Serve it without direct I/O.')
  }
}

/** Takes QEMU's locks for a user that wants nobody else to write, nor (when it writes itself) to rely on the content. */
function lockImage (fd: number, path: string, readOnly: boolean): void {
  const used = readOnly ? [CONSISTENT_READ] : [CONSISTENT_READ, WRITE]
  const unshared = [WRITE, RESIZE]
  const take = (at: number): boolean => setLock(fd, { type: F_RDLCK, start: at, length: 1 })
  // Taken are read locks, tested is for write locks: so any holder of the opposite byte stands against it.
  const free = (at: number): boolean => !lockConflicts(fd, { type: 1, start: at, length: 1 })
  const locked = used.every((permission) => take(USED_BASE + permission)) &&
    unshared.every((permission) => take(UNSHARED_BASE + permission)) &&
    used.every((permission) => free(UNSHARED_BASE + permission)) &&
    unshared.every((permission) => free(USED_BASE + permission))
  if (!locked) {
    throw new DataPlaneError('ERR_IMAGE_LOCKED', `${path} is in use by another process (QEMU, qemu-img or another server). ` +
      'Stop it, or serve the image read-only where the other only reads.')
  }
}
