import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, NativeMemory } from '@node-vmm/libc'

/** `RequestTable.kind` of a slot without a request. */
export const FREE = 0
/** `RequestTable.kind`: from the file into the segments. */
export const READ = 1
/** `RequestTable.kind`: from the segments into the file. */
export const WRITE = 2
/** `RequestTable.kind`: what was written becomes stable. */
export const FLUSH = 3
/** `RequestTable.kind`: what is in the range is no longer wanted. */
export const DISCARD = 4
/** `RequestTable.kind`: the range reads as zeroes. */
export const WRITE_ZEROES = 5

/** A bit of `flags`: the write, or the writing of zeroes, is stable before it completes. */
export const REQUEST_DURABLE = 1
/** A bit of `flags`: the transfer goes through the page cache, by the descriptor that is for that. */
export const REQUEST_BUFFERED = 2

/** `RequestTable.method`: nothing is known that does it. */
export const NO_METHOD = 0
/** `RequestTable.method`: `fallocate(2)` gives the space back; zeroes are read there. The number is its mode. */
export const PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
/** `RequestTable.method`: `fallocate(2)` keeps the space; zeroes are read there. The number is its mode. */
export const ZERO_RANGE = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
/** `RequestTable.method`: the ioctl `BLKDISCARD`, which only exists as a blocking call. */
export const BLOCK_DISCARD = 0x80

/** Bytes of a `struct iovec`: see `readv(2)`. */
export const IOVEC_BYTES = 16
/** 32-bit words of a `struct iovec`: address low, address high, length low, length high. */
export const IOVEC_WORDS = 4
/** Requests of up to this many segments have their iovecs side by side, so that common ones share few cache lines. */
const INLINE_SEGMENTS = 8
/** Words of their iovecs. */
const INLINE_WORDS = INLINE_SEGMENTS * IOVEC_WORDS

/**
 * The requests of a queue as a structure of arrays, indexed by request id. The iovecs are native memory that the
 * kernel reads: a request's stay in its slot until it has completed, so that what is left of it can be sent again.
 */
export class RequestTable {
  /** Slots: ids are 0 to `depth - 1`. */
  readonly depth: number
  /** Segments of one request at most. */
  readonly segmentsMax: number
  /** What to do: `FREE`, `READ`, `WRITE`, `FLUSH`, `DISCARD` or `WRITE_ZEROES`. */
  readonly kind: Uint8Array
  /** Where in the file the rest of the request starts: a byte offset. */
  readonly offset: Float64Array
  /** Bytes to discard or to zero. What it says of a read or a write is not an engine's concern. */
  readonly length: Float64Array
  /** `REQUEST_*` bits. */
  readonly flags: Uint8Array
  /** How to discard or to zero: `PUNCH_HOLE`, `ZERO_RANGE` or `BLOCK_DISCARD`. */
  readonly method: Uint8Array
  /** Word index in `iovecs` of the first iovec that is left. */
  readonly first: Uint32Array
  /** How many iovecs are left. */
  readonly count: Uint16Array
  /** Bytes of the segments that are left. */
  readonly remaining: Float64Array
  /** Requests that were asked for and have not completed yet: the queue counts them. */
  inFlight = 0
  /** How many requests ended without the kernel's completion ring: see `finish`. */
  finishedCount = 0
  /** These, as a ring: every request is there once at most, so it is never full. */
  readonly #finishedIds: Uint16Array
  readonly #finishedResults: Int32Array
  #finishedFirst = 0
  readonly #memory: NativeMemory
  readonly #spillStart: number

  /**
   * @param depth 1 to 32768.
   * @param segmentsMax 1 to 1024 (IOV_MAX).
   * @throws LinuxError when the kernel has no memory
   */
  constructor (depth: number, segmentsMax: number) {
    this.depth = depth
    this.segmentsMax = segmentsMax
    this.kind = new Uint8Array(depth)
    this.offset = new Float64Array(depth)
    this.length = new Float64Array(depth)
    this.flags = new Uint8Array(depth)
    this.method = new Uint8Array(depth)
    this.first = new Uint32Array(depth)
    this.count = new Uint16Array(depth)
    this.remaining = new Float64Array(depth)
    this.#finishedIds = new Uint16Array(depth)
    this.#finishedResults = new Int32Array(depth)
    this.#spillStart = depth * INLINE_WORDS
    // The spill area takes no memory until a request with many segments touches its part.
    const spillWords = segmentsMax > INLINE_SEGMENTS ? depth * segmentsMax * IOVEC_WORDS : 0
    this.#memory = new NativeMemory((this.#spillStart + spillWords) * 4)
  }

  /** The `struct iovec`s of all slots, as 32-bit words: `IOVEC_WORDS` each. */
  get iovecs (): Uint32Array {
    return this.#memory.u32
  }

  /** The address of `iovecs[0]`. */
  get address (): number {
    return this.#memory.address
  }

  /** Makes room for `count` iovecs. @returns the word index in `iovecs` of the first. */
  prepare (id: number, count: number): number {
    const word = count <= INLINE_SEGMENTS ? id * INLINE_WORDS : this.#spillStart + id * this.segmentsMax * IOVEC_WORDS
    this.first[id] = word
    this.count[id] = count
    return word
  }

  /** Lets go of a request: it takes another `prepare` before the next. */
  free (id: number): void {
    this.kind[id] = FREE
    this.count[id] = 0
    this.flags[id] = 0
  }

  /** For an engine, while it submits: the request ended at once, with this result. The next reap hands it out. */
  finish (id: number, result: number): void {
    const position = this.#wrapped(this.#finishedFirst + this.finishedCount)
    this.#finishedIds[position] = id
    this.#finishedResults[position] = result
    this.finishedCount++
  }

  /** The id of the request that ended longest ago. */
  get finishedId (): number {
    return this.#finishedIds[this.#finishedFirst]!
  }

  /** The result of the request that ended longest ago. */
  get finishedResult (): number {
    return this.#finishedResults[this.#finishedFirst]!
  }

  /** Takes out the request that ended longest ago. */
  dropFinished (): void {
    this.#finishedFirst = this.#wrapped(this.#finishedFirst + 1)
    this.finishedCount--
  }

  /** Takes out the request that ended last. @returns its result */
  undoFinish (): number {
    this.finishedCount--
    return this.#finishedResults[this.#wrapped(this.#finishedFirst + this.finishedCount)]!
  }

  /** A place in the ring of those that ended; a division would cost more than the rest of `finish`. */
  #wrapped (position: number): number {
    return position < this.depth ? position : position - this.depth
  }

  /** Takes bytes that were moved off the front of a request. */
  advance (id: number, moved: number): void {
    const { iovecs } = this
    this.remaining[id]! -= moved
    this.offset[id]! += moved
    let word = this.first[id]!
    let left = moved
    // Empty segments go too: the rest starts with bytes to move.
    while (this.count[id]! > 0 && left >= iovecs[word + 2]!) {
      left -= iovecs[word + 2]!
      word += IOVEC_WORDS
      this.count[id]!--
    }
    this.first[id] = word
    if (left === 0) return
    const low = iovecs[word]! + left
    iovecs[word] = low
    iovecs[word + 1]! += Math.floor(low / 0x100000000)
    iovecs[word + 2]! -= left
  }

  /** Gives the memory back. No effect when closed. */
  close (): void {
    this.#memory.close()
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }
}
