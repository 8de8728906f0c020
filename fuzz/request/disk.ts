import { errno, LinuxError } from '@node-vmm/libc'
import type { EngineName } from '@node-vmm/ioq'
import { SECTOR_BYTES } from '@node-vmm/virtio-blk'
import { DataPlane, type DataPlaneOptions } from '@node-vmm/virtio-blk-dataplane'
import type { VringFault } from '@node-vmm/vring'
import { closeSync, existsSync, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Random } from '../random.ts'

/** Bytes of the disk, and of the file behind it that no request may reach. */
export const DISK_BYTES = 1024 * SECTOR_BYTES
export const BEHIND_BYTES = 64 * 1024

export const SERIAL = 'fuzz-0123456789'

/** How a disk is served. */
export interface DiskOptions extends Pick<DataPlaneOptions, 'readOnly' | 'discardSegments' | 'writeThrough' | 'direct'> {
  readonly engine: EngineName
  /** Its file is where temporary files are, which is mostly a disk: a flush takes its time there. @default in memory */
  readonly onDisk?: boolean
}

/** Files in memory, where there are such. */
const MEMORY_FOLDER = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

const folders = new Set<string>()
process.once('exit', () => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })))

/** A data plane on a real file that is longer than the disk. */
export class FuzzedDisk {
  readonly plane: DataPlane
  readonly options: DiskOptions
  /** Told of each broken ring. */
  onFault: (fault: VringFault) => void = () => {}
  /** The data-plane thread died. */
  death: Error | undefined
  readonly #folder: string
  readonly #fd: number

  constructor (options: DiskOptions) {
    this.options = options
    this.#folder = mkdtempSync(join(options.onDisk === true ? tmpdir() : MEMORY_FOLDER, 'node-vmm-fuzz-'))
    folders.add(this.#folder)
    const path = join(this.#folder, 'disk.img')
    writeFileSync(path, Buffer.alloc(DISK_BYTES))
    this.plane = this.#serve(path)
    this.#fd = openSync(path, 'r+')
  }

  #serve (path: string): DataPlane {
    const { onDisk, ...disk } = this.options
    const options = {
      path,
      packed: true,
      inOrder: true,
      serial: SERIAL,
      ...disk,
      onFault: (_: number, fault: VringFault) => this.onFault(fault),
      onDeath: (error: Error) => { this.death = error }
    }
    try {
      return DataPlane.create(options)
    } catch (error) {
      // Not every host has io_uring, nor every file system O_DIRECT.
      if (!(error instanceof LinuxError)) throw error
      return DataPlane.create({ ...options, engine: 'auto', direct: error.errno !== errno.EINVAL && disk.direct === true })
    }
  }

  /** Gives the file, what is behind the disk included, another content. */
  fill (content: Buffer): void {
    for (let at = 0; at < content.length;) at += writeSync(this.#fd, content, at, content.length - at, at)
  }

  /** Bytes of the file. */
  get size (): number {
    return fstatSync(this.#fd).size
  }

  /** All that it had in the beginning. */
  read (): Buffer {
    const content = Buffer.alloc(DISK_BYTES + BEHIND_BYTES)
    for (let at = 0; at < content.length;) {
      const bytes = readSync(this.#fd, content, at, content.length - at, at)
      if (bytes === 0) return content.subarray(0, at)
      at += bytes
    }
    return content
  }

  async close (): Promise<void> {
    await this.plane.close()
    closeSync(this.#fd)
    rmSync(this.#folder, { recursive: true })
    folders.delete(this.#folder)
  }
}

/** Content that a disk begins with: nothing in it is zero, so that what was zeroed shows. */
export function contentOf (seed: number): Buffer {
  const random = new Random(seed)
  const words = Uint32Array.from({ length: (DISK_BYTES + BEHIND_BYTES) / 4 }, () => random.word() | 0x01010101)
  return Buffer.from(words.buffer)
}

