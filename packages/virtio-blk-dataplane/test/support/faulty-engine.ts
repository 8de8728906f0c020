// An engine module: the best engine of this host, with the faults of a plan.
import { openEngine, type EngineName } from '@node-vmm/ioq'
import { type Fault, FaultyEngine, type FaultPlan } from '@node-vmm/ioq/testing'
import { Worker } from 'node:worker_threads'
import type { EngineFactory, EngineModule } from '../../src/index.ts'

interface Options {
  readonly engine: 'auto' | EngineName
  readonly plan: FaultPlan
}

const factory: EngineFactory = (options, moduleOptions) => {
  const { engine, plan } = moduleOptions as Options
  return new FaultyEngine(openEngine(engine, options).engine, plan)
}

export default factory

/** The choice of this engine. */
export function faulty (plan: FaultPlan, engine: 'auto' | EngineName = 'auto'): EngineModule {
  return { module: import.meta.url, options: { engine, plan } satisfies Options }
}

/** Completions that are held back until the test lets them go. */
export class Hold {
  readonly #word = new Int32Array(new SharedArrayBuffer(4))
  readonly fault: Fault = { kind: 'late', until: this.#word }

  get isOver (): boolean {
    return Atomics.load(this.#word, 0) !== 0
  }

  letGo (): void {
    Atomics.store(this.#word, 0, 1)
  }

  /** The same a little later, by another thread: for a test that blocks its own until then. */
  letGoMeanwhile (): void {
    const script = `
      const { workerData: word } = require('node:worker_threads')
      Atomics.wait(word, 0, 0, 50)
      Atomics.store(word, 0, 1)`
    new Worker(script, { eval: true, execArgv: [], workerData: this.#word }).unref()
  }
}
