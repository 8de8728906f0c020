// A disk in memory, as a class for the tests' own thread and as a module for the data-plane thread, which does as it is told.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Disk, DiskModule, OpenDisk, Segments } from '../../src/index.ts'

export interface MapDiskOptions {
  readonly capacity?: number
  readonly blockSize?: number
  readonly readOnly?: boolean
  /** Settles in a random order, after up to so many milliseconds. @default undefined: at once, without a promise */
  readonly jitter?: number
  /** Methods that it does not have. */
  readonly without?: readonly ('write' | 'flush' | 'discard' | 'writeZeroes')[]
  /** The byte that all is at first. @default 0 */
  readonly fill?: number
  /** 1 in its first word has it become twice as large; shared with another thread. */
  readonly grow?: Int32Array
}

const BLOCK = 512

/** Keeps what was written by block. */
export class MapDisk implements Disk {
  capacity: number
  readonly blockSize: number
  readonly readOnly: boolean
  readonly blocks = new Map<number, Uint8Array>()
  /** What was called, by name. */
  readonly calls: string[] = []
  closed = 0
  readonly #jitter: number | undefined
  readonly #fill: number
  declare write?: NonNullable<Disk['write']>
  declare flush?: NonNullable<Disk['flush']>
  declare discard?: NonNullable<Disk['discard']>
  declare writeZeroes?: NonNullable<Disk['writeZeroes']>

  constructor ({ capacity = 1 << 20, blockSize = BLOCK, readOnly = false, jitter, without = [], fill = 0 }: MapDiskOptions = {}) {
    this.capacity = capacity
    this.blockSize = blockSize
    this.readOnly = readOnly
    this.#jitter = jitter
    this.#fill = fill
    if (!without.includes('write')) this.write = (offset, segments) => this.#do('write', () => this.#put(offset, segments))
    if (!without.includes('flush')) this.flush = () => this.#do('flush', () => {})
    if (!without.includes('discard')) this.discard = (offset, length) => this.#do('discard', () => this.#clear(offset, length))
    if (!without.includes('writeZeroes')) {
      this.writeZeroes = (offset, length, unmap) => this.#do(unmap ? 'unmap' : 'writeZeroes', () => this.#clear(offset, length))
    }
  }

  read (offset: number, segments: Segments): void | Promise<void> {
    return this.#do('read', () => this.#get(offset, segments))
  }

  close (): void {
    this.closed++
  }

  #do (name: string, action: () => void): void | Promise<void> {
    this.calls.push(name)
    if (this.#jitter === undefined) return action()
    return sleep(Math.random() * this.#jitter).then(action)
  }

  #get (offset: number, segments: Segments): void {
    let at = offset
    for (const segment of segments) {
      for (let done = 0; done < segment.length;) {
        const block = this.blocks.get(Math.floor(at / BLOCK))
        const here = Math.min(segment.length - done, BLOCK - at % BLOCK)
        if (block === undefined) segment.fill(this.#fill, done, done + here)
        else segment.set(block.subarray(at % BLOCK, at % BLOCK + here), done)
        done += here
        at += here
      }
    }
  }

  #put (offset: number, segments: Segments): void {
    const bytes = Buffer.concat(segments)
    for (let at = 0; at < bytes.length; at += BLOCK) this.blocks.set((offset + at) / BLOCK, Uint8Array.from(bytes.subarray(at, at + BLOCK)))
  }

  #clear (offset: number, length: number): void {
    for (let at = 0; at < length; at += BLOCK) this.blocks.set((offset + at) / BLOCK, new Uint8Array(BLOCK))
  }
}

export const openDisk: OpenDisk<MapDiskOptions> = async (options) => {
  await sleep(1)
  const disk = new MapDisk(options)
  const { grow } = options
  if (grow === undefined) return disk
  const { capacity } = disk
  Object.defineProperty(disk, 'capacity', { get: () => Atomics.load(grow, 0) === 0 ? capacity : 2 * capacity })
  return disk
}

/** The same, on the data-plane thread. */
export function mapDiskModule (options: MapDiskOptions = {}): DiskModule<MapDiskOptions> {
  return { module: new URL(import.meta.url), options }
}
