import { ByDepthEngine } from './by-depth.ts'
import { IoQueueError } from './errors.ts'
import { type FileMapData, isInMemory } from './file-map.ts'
import { whyNotMap } from './first-use.ts'
import { IoUringEngine } from './io-uring.ts'
import { isDirect, LinuxAioEngine } from './linux-aio.ts'
import { MappedEngine } from './mapped.ts'
import type { RequestTable } from './request-table.ts'
import { SyncEngine } from './sync.ts'

/** The engines of this package, best first. */
export type EngineName = 'mapped' | 'io_uring+linux-aio' | 'io_uring' | 'linux-aio' | 'sync'

/** The best engine for the file that this kernel lets the process have; with `no-io_uring`, of the others. */
export type EngineSelection = 'auto' | 'no-io_uring'

/** Takes one completion: bytes moved, or a negative error number. */
export type CompletionSink = (id: number, result: number) => void

/**
 * One way to have the kernel read, write, flush, discard and zero. Thin on purpose: a completion with fewer bytes than
 * asked for is the engine's to report and the queue's to mend, and so is a method that the file does not know. Belongs
 * to the thread that made it.
 */
export interface Engine {
  /** What `IoQueue.engine` says. */
  readonly name: string
  /** Requests that it can have in flight. */
  readonly depth: number
  /** An eventfd that the engine makes readable when `reap` has something; the queue adds to it as well. */
  readonly completionFd: number
  /** System calls made by `submit` and `reap` so far. */
  readonly systemCalls: number
  /**
   * Gives the requests `ids[from]` to `ids[from + count - 1]` to the kernel. One that ended at once may be handed to
   * `table.finish` instead.
   *
   * @returns how many of them were taken, from the front, or a negative error number that speaks of the first one;
   * EAGAIN, ENOMEM and EBUSY mean: not now.
   */
  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number
  /** Whether `reap` would find something, told without a system call: for those who poll. @default never told */
  hasCompletions? (): boolean
  /**
   * Whether completions are to make `completionFd` readable from now on: not for who is awake, and reaps anyway. What was
   * announced before stays so. @default all of them do, always
   *
   * @returns whether there are some now of which there may have been no word, where it is wanted again
   */
  announce? (wanted: boolean): boolean
  /**
   * Requests are with the kernel whose completion will not make `completionFd` readable: the queue does. An engine around
   * another one hands this on. @default none are
   */
  readonly unannounced?: boolean
  /** Hands out the completions that are there, without waiting. */
  reap (sink: CompletionSink): void
  /** Gives everything back to the kernel. Nothing may be in flight. */
  close (): void
}

/** What an engine works on. */
export interface EngineOptions {
  /** The open file, the caller's to close: after the engine. */
  readonly fd: number
  /** Requests in flight at most, 1 to 32768. */
  readonly depth: number
  /**
   * Another descriptor of the same file, opened without O_DIRECT, for requests with `REQUEST_BUFFERED`; the caller's to
   * close as well. @default fd
   */
  readonly bufferedFd?: number | undefined
  /** The file in memory, mapped, for the engine that copies; see {@link FileMap}. @default a map of the engine's own */
  readonly map?: FileMapData | undefined
}

/** Why an engine was passed over, where the best of several was to be had. */
export interface RejectedEngine {
  /** Which one. */
  readonly engine: EngineName
  /** Why this kernel does not let the process have it, or why it is not the best here, with the remedy where there is one. */
  readonly reason: string
}

const makers: Readonly<Record<EngineName, (options: EngineOptions) => Engine>> = {
  mapped: (options) => new MappedEngine(options),
  'io_uring+linux-aio': (options) => ByDepthEngine.open(options),
  io_uring: (options) => new IoUringEngine(options),
  'linux-aio': (options) => new LinuxAioEngine(options),
  sync: (options) => new SyncEngine(options)
}

/**
 * The engines in the order in which `auto` tries them: io_uring first, but for files in memory. There nothing waits for a
 * device: a batch is copied with one system call, unless the machine speaks against it (`whyNotMap`). io_uring, which cannot know,
 * hands each request to a kernel thread; Linux AIO does it at once. Where it is asynchronous too, with O_DIRECT, it helps io_uring out.
 */
function candidates (selection: EngineSelection, fd: number): readonly EngineName[] {
  const names: readonly EngineName[] = isInMemory(fd)
    ? ['mapped', 'linux-aio', 'io_uring', 'sync']
    : [...(isDirect(fd) ? ['io_uring+linux-aio'] as const : []), 'io_uring', 'linux-aio', 'sync']
  return selection === 'auto' ? names : names.filter((name) => !parts(name).includes('io_uring'))
}

/** The engines that one is made of: itself, or both. */
function parts (name: EngineName): string[] {
  return name.split('+')
}

/**
 * Opens the engine of a name, or the best of several.
 *
 * @throws LinuxError when the named engine cannot be had; IoQueueError ERR_IO_QUEUE_NO_ENGINE when none can
 */
export function openEngine (name: EngineSelection | EngineName, options: EngineOptions): { engine: Engine, rejected: RejectedEngine[] } {
  if (name !== 'auto' && name !== 'no-io_uring') return { engine: makers[name](options), rejected: [] }
  const rejected: RejectedEngine[] = []
  for (const candidate of candidates(name, options.fd)) {
    try {
      // Who has it mapped already has decided that.
      const reason = candidate === 'mapped' && options.map === undefined ? whyNotMap() : undefined
      if (reason === undefined) return { engine: makers[candidate](options), rejected }
      rejected.push({ engine: candidate, reason })
    } catch (error) {
      const reason = (error as Error).message
      // What keeps one from having two engines together was a reason against one of them.
      const isKnown = rejected.some((other) => other.reason === reason && parts(other.engine).includes(candidate))
      if (!isKnown) rejected.push({ engine: candidate, reason })
    }
  }
  throw new IoQueueError('ERR_IO_QUEUE_NO_ENGINE',
    `no engine can be had: ${rejected.map(({ engine, reason }) => `${engine}: ${reason}`).join('; ')}`)
}
