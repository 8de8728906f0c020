import {
  close, F_RDLCK, F_UNLCK, F_WRLCK, fileStatus, type FileStatus, ftruncate, LinuxError, lockConflicts, O_DIRECT, O_EXCL, O_NOATIME,
  O_NOFOLLOW, O_RDONLY, O_RDWR, open, setLock
} from '@node-vmm/libc'
import { existsSync, fdatasync, readFileSync, realpathSync, statSync } from 'node:fs'
import { promisify } from 'node:util'
import { DataPlaneError } from './errors.ts'
import type { Alignment, Medium } from './medium.ts'
import { SECTOR_BYTES } from '@node-vmm/virtio-blk'

/** A raw image: which file, and how to use it. */
export interface ImageOptions {
  /** A file or a block device. */
  readonly path: string
  /** What the image is; anything but raw is refused, and nothing is ever guessed from its content. @default 'raw' */
  readonly format?: string
  /**
   * Refuse a path whose last part is a symbolic link (O_NOFOLLOW): for images in a folder that others may write to. Most
   * names of block devices are links (`/dev/vg0/guest`, `/dev/disk/by-path/`). @default false
   */
  readonly noFollow?: boolean
  /** Serve it read-only: the lock is shared with other readers then. @default false */
  readonly readOnly?: boolean
  /** Bypass the page cache (O_DIRECT). @default false */
  readonly direct?: boolean
  /**
   * How long the image is locked: as long as it is `open`, or only while queues are `running`, so that two servers can
   * hand a guest over to each other (live migration). @default 'open'
   */
  readonly lock?: 'open' | 'running'
}

// QEMU's image locks (block/file-posix.c): byte 100 + n is locked by who uses permission n, byte 200 + n by who does
// not share it with others. Thereby QEMU, qemu-img and another node-vmm see that the image is in use.
const USED_BASE = 100
const UNSHARED_BASE = 200
const CONSISTENT_READ = 0
const WRITE = 1
const RESIZE = 3
const PERMISSIONS = 4

/** An open image, locked. */
export class Image implements Medium {
  readonly flushes = true
  readonly discards = true
  readonly path: string
  readonly fd: number
  /** A second descriptor without O_DIRECT, for what direct I/O cannot take; undefined where `fd` is not direct. */
  readonly bufferedFd: number | undefined
  readonly readOnly: boolean
  /** What direct I/O asks for, in bytes; 1 where it is not used. */
  readonly alignment: Alignment
  readonly isDevice: boolean
  readonly #locksWhileRunning: boolean
  /** Bytes of a logical block: what a guest's requests are multiples of. */
  readonly blockSize: number
  /** Bytes that are best read and written as a whole. */
  readonly physicalBlockSize: number
  #size: number

  private constructor (fd: number, bufferedFd: number | undefined, { path, readOnly = false, lock = 'open' }: ImageOptions) {
    this.path = path
    this.fd = fd
    this.bufferedFd = bufferedFd
    this.readOnly = readOnly
    this.#locksWhileRunning = lock === 'running'
    const status = fileStatus(fd)
    const { direct } = status
    this.isDevice = status.kind === 'block device'
    this.blockSize = this.isDevice ? deviceLimit(status, 'logical_block_size') : SECTOR_BYTES
    // A file is written in pages of the cache, whatever its disk does.
    this.physicalBlockSize = this.isDevice ? deviceLimit(status, 'physical_block_size') : 4096
    this.alignment = bufferedFd === undefined
      ? { memory: 1, offset: 1 }
      // Where the kernel does not say (before Linux 6.1), a page suits every disk.
      : { memory: direct?.memoryAlignment ?? 4096, offset: direct?.offsetAlignment ?? 4096 }
    this.#size = imageSize(fd, path)
  }

