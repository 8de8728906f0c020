import { errno } from '@node-vmm/libc'
import type { CompletionSink, Engine, EngineOptions } from './engine.ts'
import { IoUringEngine } from './io-uring.ts'
import { LinuxAioEngine } from './linux-aio.ts'
import { READ, type RequestTable, WRITE } from './request-table.ts'

// Invariants.
// - Both engines announce by one eventfd: who sleeps waits for both.
// - What the shallow engine does not take, the deep one is offered at once: an error of a submission is always its word.
// - What the shallow engine could not do without waiting is queued again by the queue, as everything that ends with
//   EAGAIN is, and goes to the deep one then: it was no calm submission.

/** Requests in flight that are few. */
const SHALLOW = 8
/** Submissions with no more in flight than that before the shallow engine is used: others only pass by there. */
const CALM = 8

/**
 * Two engines on one file: as long as few requests are in flight, the shallow one has the transfers; what is more, and
 * all else, goes to the deep one.
 */
export class ByDepthEngine implements Engine {
  readonly name: string
  readonly depth: number
  readonly completionFd: number
  readonly #deep: Engine
  readonly #shallow: Engine
  /** Submissions since there were more than few, up to `CALM`. */
  #calm = 0
  /** The file, or what is under it, cannot tell whether it would wait. */
  #refused = false
  #closed = false
  /** Who gets the completions of the shallow engine. */
  #sink: CompletionSink = () => {}
  readonly #shallowSink: CompletionSink = (id, result) => this.#shallowDone(id, result)

  /**
   * Owns both engines.
   *
   * @param shallow announces by the `completionFd` of the other one, and ends with EAGAIN or EOPNOTSUPP what it could not do
   * without waiting. It gets reads and writes without flags only, and up to 8 of them.
   */
  constructor (deep: Engine, shallow: Engine) {
    this.name = `${deep.name}+${shallow.name}`
    this.depth = deep.depth
    this.completionFd = deep.completionFd
    this.#deep = deep
    this.#shallow = shallow
  }

  /**
   * io_uring, and Linux AIO for what is shallow: its completions are in memory as soon as the device has interrupted, and
   * whoever polls finds them without a system call. io_uring posts them when the kernel is entered next, which costs least
   * when there are many.
   *
   * @throws LinuxError when either cannot be had
   */
  static open (options: EngineOptions): ByDepthEngine {
    const deep = new IoUringEngine(options)
    try {
      return new ByDepthEngine(deep, new LinuxAioEngine({ ...options, completionFd: deep.completionFd, noWait: true, inFlightMax: SHALLOW }))
    } catch (error) {
      deep.close()
      throw error
    }
  }

  get systemCalls (): number {
    return this.#deep.systemCalls + this.#shallow.systemCalls
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    if (this.#count(table.inFlight) && arePlainTransfers(ids, from, count, table)) {
      const taken = this.#shallow.submit(ids, from, count, table)
      if (taken > 0) return taken
      this.#disturb(taken)
    }
    return this.#deep.submit(ids, from, count, table)
  }

  /** Counts a submission. @returns whether it may be the shallow engine's */
  #count (inFlight: number): boolean {
    if (this.#refused) return false
    if (inFlight > SHALLOW) this.#calm = 0
    else if (this.#calm < CALM) this.#calm++
    else return true
    return false
  }

  #disturb (result: number): void {
    this.#calm = 0
    if (result === -errno.EOPNOTSUPP) this.#refused = true
  }

  get unannounced (): boolean {
    return this.#deep.unannounced === true || this.#shallow.unannounced === true
  }

  announce (wanted: boolean): boolean {
    return this.#deep.announce?.(wanted) === true
  }

  hasCompletions (): boolean {
    return this.#shallow.hasCompletions?.() === true || this.#deep.hasCompletions?.() === true
  }

  reap (sink: CompletionSink): void {
    this.#sink = sink
    this.#shallow.reap(this.#shallowSink)
    if (!this.#closed) this.#deep.reap(sink)
  }

  #shallowDone (id: number, result: number): void {
    if (result !== -errno.EAGAIN && result !== -errno.EOPNOTSUPP) return this.#sink(id, result)
    this.#disturb(result)
    this.#sink(id, -errno.EAGAIN)
  }

  close (): void {
    this.#closed = true
    this.#shallow.close()
    this.#deep.close()
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }
}

function arePlainTransfers (ids: Uint16Array, from: number, count: number, table: RequestTable): boolean {
  for (let index = from; index < from + count; index++) {
    const id = ids[index]!
    if ((table.kind[id] !== READ && table.kind[id] !== WRITE) || table.flags[id] !== 0) return false
  }
  return true
}
