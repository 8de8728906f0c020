import type { Disk, Segments } from '@node-vmm/virtio-blk-dataplane'
import { existsSync } from 'node:fs'
import { allDone, RangeLock } from './concurrency.ts'
import { DiskError } from './errors.ts'
import type { OpenedDisk } from './opened-disk.ts'
import { type Base, openBase, readBase } from './overlay-base.ts'
import { createOverlay } from './overlay-create.ts'
import { OverlayFile, type Run } from './overlay-file.ts'
import { ABSENT, PRESENT, ZERO } from './overlay-format.ts'
import { bytesOf, clear, slice, zeroes } from './segments.ts'

/** A copy-on-write overlay. */
export interface OverlayOptions {
  /**
   * The base: a disk, owned by the overlay from then on, or the path of a raw image. It is never written.
   * @default the raw image that the file names
   */
  readonly base?: Base
  /** The overlay's file. It is made where it does not exist. */
  readonly file: string
  /** Refuse writes; the file must exist then. @default false */
  readonly readOnly?: boolean
  /** Bytes of the disk, a multiple of the base's block size; where the base ends before, zeroes follow. For a new overlay. @default the base's */
  readonly capacity?: number
  /** Bytes, a power of two, 4096 to 2 MiB: what is copied from the base when a part of it is written. For a new overlay. @default 65536 */
  readonly clusterSize?: number
}

/**
 * A disk that reads as its base, and keeps what is written in a file of its own: many machines share one base.
 *
 * A discarded cluster reads as zeroes. Where a discard covers a part of a cluster which is still the base's, that part is
 * left as it is: a discard is a hint, and a copy would take space.
 *
 * @throws DiskError ERR_OVERLAY, ERR_OVERLAY_BASE, ERR_DISK_LOCKED, ERR_DISK_OPTION; what `raw` throws
 */
export async function overlay (options: OverlayOptions): Promise<OpenedDisk> {
  const { file, readOnly = false, base: given } = options
  if (!existsSync(file)) await createFor(options)
  const overlayFile = await OverlayFile.open(file, readOnly)
  let base: Disk | undefined
  try {
    base = openBase(given, overlayFile, true)
    checkBase(overlayFile, base)
    return new Overlay(overlayFile, base, readOnly)
  } catch (error) {
    overlayFile.close()
    if (typeof given !== 'object') await base?.close?.()
    throw error
  }
}

async function createFor ({ base, file, readOnly = false, capacity, clusterSize }: OverlayOptions): Promise<void> {
  if (base === undefined || readOnly) {
    throw new DiskError('ERR_OVERLAY', `there is no overlay ${file}. ` + (readOnly ? 'Make it by using it for writing once.' : 'Say which base it is to have, and it is made.'))
  }
  await createOverlay({ base, file, ...(capacity !== undefined && { capacity }), ...(clusterSize !== undefined && { clusterSize }) })
}

/** @throws DiskError ERR_OVERLAY_BASE for a base that is another one by its size, or does not fit by its blocks */
function checkBase ({ path, header }: OverlayFile, base: Disk): void {
  if (base.capacity !== header.baseSize) {
    throw new DiskError('ERR_OVERLAY_BASE', `the overlay ${path} was made over a base of ${header.baseSize} bytes${header.baseName && `, ${header.baseName}`}: ` +
      `this one has ${base.capacity}. Give it the base as it was, or rebase it.`)
  }
  const { blockSize = 512 } = base
  if (header.clusterSize % blockSize !== 0 || header.capacity % blockSize !== 0) {
    throw new DiskError('ERR_OVERLAY_BASE', `the overlay ${path} has clusters of ${header.clusterSize} bytes and ${header.capacity} bytes in all, ` +
      `which are not whole blocks of its base, ${blockSize} bytes each`)
  }
}

/** @internal */
export class Overlay implements OpenedDisk {
  readonly capacity: number
  readonly blockSize: number
  readonly readOnly: boolean
  readonly #file: OverlayFile
  readonly #base: Disk
  /** Clusters that become present or zero: between the look at the base and the entry in the map nobody else may do the same. */
  readonly #changing = new RangeLock()

  constructor (file: OverlayFile, base: Disk, readOnly = false) {
    this.capacity = file.header.capacity
    this.blockSize = base.blockSize ?? 512
    this.readOnly = readOnly
    this.#file = file
    this.#base = base
  }