  /** @throws DataPlaneError, or LinuxError when the file cannot be opened */
  static open (options: ImageOptions): Image {
    const { path, format = 'raw', readOnly = false, direct = false, noFollow = false } = options
    if (format !== 'raw') {
      throw new DataPlaneError('ERR_FORMAT', `${path} is to be served as ${format}, but the data plane serves raw images only. ` +
        `Convert it: qemu-img convert -O raw ${path} ${path}.raw`)
    }
    const access = readOnly ? O_RDONLY : O_RDWR
    const exclusive = !readOnly && statSync(path, { throwIfNoEntry: false })?.isBlockDevice() === true ? O_EXCL : 0
    const fd = openImage(path, access | exclusive | (direct ? O_DIRECT : 0) | (noFollow ? O_NOFOLLOW : 0))
    let bufferedFd: number | undefined
    try {
      // By its descriptor: the path may name another file by now.
      if (direct) bufferedFd = openImage(`/proc/self/fd/${fd}`, access)
      const image = new Image(fd, bufferedFd, options)
      if (!image.#locksWhileRunning) image.#lock()
      return image
    } catch (error) {
      if (bufferedFd !== undefined) close(bufferedFd)
      close(fd)
      throw error
    }
  }

  /** Queues are about to run. @throws DataPlaneError ERR_IMAGE_LOCKED when another process has the image */
  beginUse (): void {
    if (this.#locksWhileRunning) this.#lock()
  }

  /** No queue runs any more: what was written is in the file, for whoever uses the image next. */
  endUse (): void {
    if (!this.#locksWhileRunning) return
    for (const base of [USED_BASE, UNSHARED_BASE]) setLock(this.fd, { type: F_UNLCK, start: base, length: PERMISSIONS })
  }

  /** Takes QEMU's locks for a user that wants nobody else to write, nor (when it writes itself) to rely on the content. */
  #lock (): void {
    const used = this.readOnly ? [CONSISTENT_READ] : [CONSISTENT_READ, WRITE]
    const unshared = [WRITE, RESIZE]
    const take = (at: number): boolean => setLock(this.fd, { type: F_RDLCK, start: at, length: 1 })
    // Taken are read locks, tested is for write locks: so any holder of the opposite byte stands against it.
    const free = (at: number): boolean => !lockConflicts(this.fd, { type: F_WRLCK, start: at, length: 1 })
    const locked = used.every((permission) => take(USED_BASE + permission)) &&
      unshared.every((permission) => take(UNSHARED_BASE + permission)) &&
      used.every((permission) => free(UNSHARED_BASE + permission)) &&
      unshared.every((permission) => free(USED_BASE + permission))
    if (locked) return
    this.endUse()
    throw new DataPlaneError('ERR_IMAGE_LOCKED', `${this.path} is in use by another process (QEMU, qemu-img or another server). ` +
      'Stop it, or serve the image read-only where the other only reads.')
  }

  /** Bytes, a multiple of the sector's: as last looked. */
  get size (): number {
    return this.#size
  }

  /** Looks at the size anew. @throws DataPlaneError when that is no disk's */
  refresh (): number {
    return this.#size = imageSize(this.fd, this.path)
  }

  /** @throws DataPlaneError for a device, or a size that is no disk's: `resize` cannot be called with it */
  checkResize (bytes: number): void {
    if (this.isDevice) throw new DataPlaneError('ERR_IMAGE', `${this.path} is a block device: change its size where it is made, then take over its new one`)
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % SECTOR_BYTES !== 0) {
      throw new DataPlaneError('ERR_OPTION', `a disk has whole sectors of ${SECTOR_BYTES} bytes, one at least: not ${bytes} bytes`)
    }
  }

  /** Cuts or extends the file. What is added reads as zeroes. @throws as `checkResize`; LinuxError */
  resize (bytes: number): void {
    this.checkResize(bytes)
    ftruncate(this.fd, bytes)
    this.#size = bytes
  }

  async sync (): Promise<void> {
    await promisify(fdatasync)(this.fd)
  }

  close (): void {
    if (this.bufferedFd !== undefined) close(this.bufferedFd)
    close(this.fd)
  }
}

function openImage (path: string, flags: number): number {
  try {
    return openQuietly(path, flags)
  } catch (error) {
    if (!(error instanceof LinuxError)) throw error
    const remedies: Record<string, string> = {
      ENOENT: `Create it, for instance: truncate -s 1G ${path}`,
      EACCES: 'Give this user the right to it, or serve it read-only.',
      EROFS: 'Its file system is read-only: serve it read-only.',
      EINVAL: 'Its file system may not support O_DIRECT: serve it without.',
      EBUSY: 'It is mounted, or part of a RAID or LVM: unmount it, or serve it read-only.',
      EISDIR: 'It is a directory: name a file or a block device.',
      ELOOP: 'It is a symbolic link: name the file itself, or serve it without noFollow.'
    }
    const remedy = remedies[error.code]
    throw new LinuxError('open', error.errno, { subject: path, ...(remedy !== undefined && { remedy }) })
  }
}

/** Its access time is left alone, where that may be had: looking at it costs each read 0.05 µs. */
function openQuietly (path: string, flags: number): number {
  try {
    return open(path, flags | O_NOATIME)
  } catch (error) {
    if (!(error instanceof LinuxError) || error.code !== 'EPERM') throw error
    return open(path, flags)
  }
}

function imageSize (fd: number, path: string): number {
  const status = fileStatus(fd)
  if (status.kind === 'block device') return Number(readFileSync(`${deviceFolder(status)}/size`, 'utf8')) * SECTOR_BYTES
  if (status.kind !== 'file') throw new DataPlaneError('ERR_IMAGE', `${path} is neither a file nor a block device`)
  if (status.size === 0 || status.size % SECTOR_BYTES !== 0) {
    throw new DataPlaneError('ERR_IMAGE', `${path} has ${status.size} bytes: a disk has whole sectors of ${SECTOR_BYTES}, one at least. ` +
      `Round it up: truncate -s '%${SECTOR_BYTES}' ${path}`)
  }
  return status.size
}

function deviceFolder ({ specialDevice }: FileStatus): string {
  return `/sys/dev/block/${specialDevice.major}:${specialDevice.minor}`
}

/** A limit of a device's queue; a partition has that of its disk. */
function deviceLimit (status: FileStatus, name: string): number {
  const folder = realpathSync(deviceFolder(status))
  const queue = existsSync(`${folder}/queue`) ? `${folder}/queue` : `${folder}/../queue`
  return Number(readFileSync(`${queue}/${name}`, 'utf8'))
}
