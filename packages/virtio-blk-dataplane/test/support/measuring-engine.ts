// An engine module: a real engine, which now and then looks how much its thread has allocated since.
import { openEngine, type EngineName } from '@node-vmm/ioq'
import { YoungGeneration } from '../../../../test/support/heap-growth.ts'
import type { EngineFactory, EngineModule } from '../../src/index.ts'

/** Requests between two looks. */
export const REQUESTS_A_SAMPLE = 2000

/** Shared with the test: the number of samples, then each sample's bytes, NaN where they could not be measured. */
interface Options {
  readonly engine: EngineName
  readonly samples: SharedArrayBuffer
  /** Make an object a request, to be seen in the samples. */
  readonly wasteful: boolean
}

/** What is waste, kept for a moment: otherwise it would not be made. */
export let waste: object | undefined

const factory: EngineFactory = (options, moduleOptions) => {
  const { engine: name, samples: buffer, wasteful } = moduleOptions as Options
  const samples = new Float64Array(buffer)
  const { engine } = openEngine(name, options)
  const submit = engine.submit.bind(engine)
  let requests = 0
  const young = new YoungGeneration()
  engine.submit = (ids, from, count, table) => {
    const taken = submit(ids, from, count, table)
    requests += taken
    if (wasteful) for (let request = 0; request < taken; request++) waste = { request, of: taken, from }
    if (requests >= REQUESTS_A_SAMPLE && samples[0]! < samples.length - 1) {
      requests = 0
      samples[samples[0]! + 1] = young.growth()
      samples[0]!++
    }
    return taken
  }
  return engine
}

export default factory

/** The choice of this engine. */
export function measuring (engine: EngineName, samples: SharedArrayBuffer, wasteful: boolean): EngineModule {
  return { module: import.meta.url, options: { engine, samples, wasteful } satisfies Options }
}