  async read (offset: number, segments: Segments, signal: AbortSignal): Promise<void> {
    const reads: Promise<void>[] = []
    for (const run of this.#file.runs(offset, bytesOf(segments))) {
      const part = slice(segments, run.offset - offset, run.length)
      if (run.state === PRESENT) reads.push(this.#file.file.read(this.#file.position(run.offset), part))
      else if (run.state === ABSENT) reads.push(readBase(this.#base, run.offset, part, signal))
      else clear(part)
    }
    await allDone(reads)
  }

  async write (offset: number, segments: Segments, signal: AbortSignal): Promise<void> {
    const length = bytesOf(segments)
    const isPresent = (state: number): boolean => state === PRESENT
    const [first, second] = this.#file.runs(offset, length, isPresent)
    // Without a lock: only the request's own bytes are written, and what else happens to those meanwhile overlaps it.
    if (second === undefined && first?.state === PRESENT) return this.#file.file.write(this.#file.position(offset), segments)
    await this.#exclusively(offset, length, () => allDone([...this.#file.runs(offset, length, isPresent)].map((run) => {
      const part = slice(segments, run.offset - offset, run.length)
      return run.state === PRESENT ? this.#file.file.write(this.#file.position(run.offset), part) : this.#allocate(run, part, signal)
    })))
  }

  /** Whole clusters, written at once: what the request does not have of the first and the last is what was read there before. */
  async #allocate ({ offset, length }: Run, segments: Segments, signal: AbortSignal): Promise<void> {
    const first = this.#file.clusterAt(offset)
    const last = this.#file.clusterAt(offset + length - 1)
    const head = new Uint8Array(offset - this.#file.startOf(first))
    const tail = new Uint8Array(this.#file.endOf(last) - offset - length)
    await allDone([this.read(offset - head.length, [head], signal), this.read(offset + length, [tail], signal)])
    await this.#file.file.write(this.#file.position(offset - head.length), [head, ...segments, tail])
    this.#file.setAll(first, last, PRESENT)
  }

  flush (): Promise<void> {
    return this.#file.flush()
  }

  discard (offset: number, length: number, signal: AbortSignal): Promise<void> {
    return this.#clear(offset, length, false, signal)
  }

  writeZeroes (offset: number, length: number, _unmap: boolean, signal: AbortSignal): Promise<void> {
    return this.#clear(offset, length, true, signal)
  }

  #clear (offset: number, length: number, exactly: boolean, signal: AbortSignal): Promise<void> {
    return this.#exclusively(offset, length, async () => {
      for (const run of [...this.#file.runs(offset, length)]) {
        if (run.state !== ZERO) await this.#clearRun(run, exactly, signal)
      }
    })
  }

  async #clearRun ({ state, offset, length }: Run, exactly: boolean, signal: AbortSignal): Promise<void> {
    const end = offset + length
    const first = this.#file.clusterAt(offset + this.#file.header.clusterSize - 1)
    const last = this.#file.clusterAt(end - 1) - (this.#file.endOf(this.#file.clusterAt(end - 1)) === end ? 0 : 1)
    // A hole where the map on the disk still says present reads as the zeroes that it is to have.
    if (state === PRESENT) await this.#file.file.punch(this.#file.position(offset), length)
    else if (exactly) await this.#clearEdges(offset, end, first, last, signal)
    this.#file.setAll(first, last, ZERO)
  }

  /** Parts of clusters that are the base's: the rest of these has to be copied. */
  async #clearEdges (offset: number, end: number, first: number, last: number, signal: AbortSignal): Promise<void> {
    const headEnd = Math.min(end, this.#file.startOf(first))
    const tailStart = Math.max(headEnd, this.#file.endOf(last))
    await this.#clearEdge(offset, headEnd, signal)
    await this.#clearEdge(tailStart, end, signal)
  }

  async #clearEdge (offset: number, end: number, signal: AbortSignal): Promise<void> {
    if (end > offset) await this.#allocate({ state: ABSENT, offset, length: end - offset }, zeroes(end - offset), signal)
  }

  async #exclusively (offset: number, length: number, work: () => Promise<void>): Promise<void> {
    const release = await this.#changing.lock(this.#file.clusterAt(offset), this.#file.clusterAt(offset + length - 1))
    try {
      await work()
    } finally {
      release()
    }
  }

  /** Flushes, so that a machine that was shut down loses nothing. @throws what the flush throws, when all is closed */
  async close (): Promise<void> {
    try {
      if (!this.readOnly) await this.flush()
    } finally {
      this.#file.close()
      await this.#base.close?.()
    }
  }

  /** The same as `close()`, for `await using`. */
  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }
}
