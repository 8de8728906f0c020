import { type Engine, type EngineName, type EngineOptions, type EngineSelection, openEngine, type RejectedEngine } from '@node-vmm/ioq'

/** An engine of the caller's own, made on the data-plane thread by a module: a faulty one for tests, for instance. */
export interface EngineModule {
  /** URL of a module whose default export is an `EngineFactory`. */
  readonly module: string
  /** Handed to the factory; structured-cloned on the way. @default undefined */
  readonly options?: unknown
}

/** The default export of an engine module. */
export type EngineFactory = (options: EngineOptions, moduleOptions: unknown) => Engine

/**
 * How the kernel is asked for disk I/O: `'auto'` takes the best that the host allows for the image, `'no-io_uring'` the best
 * but for io_uring, whose operations no filter of system calls sees.
 */
export type EngineChoice = EngineSelection | EngineName | EngineModule

/** What makes the engine of each queue. */
export type EngineMaker = (options: EngineOptions) => EngineSelection | EngineName | Engine

/** Loads what a choice needs, once a thread. */
export async function loadEngine (choice: EngineChoice): Promise<EngineMaker> {
  if (typeof choice === 'string') return () => choice
  const { default: factory } = await import(choice.module) as { default: EngineFactory }
  return (options) => factory(options, choice.options)
}

/** Which kernel interface is used, and why `auto` passed the better ones over. */
export interface EngineReport {
  /** An engine's name, or the URL of its module. */
  readonly name: string
  /** In the order in which they were tried. */
  readonly rejected: readonly RejectedEngine[]
}

/** Opens an engine and closes it again, so that one which cannot be had is known before a guest is. @throws LinuxError */
export function probeEngine (choice: EngineChoice = 'auto', fd: number): EngineReport {
  if (typeof choice !== 'string') return { name: choice.module, rejected: [] }
  const { engine, rejected } = openEngine(choice, { fd, depth: 1 })
  engine.close()
  return { name: engine.name, rejected }
}
