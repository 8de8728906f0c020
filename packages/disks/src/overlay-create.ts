import { FALLOC_FL_KEEP_SIZE, fallocate } from '@node-vmm/libc'
import type { Disk } from '@node-vmm/virtio-blk-dataplane'
import { closeSync, fsyncSync, ftruncateSync, linkSync, openSync, unlinkSync, writeSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { dirname } from 'node:path'
import { DiskError } from './errors.ts'
import { type Base, nameOf } from './overlay-base.ts'
import { CLUSTER_DEFAULT, CLUSTER_MAX, CLUSTER_MIN, dataStart, encodeHeader, fileSize, isClusterSize, type OverlayHeader } from './overlay-format.ts'
import { raw } from './raw.ts'

/** An overlay to be made. */
export interface CreateOverlayOptions {
  /** A disk, left open, or the path of a raw image. */
  readonly base: Base
  /** A file that does not exist yet. */
  readonly file: string
  /** Bytes, a multiple of the base's block size. @default the base's */
  readonly capacity?: number
  /** Bytes, a power of two, 4096 to 2 MiB. @default 65536 */
  readonly clusterSize?: number
}

/**
 * Makes an overlay that has nothing of its own yet. The file is there whole, or not at all.
 *
 * @throws DiskError ERR_DISK_OPTION; what `raw` throws; Node's error where the file cannot be made
 */
export async function createOverlay ({ base, file, capacity, clusterSize = CLUSTER_DEFAULT }: CreateOverlayOptions): Promise<void> {
  const disk = typeof base === 'string' ? raw({ path: base, readOnly: true }) : base
  try {
    const header = { capacity: capacity ?? disk.capacity, clusterSize, baseSize: disk.capacity, baseName: nameOf(base) }
    checkHeader(header, disk)
    writeFile(file, header)
  } finally {
    if (disk !== base) await disk.close?.()
  }
}

function checkHeader ({ capacity, clusterSize }: OverlayHeader, { blockSize = 512 }: Disk): void {
  if (!isClusterSize(clusterSize) || clusterSize < blockSize) {
    throw new DiskError('ERR_DISK_OPTION', `a cluster has ${CLUSTER_MIN} to ${CLUSTER_MAX} bytes, a power of two, and a block of the base (${blockSize}) at least: not ${clusterSize}`)
  }
  if (!Number.isSafeInteger(capacity) || capacity <= 0 || capacity % blockSize !== 0) {
    throw new DiskError('ERR_DISK_OPTION', `an overlay has whole blocks of its base, ${blockSize} bytes each, one at least: not ${capacity} bytes`)
  }
}

function writeFile (file: string, header: OverlayHeader): void {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.new`
  const fd = openSync(temporary, 'wx', 0o600)
  try {
    writeSync(fd, encodeHeader(header))
    ftruncateSync(fd, fileSize(header))
    // So that a flush needs no space for the map. Where the file system cannot, it takes it when it is needed.
    fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, dataStart(header))
    fsyncSync(fd)
    linkSync(temporary, file)
    syncFolder(dirname(file))
  } finally {
    closeSync(fd)
    unlinkSync(temporary)
  }
}

function syncFolder (path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
