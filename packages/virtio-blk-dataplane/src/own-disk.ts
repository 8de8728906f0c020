import type { GuestMemory } from '@node-vmm/hostmem'
import { pathToFileURL } from 'node:url'
import type { Disk, DiskModule, OpenDisk } from './custom-disk.ts'
import { DiskEngine } from './disk-engine.ts'
import { describe, type DiskFailures } from './disk-failures.ts'
import { DataPlaneError } from './errors.ts'

const BLOCK_MIN = 512
const BLOCK_MAX = 65536

/** What a disk says of itself. */
export interface DiskFacts {
  /** Bytes. */
  readonly capacity: number
  /** Bytes. */
  readonly blockSize: number
  readonly readOnly: boolean
  /** Writes are not stable before a flush. */
  readonly flushes: boolean
  readonly discards: boolean
}

/** What is asked of a disk beside its requests. All throw DataPlaneError ERR_DISK for what is no disk, or does not do it. */
export interface DiskControl {
  open (): Promise<DiskFacts>
  /** Looks at it anew. */
  inspect (): DiskFacts | Promise<DiskFacts>
  flush (): Promise<void>
  close (): Promise<void>
}

/** A disk of the user's own, on the thread that runs it. */
export class OwnDisk implements DiskControl {
  /** What stands for the engine in reports. */
  readonly name: string
  readonly #open: () => Disk | Promise<Disk>
  #disk: Disk | undefined

  private constructor (name: string, open: () => Disk | Promise<Disk>) {
    this.name = name
    this.#open = open
  }

  static of (disk: Disk): OwnDisk {
    const own = new OwnDisk('disk', () => disk)
    own.#disk = disk
    return own
  }

  /** One that its module opens, at the call for that. */
  static from ({ module, options }: DiskModule): OwnDisk {
    const url = moduleUrl(module)
    return new OwnDisk(url, () => openModule(url, options))
  }

  async open (): Promise<DiskFacts> {
    this.#disk = await this.#open()
    return this.inspect()
  }

  inspect (): DiskFacts {
    return inspect(this.#disk)
  }

  flush (): Promise<void> {
    return perform('flush', () => this.#disk?.flush?.(new AbortController().signal))
  }

  close (): Promise<void> {
    return perform('close', () => this.#disk?.close?.())
  }

  makeEngine (depth: number, memory: GuestMemory, failures: DiskFailures): DiskEngine {
    return new DiskEngine({ name: this.name, disk: this.#disk!, blockSize: this.inspect().blockSize, failures, memory, depth })
  }
}

async function perform (what: string, action: () => void | Promise<void>): Promise<void> {
  try {
    await action()
  } catch (error) {
    throw new DataPlaneError('ERR_DISK', `the disk failed to ${what}: ${describe(error)}`, { cause: error })
  }
}

/** The URL of a module that is named by a URL, its text or a path. */
export function moduleUrl (module: URL | string): string {
  if (module instanceof URL) return module.href
  return URL.canParse(module) ? module : pathToFileURL(module).href
}

async function openModule (url: string, options: unknown): Promise<Disk> {
  const wrong = (what: string, error: unknown): DataPlaneError => new DataPlaneError('ERR_DISK', `${what}: ${describe(error)}`, { cause: error })
  let openDisk: OpenDisk | undefined
  try {
    ({ openDisk } = await import(url) as { openDisk?: OpenDisk })
  } catch (error) {
    throw wrong(`the disk module ${url} cannot be loaded`, error)
  }
  if (typeof openDisk !== 'function') {
    throw new DataPlaneError('ERR_DISK', `the disk module ${url} exports no function openDisk: export const openDisk = (options) => ({ capacity, read … })`)
  }
  try {
    return await openDisk(options)
  } catch (error) {
    throw wrong(`openDisk of ${url} failed`, error)
  }
}

function inspect (disk: Disk | undefined): DiskFacts {
  if (typeof disk !== 'object' || disk === null) throw notADisk(`${disk} is none`)
  const { capacity, blockSize = BLOCK_MIN, readOnly = false } = disk
  if (typeof disk.read !== 'function') throw notADisk('it has no method read')
  if (!Number.isInteger(blockSize) || blockSize < BLOCK_MIN || blockSize > BLOCK_MAX || (blockSize & (blockSize - 1)) !== 0) {
    throw notADisk(`its blockSize is a power of two from ${BLOCK_MIN} to ${BLOCK_MAX}: not ${blockSize}`)
  }
  if (!Number.isSafeInteger(capacity) || capacity <= 0 || capacity % blockSize !== 0) {
    throw notADisk(`its capacity is in bytes, whole blocks of ${blockSize}, one at least: not ${capacity}`)
  }
  const isReadOnly = readOnly || disk.write === undefined
  return { capacity, blockSize, readOnly: isReadOnly, flushes: disk.flush !== undefined, discards: disk.discard !== undefined }
}

function notADisk (why: string): DataPlaneError {
  return new DataPlaneError('ERR_DISK', `this cannot be a disk: ${why}`)
}
