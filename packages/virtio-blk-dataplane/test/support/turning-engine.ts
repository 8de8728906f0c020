// An engine module: a real engine, whose end is told by the event loop of its thread.
import { openEngine } from '@node-vmm/ioq'
import type { EngineFactory, EngineModule } from '../../src/index.ts'

const factory: EngineFactory = (options, ended) => {
  const { engine } = openEngine('auto', options)
  const close = engine.close.bind(engine)
  engine.close = () => {
    close()
    setImmediate(() => Atomics.add(new Int32Array(ended as SharedArrayBuffer), 0, 1))
  }
  return engine
}

export default factory

/** The choice of this engine. @param ended a 32-bit word: how many ends the event loop has seen */
export function turning (ended: SharedArrayBuffer): EngineModule {
  return { module: import.meta.url, options: ended }
}
