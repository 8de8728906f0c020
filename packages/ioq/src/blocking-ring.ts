// Invariants.
// - Two threads: one submits and takes completions, the other performs. An operation is known by its request id, whose
//   slot in the arrays belongs to the performing thread from the submission to the completion.
// - Indices are free-running 32-bit numbers; each is stored by one thread, with release order, after the entry that it
//   covers, and loaded by the other with acquire order, which is what Atomics gives.
// - An id is in each ring once at most, so neither can be full.

/** Words of {@link BlockingRing.control}. */
export const SUBMITTED = 0
export const COMPLETED = 1
const CONTROL_WORDS = 2
/** In the place of an id: the performing thread is to end. */
export const END = -1

/** Bytes of an operation: two of 8, five of 4. */
const OPERATION_BYTES = 2 * 8 + 5 * 4

/** What the thread of an engine and the thread that makes its blocking calls share: submissions, completions, operations. */
export class BlockingRing {
  readonly control: Int32Array
  /** Ids to perform, at `index & mask`. */
  readonly submissions: Int32Array
  /** Ids that are done, at `index & mask`. */
  readonly completions: Int32Array
  readonly mask: number
  // Of each operation, by id.
  readonly method: Int32Array
  readonly fd: Int32Array
  readonly result: Int32Array
  readonly offset: Float64Array
  readonly length: Float64Array

  /** Makes the memory for `depth` requests. */
  static allocate (depth: number): SharedArrayBuffer {
    return new SharedArrayBuffer(CONTROL_WORDS * 4 + slotsFor(depth) * OPERATION_BYTES)
  }

  constructor (buffer: SharedArrayBuffer) {
    const slots = (buffer.byteLength - CONTROL_WORDS * 4) / OPERATION_BYTES
    let at = CONTROL_WORDS * 4
    const next = (bytes: number): number => (at += bytes) - bytes
    this.mask = slots - 1
    this.control = new Int32Array(buffer, 0, CONTROL_WORDS)
    this.offset = new Float64Array(buffer, next(slots * 8), slots)
    this.length = new Float64Array(buffer, next(slots * 8), slots)
    this.submissions = new Int32Array(buffer, next(slots * 4), slots)
    this.completions = new Int32Array(buffer, next(slots * 4), slots)
    this.method = new Int32Array(buffer, next(slots * 4), slots)
    this.fd = new Int32Array(buffer, next(slots * 4), slots)
    this.result = new Int32Array(buffer, next(slots * 4), slots)
  }
}

/** A power of two: only then does an index stay in its place when it wraps. */
function slotsFor (depth: number): number {
  return 2 ** Math.ceil(Math.log2(depth))
}
