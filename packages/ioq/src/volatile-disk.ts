import { errno, NativeMemory, viewMemory, write } from '@node-vmm/libc'
import { readSync, writeSync } from 'node:fs'
import type { CompletionSink, Engine } from './engine.ts'
import { randomNumbers } from './random.ts'
import { FLUSH, IOVEC_WORDS, READ, REQUEST_DURABLE, type RequestTable, WRITE } from './request-table.ts'

// How it works. Requests reach the file as they come, so that reads see what was written. Of each sector that a volatile
// write touches, the stable content is kept; of each volatile write, what it wrote. A power cut puts every such sector
// back to its stable content, and then on top of it, in their order, the sectors of volatile writes that chance keeps.

/** What a disk writes whole or not at all. */
const SECTOR_BYTES = 512
/** Milliseconds that a power cut waits for what the kernel is still doing. */
const DRAIN_TIMEOUT = 10_000

/** What a power cut did to the writes that were not stable. */
export interface PowerCut {
  /** They are there. */
  readonly kept: number
  /** They left nothing. */
  readonly dropped: number
  /** Some of their sectors are there. */
  readonly torn: number
}

interface Write {
  /** Its place in the order of submissions. */
  readonly sequence: number
  readonly offset: number
  /** What was written, or undefined for zeroes. */
  readonly data: Uint8Array | undefined
  readonly durable: boolean
  length: number
  completed: boolean
}

interface StableSector {
  readonly bytes: Uint8Array
  /** The write that was the last to become stable in it; nothing older can come back. */
  sequence: number
}

/**
 * A disk with a volatile write cache, for tests of what survives a power cut. A write is stable once it has completed
 * and a flush that was submitted afterwards has too, or when it was durable and has completed. What is not stable may
 * be there after a power cut, or not, or in part, sector by sector.
 *
 * One disk stands for one file, with any number of engines; all of them belong to the thread that made it. It keeps all
 * that was written since the last flush in memory. What is past the end of the file counts as zeroes; a file that has
 * grown does not shrink.
 */
export class VolatileDisk {
  readonly #fd: number
  readonly #engines: VolatileEngine[] = []
  readonly #stable = new Map<number, StableSector>()
  #volatile: Write[] = []
  #sequence = 0

  /** @param fd the file, opened for reading and writing, without O_DIRECT. It stays the caller's. */
  constructor (fd: number) {
    this.#fd = fd
  }

  /** An engine that works on this disk by way of another one, which it owns from then on. */
  attach (engine: Engine): Engine {
    const attached = new VolatileEngine(engine, this)
    this.#engines.push(attached)
    return attached
  }

  /** How many writes a power cut may undo. */
  get volatileWrites (): number {
    return this.#volatile.length
  }

