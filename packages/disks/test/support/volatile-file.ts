import type { Segments } from '@node-vmm/virtio-blk-dataplane'
import type { DiskFile } from '../../src/disk-file.ts'
import { bytesOf, gather, scatter } from '../../src/segments.ts'

const SECTOR = 512

/** A file whose writes are stable after a sync only: a power cut keeps any of the others, sector by sector. */
export class VolatileFile implements DiskFile {
  #stable: Buffer
  #now: Buffer
  #random: () => number
  /** Sectors written since they were stable, with every content that they had meanwhile. */
  #unstable = new Map<number, Buffer[]>()
  /** The same, of those that a sync under way makes stable. */
  #syncing: Map<number, Buffer[]> | undefined
  /** Thrown by the next sync. */
  failSync: Error | undefined
  failWriteAt: ((position: number) => Error | undefined) | undefined

  constructor (content: Buffer, random: () => number) {
    this.#stable = Buffer.from(content)
    this.#now = Buffer.from(content)
    this.#random = random
  }

  async read (position: number, segments: Segments): Promise<void> {
    await this.#someTime()
    scatter(this.#now.subarray(position, position + bytesOf(segments)), segments)
  }

  async write (position: number, segments: Segments): Promise<void> {
    const error = this.failWriteAt?.(position)
    if (error !== undefined) throw error
    const bytes = gather(segments)
    const half = Math.floor(bytes.length / 2 / SECTOR) * SECTOR
    this.#put(position, bytes.subarray(0, half))
    await this.#someTime()
    this.#put(position + half, bytes.subarray(half))
  }

  #put (position: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += SECTOR) {
      const sector = (position + at) / SECTOR
      const content = Buffer.from(bytes.subarray(at, at + SECTOR))
      content.copy(this.#now, sector * SECTOR)
      this.#unstable.set(sector, [...this.#unstable.get(sector) ?? [], content])
    }
  }

  /** Stable is what was written before the call; what is written meanwhile may be. */
  async sync (): Promise<void> {
    const before = this.#unstable
    this.#unstable = new Map()
    this.#syncing = before
    for (let times = 0; times < 5; times++) await this.#someTime()
    this.#syncing = undefined
    if (this.failSync !== undefined) throw this.failSync
    for (const [sector, contents] of before) contents.at(-1)!.copy(this.#stable, sector * SECTOR)
  }

  async punch (position: number, length: number): Promise<void> {
    this.#put(position, Buffer.alloc(length))
  }

  zero (position: number, length: number): Promise<void> {
    return this.punch(position, length)
  }

  close (): void {}

  /** What is on the disk after the power was cut now. */
  afterPowerCut (): Buffer {
    const content = Buffer.from(this.#stable)
    for (const writes of [this.#syncing ?? new Map<number, Buffer[]>(), this.#unstable]) {
      for (const [sector, contents] of writes) {
        const kept = Math.floor(this.#random() * (contents.length + 1))
        if (kept > 0) contents[kept - 1]!.copy(content, sector * SECTOR)
      }
    }
    return content
  }

  async #someTime (): Promise<void> {
    for (let turns = Math.floor(this.#random() * 4); turns > 0; turns--) await null
  }
}
