// An engine module: a real engine, which now and then looks how much its thread has allocated since.
import { getHeapSpaceStatistics } from 'node:v8'
import { openEngine, type EngineName } from '@node-vmm/ioq'
import type { EngineFactory, EngineModule } from '../../src/index.ts'

/** Requests between two looks. */
export const REQUESTS_A_SAMPLE = 4000

/** Shared with the test: the number of samples, then each sample's bytes. */
interface Options {
  readonly engine: EngineName
  readonly samples: SharedArrayBuffer
}

const factory: EngineFactory = (options, moduleOptions) => {
  const { engine: name, samples: buffer } = moduleOptions as Options
  const samples = new Float64Array(buffer)
  const { engine } = openEngine(name, options)
  const submit = engine.submit.bind(engine)
  let requests = 0
  let before = youngBytes()
  engine.submit = (ids, from, count, table) => {
    const taken = submit(ids, from, count, table)
    requests += taken
    if (requests >= REQUESTS_A_SAMPLE && samples[0]! < samples.length - 1) {
      requests = 0
      samples[0]!++
      samples[samples[0]!] = youngBytes() - before
      // What looking allocates is not the data plane's.
      before = youngBytes()
    }
    return taken
  }
  return engine
}

function youngBytes (): number {
  return getHeapSpaceStatistics().find((space) => space.space_name === 'new_space')!.space_used_size
}

export default factory

/** The choice of this engine. */
export function measuring (engine: EngineName, samples: SharedArrayBuffer): EngineModule {
  return { module: import.meta.url, options: { engine, samples } satisfies Options }
}
