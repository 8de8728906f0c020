// An engine module: the best engine of this host, with the faults of a plan.
import { openEngine, type EngineName } from '@node-vmm/ioq'
import { FaultyEngine, type FaultPlan } from '@node-vmm/ioq/testing'
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
