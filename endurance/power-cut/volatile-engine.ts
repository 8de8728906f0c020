// An engine module: a disk whose cache is lost with the power, and the moment at which that goes, the process with it.
// And, to see that this is noticed, disks that lie.
import { writeSync } from 'node:fs'
import { type CompletionSink, type Engine, type EngineName, FLUSH, openEngine, REQUEST_DURABLE, type RequestTable } from '@node-vmm/ioq'
import { VolatileDisk } from '@node-vmm/ioq/testing'
import type { EngineFactory, EngineModule } from '@node-vmm/virtio-blk-dataplane'

/** Where the data-plane thread is when the power goes. */
export const MOMENTS = ['before a submission', 'after a submission', 'before completions', 'after completions'] as const
export type Moment = typeof MOMENTS[number]

/** What a disk does wrong: it never flushes, says that it has before it does, or forgets that a write is to be durable. */
export const LIES = ['forgets flushes', 'flushes late', 'forgets durable writes'] as const
export type Lie = typeof LIES[number]

/** When the power goes, and how. */
export interface Cut {
  readonly engine: EngineName
  readonly moment: Moment
  /** After so many requests. */
  readonly requests: number
  /** Of what survives. */
  readonly seed: number
  readonly lie?: Lie | undefined
}

/** The choice of this engine, for a data plane of one thread. */
export function cutting (cut: Cut): EngineModule {
  return { module: import.meta.url, options: cut }
}

// Of the one disk that this thread has.
let disk: VolatileDisk | undefined
let requests = 0
let flushedLate: ReturnType<VolatileDisk['completedWrites']> = []

const factory: EngineFactory = (options, moduleOptions) => {
  const cut = moduleOptions as Cut
  disk ??= new VolatileDisk(options.bufferedFd ?? options.fd)
  return new CuttingEngine(disk.attach(openEngine(cut.engine, options).engine), disk, cut)
}

export default factory

class CuttingEngine implements Engine {
  readonly name: string
  readonly depth: number
  readonly completionFd: number
  readonly #inner: Engine
  readonly #disk: VolatileDisk
  readonly #cut: Cut

  constructor (inner: Engine, volatileDisk: VolatileDisk, cut: Cut) {
    this.#inner = inner
    this.#disk = volatileDisk
    this.#cut = cut
    this.name = inner.name
    this.depth = inner.depth
    this.completionFd = inner.completionFd
  }

  get systemCalls (): number {
    return this.#inner.systemCalls
  }

  get unannounced (): boolean {
    return this.#inner.unannounced === true
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    this.#reached('before a submission')
    let taken = 0
    for (; taken < count; taken++) {
      const result = this.#lies(ids[from + taken]!, table) ? 1 : this.#inner.submit(ids, from + taken, 1, table)
      if (result === 1) continue
      if (taken === 0) return result
      break
    }
    requests += taken
    this.#reached('after a submission')
    return taken
  }

  reap (sink: CompletionSink): void {
    this.#reached('before completions')
    this.#inner.reap(sink)
    this.#reached('after completions')
  }

  close (): void {
    this.#inner.close()
  }

  /** @returns whether the request is done for without the disk */
  #lies (id: number, table: RequestTable): boolean {
    const { lie } = this.#cut
    if (lie === 'forgets durable writes') table.flags[id]! &= ~REQUEST_DURABLE
    if (table.kind[id] !== FLUSH || (lie !== 'forgets flushes' && lie !== 'flushes late')) return false
    if (lie === 'flushes late') {
      this.#disk.flushed(flushedLate)
      flushedLate = this.#disk.completedWrites()
    }
    table.finish(id, 0)
    return true
  }

  #reached (moment: Moment): void {
    if (moment !== this.#cut.moment || requests < this.#cut.requests) return
    writeSync(1, `${JSON.stringify(this.#disk.powerCut(this.#cut.seed))}\n`)
    process.kill(process.pid, 'SIGKILL')
  }
}
