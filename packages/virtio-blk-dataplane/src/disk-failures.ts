import { errno } from '@node-vmm/libc'

/** Milliseconds in which failures of one kind are told once. */
const QUIET_MILLISECONDS = 10_000
/** Kinds that are remembered: a disk may invent a new one each time. */
const KINDS_MAX = 64

/** What a disk of the user's own did wrong, as it is told. */
export interface DiskFailure {
  readonly message: string
  /** Where in the disk's code, if it said so. */
  readonly stack: string | undefined
}

/** The one place where an error of a disk becomes what the guest is told: by way of an error number, unsupported or I/O error. */
export function errorNumber (error: unknown): number {
  const code = codeOf(error)
  return code === 'ENOTSUP' || code === 'EOPNOTSUPP' ? -errno.EOPNOTSUPP : -errno.EIO
}

/** Tells what a disk does wrong, each kind once in a while: a guest can have it fail a million times. */
export class DiskFailures {
  readonly #tell: (failure: DiskFailure) => void
  readonly #now: () => number
  /** By operation and code: until when nothing is told, and how often it happened since it was. */
  readonly #kinds = new Map<string, { quietUntil: number, leftOut: number }>()

  /** @param now milliseconds of a clock that nobody sets */
  constructor (tell: (failure: DiskFailure) => void, now: () => number = () => performance.now()) {
    this.#tell = tell
    this.#now = now
  }

  /** @param range which part of the disk it was about, in words; empty for none */
  report (operation: string, range: string, error: unknown): void {
    const now = this.#now()
    const key = `${operation} ${codeOf(error)}`
    const kind = this.#kinds.get(key)
    if (kind !== undefined && now < kind.quietUntil) {
      kind.leftOut++
      return
    }
    if (this.#kinds.size >= KINDS_MAX) this.#kinds.clear()
    this.#kinds.set(key, { quietUntil: now + QUIET_MILLISECONDS, leftOut: 0 })
    const more = kind === undefined || kind.leftOut === 0 ? '' : ` (and ${kind.leftOut} more like the one before)`
    this.#tell({ message: `the disk failed to ${operation}${range}: ${describe(error)}${more}`, stack: stackOf(error) })
  }
}

// Anything may be thrown, with getters that throw themselves.

/** An error in a line of text. */
export function describe (error: unknown): string {
  return attempt(() => error instanceof Error ? error.message : String(error)) ?? 'an error that cannot be shown'
}

function codeOf (error: unknown): string {
  return attempt(() => String((error as { code?: unknown } | undefined)?.code)) ?? ''
}

function stackOf (error: unknown): string | undefined {
  return attempt(() => error instanceof Error ? String(error.stack) : undefined)
}

function attempt<Result> (look: () => Result): Result | undefined {
  try {
    return look()
  } catch {
    return undefined
  }
}
