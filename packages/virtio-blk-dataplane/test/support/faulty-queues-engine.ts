// An engine module: each queue of a data plane gets the best engine or a named one, with the faults of a plan of its own.
import { openEngine, type EngineName } from '@node-vmm/ioq'
import { FaultyEngine, type FaultPlan } from '@node-vmm/ioq/testing'
import type { EngineFactory, EngineModule } from '../../src/index.ts'

interface Options {
  readonly engine: EngineName
  readonly plans: readonly FaultPlan[]
}

let opened = 0

const factory: EngineFactory = (options, moduleOptions) => {
  const { engine, plans } = moduleOptions as Options
  return new FaultyEngine(openEngine(engine, options).engine, plans[opened++]!)
}

export default factory

/** The choice of this engine. @param plans in the order in which the queues are started, all on one thread and once */
export function faultyQueues (engine: EngineName, plans: readonly FaultPlan[]): EngineModule {
  return { module: import.meta.url, options: { engine, plans } satisfies Options }
}