  /**
   * Cuts the power: what is in flight is over, and everything from now on, what was in flight included, completes with
   * EIO. The file has what a disk would have after that.
   *
   * @param seed of the random choices: the same one repeats them.
   * @throws Error for requests that do not come back from the engine below
   */
  powerCut (seed: number): PowerCut {
    for (const engine of this.#engines) engine.powerOff()
    const random = randomNumbers(seed)
    const report = { kept: 0, dropped: 0, torn: 0 }
    for (const volatileWrite of this.#volatile) {
      const fate = (['kept', 'dropped', 'torn'] as const)[Math.floor(random() * 3)]!
      report[fate]++
      for (const [sector, stable] of this.#sectorsOf(volatileWrite)) {
        const stays = fate === 'kept' || (fate === 'torn' && random() < 0.5)
        if (stays && volatileWrite.sequence > stable.sequence) apply(volatileWrite, sector, stable.bytes)
      }
    }
    for (const [sector, { bytes }] of this.#stable) writeSync(this.#fd, bytes, 0, bytes.length, sector * SECTOR_BYTES)
    this.#stable.clear()
    this.#volatile = []
    return report
  }

  /** A write is about to be submitted. */
  begin (offset: number, length: number, data: Uint8Array | undefined, durable: boolean): Write {
    const begun: Write = { sequence: ++this.#sequence, offset, length, data, durable, completed: false }
    this.#keepStable(begun)
    this.#volatile.push(begun)
    return begun
  }

  /** A write has completed, or was refused. */
  end (ended: Write, succeeded: boolean, moved: number): void {
    ended.length = moved
    ended.completed = true
    if (succeeded && ended.durable) this.#settle(ended)
    if (!succeeded || ended.durable) this.#volatile = this.#volatile.filter((entry) => entry !== ended)
  }

  /** What a flush covers that is submitted now. */
  completedWrites (): readonly Write[] {
    return this.#volatile.filter(({ completed }) => completed)
  }

  /** A flush has completed. */
  flushed (covered: readonly Write[]): void {
    for (const entry of covered) this.#settle(entry)
    const settled = new Set(covered)
    this.#volatile = this.#volatile.filter((entry) => !settled.has(entry))
    if (this.#volatile.length === 0) this.#stable.clear()
  }

  /** Makes a write stable, and with each of its sectors what was written there before. */
  #settle (settled: Write): void {
    for (const [sector, stable] of this.#sectorsOf(settled)) {
      for (const earlier of this.#volatile) {
        if (earlier.completed && earlier.sequence > stable.sequence && earlier.sequence < settled.sequence) apply(earlier, sector, stable.bytes)
      }
      if (settled.sequence < stable.sequence) continue
      apply(settled, sector, stable.bytes)
      stable.sequence = settled.sequence
    }
  }

  * #sectorsOf ({ offset, length }: Write): Generator<[number, StableSector]> {
    const end = Math.ceil((offset + length) / SECTOR_BYTES)
    for (let sector = Math.floor(offset / SECTOR_BYTES); sector < end; sector++) {
      const stable = this.#stable.get(sector)
      if (stable !== undefined) yield [sector, stable]
    }
  }

  /** Reads the stable content of the sectors that no volatile write has touched yet: what is in the file. */
  #keepStable ({ offset, length }: Write): void {
    const first = Math.floor(offset / SECTOR_BYTES)
    const end = Math.ceil((offset + length) / SECTOR_BYTES)
    const content = new Uint8Array((end - first) * SECTOR_BYTES)
    readSync(this.#fd, content, 0, content.length, first * SECTOR_BYTES)
    for (let sector = first; sector < end; sector++) {
      if (this.#stable.has(sector)) continue
      const at = (sector - first) * SECTOR_BYTES
      this.#stable.set(sector, { bytes: content.slice(at, at + SECTOR_BYTES), sequence: 0 })
    }
  }
}

/** Copies what a write has of a sector. */
function apply ({ offset, length, data }: Write, sector: number, bytes: Uint8Array): void {
  const start = sector * SECTOR_BYTES
  const from = Math.max(offset, start)
  const to = Math.min(offset + length, start + bytes.length)
  if (to <= from) return
  if (data === undefined) bytes.fill(0, from - start, to - start)
  else bytes.set(data.subarray(from - offset, to - offset), from - start)
}

/** Tells the disk of everything that passes. */
class VolatileEngine implements Engine {
  readonly name: string
  readonly depth: number
  readonly completionFd: number
  readonly #inner: Engine
  readonly #disk: VolatileDisk
  readonly #inFlight = new Map<number, Write | readonly Write[] | undefined>()
  readonly #one = new NativeMemory(8)
  #off = false
  /** What was in flight when the power went. */
  #lost: number[] = []

  constructor (inner: Engine, disk: VolatileDisk) {
    this.#inner = inner
    this.#disk = disk
    this.name = `volatile ${inner.name}`
    this.depth = inner.depth
    this.completionFd = inner.completionFd
    this.#one.setUint64(0, 1)
  }

  get systemCalls (): number {
    return this.#inner.systemCalls
  }

  get unannounced (): boolean {
    return this.#inner.unannounced === true
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    for (let index = 0; index < count; index++) {
      const taken = this.#submitOne(ids, from + index, table)
      if (taken !== 1) return index > 0 ? index : taken
    }
    return count
  }

  #submitOne (ids: Uint16Array, from: number, table: RequestTable): number {
    const id = ids[from]!
    if (this.#off) {
      table.finish(id, -errno.EIO)
      return 1
    }
    this.#begin(id, table)
    const before = table.finishedCount
    const taken = this.#inner.submit(ids, from, 1, table)
    if (taken !== 1) {
      this.#end(id, -errno.EAGAIN)
    } else if (table.finishedCount > before) {
      const result = table.undoFinish()
      this.#end(id, result)
      table.finish(id, result)
    }
    return taken
  }

  #begin (id: number, table: RequestTable): void {
    const kind = table.kind[id]!
    if (kind === READ) this.#inFlight.set(id, undefined)
    else if (kind === FLUSH) this.#inFlight.set(id, this.#disk.completedWrites())
    else if (kind === WRITE) {
      const durable = (table.flags[id]! & REQUEST_DURABLE) !== 0
      this.#inFlight.set(id, this.#disk.begin(table.offset[id]!, table.remaining[id]!, dataOf(id, table), durable))
    } else {
      this.#inFlight.set(id, this.#disk.begin(table.offset[id]!, table.length[id]!, undefined, false))
    }
  }

  #end (id: number, result: number): void {
    const what = this.#inFlight.get(id)
    this.#inFlight.delete(id)
    if (what === undefined) return
    if (isFlush(what)) {
      if (result === 0) this.#disk.flushed(what)
    } else {
      // A discard and write zeroes are done whole, and say 0.
      this.#disk.end(what, result >= 0, what.data === undefined ? what.length : Math.max(0, result))
    }
  }

  reap (sink: CompletionSink): void {
    this.#inner.reap((id, result) => {
      this.#end(id, result)
      sink(id, result)
    })
    for (let id = this.#lost.pop(); id !== undefined; id = this.#lost.pop()) sink(id, -errno.EIO)
  }

  /** Waits until the kernel leaves the file alone; nobody is told of what completes meanwhile. */
  powerOff (): void {
    this.#off = true
    const deadline = performance.now() + DRAIN_TIMEOUT
    while (this.#inFlight.size > 0) {
      if (performance.now() > deadline) throw new Error(`${this.#inFlight.size} requests never came back from ${this.#inner.name}`)
      this.#inner.reap((id) => {
        this.#inFlight.delete(id)
        this.#lost.push(id)
      })
    }
    if (this.#lost.length > 0) write(this.completionFd, this.#one.address, 8)
  }

  close (): void {
    this.#inner.close()
    this.#one.close()
  }
}

function isFlush (what: Write | readonly Write[]): what is readonly Write[] {
  return Array.isArray(what)
}

/** A copy of what a write is to write. */
function dataOf (id: number, table: RequestTable): Uint8Array {
  const { iovecs } = table
  const data = new Uint8Array(table.remaining[id]!)
  let at = 0
  let word = table.first[id]!
  for (let left = table.count[id]!; left > 0; left--, word += IOVEC_WORDS) {
    const length = iovecs[word + 2]!
    if (length > 0) data.set(new Uint8Array(viewMemory(iovecs[word + 1]! * 0x100000000 + iovecs[word]!, length)), at)
    at += length
  }
  return data
}
