/**
 * A disk that misbehaves by plan, to test what is built on a queue.
 *
 * @packageDocumentation
 */
import { errno, NativeMemory, write } from '@node-vmm/libc'
import type { CompletionSink, Engine } from './engine.ts'
import { randomNumbers } from './random.ts'
import { IOVEC_WORDS, type RequestTable } from './request-table.ts'

export * from './volatile-disk.ts'

/** What goes wrong with a request. */
export type Fault =
  /** The kernel does not take it now (EAGAIN): it is offered again. */
  | { readonly kind: 'again' }
  /** The kernel moves only about half of it. Means nothing for what moves less than 2 bytes: a flush, a discard. */
  | { readonly kind: 'short' }
  /**
   * It is done at once and completes later: when all that is given has passed. `until` is over as soon as its first word
   * is not 0: shared with the engine's thread, it lets a test say when.
   */
  | {
    readonly kind: 'late'
    /** @default 0 */
    readonly milliseconds?: number
    /** Calls of `reap` that find it not there yet. @default 0 */
    readonly reaps?: number
    /** On shared memory. @default none */
    readonly until?: Int32Array
  }
  /** It completes at the next reap, together with others of this kind, in random order. */
  | { readonly kind: 'reorder' }
  /** It is not done and completes with this error, such as `'EIO'`, `'ENOSPC'`, `'EINTR'` or `'EAGAIN'`. */
  | { readonly kind: 'error', readonly code: keyof typeof errno }
  /** It is not done and never completes. */
  | { readonly kind: 'never' }

/** Which requests a fault is for. */
export interface FaultRule {
  /** What is to go wrong. */
  readonly fault: Fault
  /** The kind of request. @default every operation */
  readonly operation?: 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes'
  /** Exactly this request, counted from 0 among those that the rule's `operation` allows, continuations included, and zeroes
   * that are written because they cannot be had otherwise count as writes. @default every request */
  readonly at?: number
  /** Chance of each request, 0 to 1. @default 1 */
  readonly probability?: number
}

/** What is to go wrong: plain data, which can be sent to a worker. */
export interface FaultPlan {
  /** The first rule that fits a request counts. */
  readonly rules: readonly FaultRule[]
  /** Makes the random choices repeatable. @default a random one: see `FaultyEngine.seed` */
  readonly seed?: number
}

const OPERATIONS = ['', 'read', 'write', 'flush', 'discard', 'writeZeroes']
/** Milliseconds to sleep in a reap that only found completions whose time has not come. */
const NAP = 1
/** A word that holds nothing back. */
const LET_GO = Int32Array.of(1)

interface Held {
  readonly id: number
  readonly result: number
  readonly due: number
  readonly dueReap: number
  readonly until: Int32Array
}

/**
 * An engine that hands requests to a real one and fails them by plan. For tests: it allocates, and while it holds
 * late completions its `completionFd` is always readable, so that whoever waits for it comes back about once a
 * millisecond.
 *
 * It owns the engine that it is given.
 */
export class FaultyEngine implements Engine {
  readonly name: string
  readonly depth: number
  readonly completionFd: number
  /** The seed of the random choices: put it into the plan to repeat them. */
  readonly seed: number
  /** How many faults were made so far, by kind. */
  readonly made: Record<Fault['kind'], number> = { again: 0, short: 0, late: 0, reorder: 0, error: 0, never: 0 }
  readonly #inner: Engine
  readonly #plan: FaultPlan
  readonly #random: () => number
  /** How many requests each rule has seen. */
  readonly #seen: number[]
  /** The fault of a request that was looked at and not taken yet: it is chosen once. */
  readonly #chosen = new Map<number, Fault | undefined>()
  /** Requests with the real engine whose completion is to be late or reordered. */
  readonly #delayed = new Map<number, Fault>()
  #held: Held[] = []
  #reaps = 0
  readonly #one = new NativeMemory(8)
  readonly #nap = new Int32Array(new SharedArrayBuffer(4))

