import { NBD_CMD_READ, NBD_CMD_WRITE } from './protocol.ts'

/** Pieces of memory, in order. */
export type Segments = readonly Uint8Array[]

export interface RequestInit {
  /** `NBD_CMD_*`. */
  readonly type: number
  /** `NBD_CMD_FLAG_*`. @default 0 */
  readonly flags?: number
  /** Bytes. @default 0 */
  readonly offset?: number
  /** Bytes. @default 0 */
  readonly length?: number
  /** The data of a read or write: `length` bytes together. @default none */
  readonly segments?: Segments
}

/** One request of the protocol and the promise of its end, over as many connections as it takes. */
export class Request {
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  readonly segments: Segments
  readonly promise: Promise<void>
  /** How often a connection was lost while it was in flight. */
  losses = 0
  #settled = false
  #resolve!: () => void
  #reject!: (error: unknown) => void

  constructor ({ type, flags = 0, offset = 0, length = 0, segments = [] }: RequestInit) {
    this.type = type
    this.flags = flags
    this.offset = offset
    this.length = length
    this.segments = segments
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  /** Its caller was told of its end: the segments are not to be touched any more. */
  get settled (): boolean {
    return this.#settled
  }

  /** It follows its header on the wire. */
  get payload (): Segments {
    return this.type === NBD_CMD_WRITE ? this.segments : []
  }

  /** Successful replies have data. */
  get isRead (): boolean {
    return this.type === NBD_CMD_READ
  }

  succeed (): void {
    this.#settled = true
    this.#resolve()
  }

  /** No effect when settled. */
  fail (error: unknown): void {
    this.#settled = true
    this.#reject(error)
  }
}

export function lengthOf (segments: Segments): number {
  let length = 0
  for (const segment of segments) length += segment.length
  return length
}

/** The part of the segments from `start` on, `length` bytes of it; nothing is copied. */
export function slice (segments: Segments, start: number, length: number): Segments {
  const found: Uint8Array[] = []
  let end = start + length
  for (const segment of segments) {
    if (end <= 0) break
    if (start < segment.length && segment.length > 0) found.push(segment.subarray(Math.max(start, 0), Math.min(end, segment.length)))
    start -= segment.length
    end -= segment.length
  }
  return found
}
