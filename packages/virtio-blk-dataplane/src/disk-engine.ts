import { EventNotifier } from '@node-vmm/event-poll'
import type { GuestMemory } from '@node-vmm/hostmem'
import {
  type CompletionSink, DISCARD, type Engine, FLUSH, NO_METHOD, PUNCH_HOLE, READ, REQUEST_DURABLE, type RequestTable, WRITE, WRITE_ZEROES
} from '@node-vmm/ioq'
import { errno } from '@node-vmm/libc'
import type { Disk } from './custom-disk.ts'
import { type DiskFailures, errorNumber } from './disk-failures.ts'
import { GuestSegments } from './guest-segments.ts'

/** What an engine over a disk works on. */
export interface DiskEngineOptions {
  readonly name: string
  readonly disk: Disk
  /** Bytes. */
  readonly blockSize: number
  readonly failures: DiskFailures
  /** The guest memory that requests are in. */
  readonly memory: GuestMemory
  readonly depth: number
}

interface Settled {
  readonly id: number
  readonly result: number
}

/** How each kind of request is called when it failed. */
const OPERATIONS: Readonly<Record<number, string>> = {
  [READ]: 'read', [WRITE]: 'write', [FLUSH]: 'flush', [DISCARD]: 'discard', [WRITE_ZEROES]: 'write zeroes'
}

/**
 * A disk of the user's own as an engine of an I/O queue: a request becomes a call, and what it returns or settles with a
 * completion. What the disk did at once is handed to `table.finish`, what it promised is announced when it is there.
 */
export class DiskEngine implements Engine {
  readonly name: string
  readonly depth: number
  readonly completionFd: number
  /** None that it knows of: what the disk makes is the disk's. */
  readonly systemCalls = 0
  readonly #disk: Disk
  readonly #blockSize: number
  readonly #failures: DiskFailures
  readonly #segments: GuestSegments
  readonly #abort = new AbortController()
  readonly #completion = EventNotifier.create()
  #settled: Settled[] = []

  constructor ({ name, disk, blockSize, failures, memory, depth }: DiskEngineOptions) {
    this.name = name
    this.depth = depth
    this.completionFd = this.#completion.fd
    this.#disk = disk
    this.#blockSize = blockSize
    this.#failures = failures
    this.#segments = new GuestSegments(memory)
  }

  /** Asks for what is in flight to end soon; whatever still comes fails. */
  abort (): void {
    this.#abort.abort()
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    for (let index = from; index < from + count; index++) this.#begin(ids[index]!, table)
    return count
  }

  reap (sink: CompletionSink): void {
    for (let left = this.#settled.length; left > 0; left--) {
      const { id, result } = this.#settled.shift()!
      sink(id, result)
    }
  }

  close (): void {
    this.#completion.close()
  }

  #begin (id: number, table: RequestTable): void {
    if (this.#abort.signal.aborted || !this.#isWhole(id, table)) return table.finish(id, -errno.EIO)
    if (!this.#knows(table.kind[id]!)) return table.finish(id, this.#unsupported(id, table))
    let pending: unknown
    try {
      pending = this.#call(id, table)
    } catch (error) {
      return table.finish(id, this.#failure(id, table, error))
    }
    if (pending === undefined) table.finish(id, table.remaining[id]!)
    else void this.#await(id, table, pending)
  }

  async #await (id: number, table: RequestTable, pending: unknown): Promise<void> {
    let result: number
    try {
      await pending
      result = table.remaining[id]!
    } catch (error) {
      result = this.#failure(id, table, error)
    }
    this.#settled.push({ id, result })
    // Once for all that settle before the next reap.
    if (this.#settled.length === 1) this.#completion.notify()
  }

  #call (id: number, table: RequestTable): unknown {
    const disk = this.#disk
    const { signal } = this.#abort
    const offset = table.offset[id]!
    switch (table.kind[id]) {
      case READ: return disk.read(offset, this.#segments.of(id, table), signal)
      case WRITE: return this.#write(id, table, signal)
      case FLUSH: return disk.flush?.(signal)
      case DISCARD: return disk.discard!(offset, table.length[id]!, signal)
      default: return disk.writeZeroes!(offset, table.length[id]!, table.method[id] === PUNCH_HOLE, signal)
    }
  }

  #write (id: number, table: RequestTable, signal: AbortSignal): unknown {
    const disk = this.#disk
    const pending: unknown = disk.write!(table.offset[id]!, this.#segments.of(id, table), signal)
    if ((table.flags[id]! & REQUEST_DURABLE) === 0 || disk.flush === undefined) return pending
    return pending === undefined ? disk.flush(signal) : flushAfter(disk, pending, signal)
  }

  /** Whether offset and length are multiples of the block size, where the request has any. */
  #isWhole (id: number, table: RequestTable): boolean {
    const kind = table.kind[id]!
    if (kind === FLUSH) return true
    const length = kind === READ || kind === WRITE ? table.remaining[id]! : table.length[id]!
    return table.offset[id]! % this.#blockSize === 0 && length % this.#blockSize === 0
  }

  #knows (kind: number): boolean {
    if (kind === DISCARD) return this.#disk.discard !== undefined
    if (kind === WRITE_ZEROES) return this.#disk.writeZeroes !== undefined
    return kind !== WRITE || this.#disk.write !== undefined
  }

  #failure (id: number, table: RequestTable, error: unknown): number {
    // Who aborts knows.
    if (!this.#abort.signal.aborted) this.#report(id, table, error)
    const result = errorNumber(error)
    return result === -errno.EOPNOTSUPP ? this.#unsupported(id, table) : result
  }

  /** No method is left for this range; the next one may have better luck: so the I/O queue shall not remember it as one that the disk does not know. */
  #unsupported (id: number, table: RequestTable): number {
    table.method[id] = NO_METHOD
    return -errno.EOPNOTSUPP
  }

  #report (id: number, table: RequestTable, error: unknown): void {
    const kind = table.kind[id]!
    const length = kind === READ || kind === WRITE ? table.remaining[id]! : table.length[id]!
    this.#failures.report(OPERATIONS[kind]!, kind === FLUSH ? '' : ` ${length} bytes at offset ${table.offset[id]}`, error)
  }
}

async function flushAfter (disk: Disk, written: unknown, signal: AbortSignal): Promise<void> {
  await written
  await disk.flush!(signal)
}