  /** @param inner what serves the requests: owned from then on. */
  constructor (inner: Engine, plan: FaultPlan) {
    this.#inner = inner
    this.#plan = plan
    this.seed = plan.seed ?? Math.floor(Math.random() * 0x100000000)
    this.#random = randomNumbers(this.seed)
    this.#seen = plan.rules.map(() => 0)
    this.name = `faulty ${inner.name} (seed ${this.seed})`
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
    const fault = this.#choose(ids[from]!, table)
    if (fault !== undefined) return this.#submitFaulty(ids, from, table, fault)
    let healthy = 1
    while (healthy < count && this.#choose(ids[from + healthy]!, table) === undefined) healthy++
    const taken = this.#inner.submit(ids, from, healthy, table)
    for (let index = from; index < from + taken; index++) this.#chosen.delete(ids[index]!)
    return taken
  }

  #submitFaulty (ids: Uint16Array, from: number, table: RequestTable, fault: Fault): number {
    const id = ids[from]!
    this.made[fault.kind]++
    if (fault.kind === 'again') {
      // Taken the next time: no other fault is chosen for it.
      this.#chosen.set(id, undefined)
      return -errno.EAGAIN
    }
    if (fault.kind === 'never') {
      this.#chosen.delete(id)
      return 1
    }
    if (fault.kind === 'error') {
      this.#chosen.delete(id)
      table.finish(id, -errno[fault.code])
      return 1
    }
    const restore = fault.kind === 'short' ? shorten(id, table) : undefined
    const before = table.finishedCount
    const taken = this.#inner.submit(ids, from, 1, table)
    restore?.()
    if (taken !== 1) return taken
    this.#chosen.delete(id)
    if (fault.kind !== 'short') this.#delay(id, fault, table, before)
    return 1
  }

  #delay (id: number, fault: Fault, table: RequestTable, finishedBefore: number): void {
    if (table.finishedCount === finishedBefore) this.#delayed.set(id, fault)
    else this.#hold(id, table.undoFinish(), fault)
  }

  #hold (id: number, result: number, fault: Fault): void {
    const { milliseconds = 0, reaps = 0, until = LET_GO } = fault.kind === 'late' ? fault : { reaps: 1 }
    this.#held.push({ id, result, due: performance.now() + milliseconds, dueReap: this.#reaps + reaps, until })
    this.#wake()
  }

  reap (sink: CompletionSink): void {
    this.#reaps++
    this.#inner.reap((id, result) => {
      const fault = this.#delayed.get(id)
      if (fault === undefined) return sink(id, result)
      this.#delayed.delete(id)
      this.#hold(id, result, fault)
    })
    this.#release(sink)
  }

  #release (sink: CompletionSink): void {
    if (this.#held.length === 0) return
    this.#wake()
    const now = performance.now()
    const due = this.#held.filter((held) => held.due <= now && held.dueReap <= this.#reaps && Atomics.load(held.until, 0) !== 0)
    if (due.length === 0) Atomics.wait(this.#nap, 0, 0, NAP)
    while (due.length > 0) {
      const [held] = due.splice(Math.floor(this.#random() * due.length), 1) as [Held]
      this.#held.splice(this.#held.indexOf(held), 1)
      sink(held.id, held.result)
    }
  }

  close (): void {
    this.#inner.close()
    this.#one.close()
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  #wake (): void {
    write(this.completionFd, this.#one.address, 8)
  }

  #choose (id: number, table: RequestTable): Fault | undefined {
    if (!this.#chosen.has(id)) this.#chosen.set(id, this.#draw(id, table))
    return this.#chosen.get(id)
  }

  #draw (id: number, table: RequestTable): Fault | undefined {
    const operation = OPERATIONS[table.kind[id]!]
    let drawn: Fault | undefined
    this.#plan.rules.forEach((rule, index) => {
      if (rule.operation !== undefined && rule.operation !== operation) return
      const position = this.#seen[index]!++
      if (drawn !== undefined || (rule.at !== undefined && rule.at !== position)) return
      if (rule.probability === undefined || this.#random() < rule.probability) drawn = rule.fault
    })
    return drawn?.kind === 'short' && table.remaining[id]! < 2 ? undefined : drawn
  }
}

/** Halves a request in the table, to whole blocks where it is that long. @returns what undoes it */
function shorten (id: number, table: RequestTable): () => void {
  const { iovecs } = table
  const count = table.count[id]!
  const half = table.remaining[id]! / 2
  const block = half >= 4096 ? 4096 : half >= 512 ? 512 : 1
  let left = Math.floor(half / block) * block
  let word = table.first[id]! + 2
  let kept = 1
  for (; left > iovecs[word]!; kept++) {
    left -= iovecs[word]!
    word += IOVEC_WORDS
  }
  const length = iovecs[word]!
  iovecs[word] = left
  table.count[id] = kept
  return () => {
    iovecs[word] = length
    table.count[id] = count
  }
}
