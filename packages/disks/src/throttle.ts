import type { Disk } from '@node-vmm/virtio-blk-dataplane'
import type { OpenedDisk } from './opened-disk.ts'
import { type Bucket, TokenBucket } from './token-bucket.ts'
import { wrap } from './wrap.ts'

/** How fast a disk may be. */
export interface ThrottleOptions {
  /** Owned by the throttle from then on. */
  readonly disk: Disk
  /** Requests of any kind; a number is that many a second. @default as many as there are */
  readonly ops?: Bucket | number
  /** Bytes that are read and written; a number is that many a second. @default as many as there are */
  readonly bytes?: Bucket | number
  /** Where the time comes from. @default the process's */
  readonly clock?: Clock
}

/** Time, as a throttle needs it. */
export interface Clock {
  /** Milliseconds, never less than before. */
  now (): number
  /** Calls once, so many milliseconds later; never before `now` says so. */
  after (milliseconds: number, call: () => void): void
}

const PROCESS_CLOCK: Clock = {
  now: () => performance.now(),
  after: (milliseconds, call) => { setTimeout(call, milliseconds) }
}

/**
 * Limits requests and bytes with token buckets, as Firecracker's rate limiter does. Requests wait in the order in which
 * they came; one that is larger than the bucket waits for a full one, and those behind it for what it took too much.
 *
 * @throws DiskError ERR_DISK_OPTION
 */
export function throttle ({ disk, ops, bytes, clock = PROCESS_CLOCK }: ThrottleOptions): OpenedDisk {
  const line = new Line([bucket(ops, clock), bucket(bytes, clock)], clock)
  return wrap(disk, ({ operation, length, signal }, pass) => {
    const moved = operation === 'read' || operation === 'write' ? length : 0
    return line.isOpen(moved) ? pass() : line.wait(moved, signal).then(() => pass())
  })
}

function bucket (rate: Bucket | number | undefined, clock: Clock): TokenBucket | undefined {
  return rate === undefined ? undefined : new TokenBucket(typeof rate === 'number' ? { size: rate } : rate, clock.now())
}

interface Waiter {
  readonly bytes: number
  readonly go: () => void
}

/** Requests that wait for their turn. */
class Line {
  readonly #ops: TokenBucket | undefined
  readonly #bytes: TokenBucket | undefined
  readonly #clock: Clock
  readonly #waiters = new Set<Waiter>()
  #isTimed = false

  constructor ([ops, bytes]: readonly [TokenBucket | undefined, TokenBucket | undefined], clock: Clock) {
    this.#ops = ops
    this.#bytes = bytes
    this.#clock = clock
  }

  /** Takes what a request of so many bytes needs, if nobody waits and it is there. */
  isOpen (bytes: number): boolean {
    return this.#waiters.size === 0 && this.#take(bytes) === 0
  }

  /** @throws the signal's reason, when it aborts */
  wait (bytes: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      const leave = (): void => {
        this.#waiters.delete(waiter)
        reject(signal.reason)
      }
      const waiter = {
        bytes,
        go: () => {
          signal.removeEventListener('abort', leave)
          resolve()
        }
      }
      signal.addEventListener('abort', leave)
      this.#waiters.add(waiter)
      this.#serve()
    })
  }

  #serve (): void {
    if (this.#isTimed) return
    for (const waiter of this.#waiters) {
      const milliseconds = this.#take(waiter.bytes)
      if (milliseconds > 0) return this.#serveAfter(milliseconds)
      this.#waiters.delete(waiter)
      waiter.go()
    }
  }

  #serveAfter (milliseconds: number): void {
    this.#isTimed = true
    // Timers know no fractions, and a fraction too early would mean one more.
    this.#clock.after(Math.ceil(milliseconds), () => {
      this.#isTimed = false
      this.#serve()
    })
  }

  /** @returns milliseconds to wait, or 0 when it took them */
  #take (bytes: number): number {
    const now = this.#clock.now()
    const milliseconds = Math.max(this.#ops?.wait(1, now) ?? 0, this.#bytes?.wait(bytes, now) ?? 0)
    if (milliseconds > 0) return milliseconds
    this.#ops?.take(1)
    this.#bytes?.take(bytes)
    return 0
  }
}
