// Invariants.
// - Two threads: one submits and takes completions, the other performs. An operation is known by its request id, whose
//   slot in the arrays belongs to the performing thread from the submission to the completion.
// - Indices are free-running 32-bit numbers; each is stored by one thread, with release order, after the entry that it
//   covers, and loaded by the other with acquire order, which is what Atomics gives.
// - Neither ring can be full. An id is in each once at most; of the entries that are no ids two at most wait, the end of
//   one engine and the beginning of the next, for an engine ends when its last operation is done.

/** Words of {@link BlockingRing.control}. */
export const SUBMITTED = 0
export const COMPLETED = 1
const CONTROL_WORDS = 2

/** In the place of an id: that was all for this engine. */
export const END = -1
/** In the place of an id, less a descriptor: an engine follows that is told by this eventfd. */
export const BEGIN = -2

/** As many ids as a queue can have, and as many completions. A page is had when it is touched. */
const SLOTS = 32768
const SUBMISSION_SLOTS = 2 * SLOTS
/** Offset and length; completion, method, descriptor, result. */
const BYTES = CONTROL_WORDS * 4 + SLOTS * (2 * 8 + 4 * 4) + SUBMISSION_SLOTS * 4

export const SUBMISSION_MASK = SUBMISSION_SLOTS - 1
export const COMPLETION_MASK = SLOTS - 1

/** What a thread that has engines and the one that makes their blocking calls share: submissions, completions, operations. */
export class BlockingRing {
  readonly control: Int32Array
  /** Ids to perform, at `index & SUBMISSION_MASK`. */
  readonly submissions: Int32Array
  /** Ids that are done, at `index & COMPLETION_MASK`. */
  readonly completions: Int32Array
  // Of each operation, by id.
  readonly method: Int32Array
  readonly fd: Int32Array
  readonly result: Int32Array
  readonly offset: Float64Array
  readonly length: Float64Array

  /** @default memory of its own */
  constructor (buffer: SharedArrayBuffer = new SharedArrayBuffer(BYTES)) {
    let at = CONTROL_WORDS * 4
    const next = (bytes: number): number => (at += bytes) - bytes
    this.control = new Int32Array(buffer, 0, CONTROL_WORDS)
    this.offset = new Float64Array(buffer, next(SLOTS * 8), SLOTS)
    this.length = new Float64Array(buffer, next(SLOTS * 8), SLOTS)
    this.submissions = new Int32Array(buffer, next(SUBMISSION_SLOTS * 4), SUBMISSION_SLOTS)
    this.completions = new Int32Array(buffer, next(SLOTS * 4), SLOTS)
    this.method = new Int32Array(buffer, next(SLOTS * 4), SLOTS)
    this.fd = new Int32Array(buffer, next(SLOTS * 4), SLOTS)
    this.result = new Int32Array(buffer, next(SLOTS * 4), SLOTS)
  }
}
