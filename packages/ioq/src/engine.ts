import { statfsSync } from 'node:fs'
import { IoQueueError } from './errors.ts'
import { IoUringEngine } from './io-uring.ts'
import { LinuxAioEngine } from './linux-aio.ts'
import type { RequestTable } from './request-table.ts'
import { SyncEngine } from './sync.ts'

/** The engines of this package, best first. */
export type EngineName = 'io_uring' | 'linux-aio' | 'sync'

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
}

/** Why `auto` passed an engine over. */
export interface RejectedEngine {
  /** Which one. */
  readonly engine: EngineName
  /** Why this kernel does not let the process have it, with the remedy where there is one. */
  readonly reason: string
}

const makers: Readonly<Record<EngineName, (options: EngineOptions) => Engine>> = {
  io_uring: (options) => new IoUringEngine(options),
  'linux-aio': (options) => new LinuxAioEngine(options),
  sync: (options) => new SyncEngine(options)
}

/** `statfs(2)`: a file system in memory. */
const TMPFS_MAGIC = 0x01021994

/**
 * The engines in the order in which `auto` tries them: io_uring first, but for files in memory. On tmpfs nothing waits
 * for a device, and io_uring, which cannot know that, hands each request to a kernel thread; Linux AIO does it at once.
 */
function candidates (fd: number): readonly EngineName[] {
  return isInMemory(fd) ? ['linux-aio', 'io_uring', 'sync'] : ['io_uring', 'linux-aio', 'sync']
}

function isInMemory (fd: number): boolean {
  try {
    return statfsSync(`/proc/self/fd/${fd}`).type === TMPFS_MAGIC
  } catch {
    return false
  }
}

/**
 * Opens the engine of a name, or with `auto` the best that this kernel lets the process have for this file.
 *
 * @throws LinuxError when the named engine cannot be had; IoQueueError ERR_IO_QUEUE_NO_ENGINE when none can
 */
export function openEngine (name: 'auto' | EngineName, options: EngineOptions): { engine: Engine, rejected: RejectedEngine[] } {
  if (name !== 'auto') return { engine: makers[name](options), rejected: [] }
  const rejected: RejectedEngine[] = []
  for (const candidate of candidates(options.fd)) {
    try {
      return { engine: makers[candidate](options), rejected }
    } catch (error) {
      rejected.push({ engine: candidate, reason: (error as Error).message })
    }
  }
  throw new IoQueueError('ERR_IO_QUEUE_NO_ENGINE',
    `no engine can be had: ${rejected.map(({ engine, reason }) => `${engine}: ${reason}`).join('; ')}`)
}
