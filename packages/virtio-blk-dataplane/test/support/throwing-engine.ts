// An engine module with faults of its own: where it throws, the data-plane thread does.
import { openSync } from 'node:fs'
import { type Engine, openEngine } from '@node-vmm/ioq'
import type { EngineFactory, EngineModule } from '../../src/index.ts'

type Where = 'open' | 'second watch' | 'submit' | 'reap' | 'exit'

let opened = 0

const factory: EngineFactory = (options, where) => {
  if (where === 'open') throw Object.assign(new Error('no engine today'), { code: 'ENOTODAY' })
  const { engine } = openEngine('auto', options)
  // epoll takes no regular file.
  if (where === 'second watch' && opened++ === 1) Object.assign(engine, { completionFd: openSync(new URL(import.meta.url), 'r') })
  if (where === 'submit') engine.submit = () => { throw new Error('submit went wrong') }
  if (where === 'reap') throwAtReap(engine)
  if (where === 'exit') engine.submit = () => process.exit(3)
  return engine
}

function throwAtReap (engine: Engine): void {
  const submit = engine.submit.bind(engine)
  engine.submit = (ids, from, count, table) => {
    engine.reap = () => { throw new Error('reap went wrong') }
    return submit(ids, from, count, table)
  }
}

export default factory

/** The choice of this engine. */
export function throwing (where: Where): EngineModule {
  return { module: import.meta.url, options: where }
}
