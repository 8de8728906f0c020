import type { Engine, EngineName, EngineOptions } from '@node-vmm/ioq'

/** An engine of the caller's own, made on the data-plane thread by a module: a faulty one for tests, for instance. */
export interface EngineModule {
  /** URL of a module whose default export is an `EngineFactory`. */
  readonly module: string
  /** Handed to the factory; structured-cloned on the way. @default undefined */
  readonly options?: unknown
}

/** The default export of an engine module. */
export type EngineFactory = (options: EngineOptions, moduleOptions: unknown) => Engine

/** How the kernel is asked for disk I/O: `'auto'` takes the best that the host allows. */
export type EngineChoice = 'auto' | EngineName | EngineModule

/** What makes the engine of each queue. */
export type EngineMaker = (options: EngineOptions) => 'auto' | EngineName | Engine

/** Loads what a choice needs, once a thread. */
export async function loadEngine (choice: EngineChoice): Promise<EngineMaker> {
  if (typeof choice === 'string') return () => choice
  const { default: factory } = await import(choice.module) as { default: EngineFactory }
  return (options) => factory(options, choice.options)
}
