import { close, errno, fileStatus, NativeMemory, open, O_RDONLY, preadv, write } from '@node-vmm/libc'
import { openEngine, type CompletionSink, type Engine, type EngineName, type EngineOptions, type RejectedEngine } from './engine.ts'
import { IoQueueError } from './errors.ts'
import { FLUSH, FREE, IOVEC_WORDS, READ, RequestTable, WRITE } from './request-table.ts'

// Invariants.
// - A request id is in exactly one place: free; pending (between `#from` and `#to`); with the engine; or finished
//   (`table.finish`) and waiting for reap. `inFlight` counts all but the free ones.
// - A request completes once, and completes whole or failed: what the kernel left undone is queued again.
// - An id is free before its callback runs, so that the callback can use it at once.

const DEPTH_MAX = 32768
/** IOV_MAX: what `readv(2)` takes. */
const SEGMENTS_MAX = 1024
const CLOSE_TIMEOUT = 5000

/** What a queue is made of. */
export interface IoQueueOptions {
  /** An open file or block device. It stays the caller's, to close after the queue. */
  readonly fd: number
  /** Requests in flight at most, 1 to 32768. */
  readonly depth: number
  /**
   * How the kernel is asked: a name; an engine made by the caller, which the queue then owns; or `auto`, the best of
   * io_uring, linux-aio and sync that can be had. @default 'auto'
   */
  readonly engine?: 'auto' | EngineName | Engine
  /**
   * Runs within `reap()` or `close()`, once a request. `result` is its whole length in bytes (0 for a flush) or a
   * negative error number. It may prepare, queue and submit requests, `id` included.
   */
  readonly onComplete: (id: number, result: number) => void
  /** Segments of one request at most, 1 to 1024 (IOV_MAX). @default 1024 */
  readonly segmentsMax?: number
}

/** A piece of memory by its address: a plain number below 2^53. */
export interface Segment {
  readonly address: number
  /** Bytes, below 2^32. */
  readonly length: number
}

/** How to close a queue. */
export interface IoQueueCloseOptions {
  /** Milliseconds to wait for what is in flight. @default 5000 */
  readonly timeout?: number
}

/**
 * An asynchronous disk queue: requests are queued, submitted in batches and reaped, all by number, allocating nothing
 * per request. It belongs to the thread that made it.
 */
export class IoQueue {
  /** The engine in use. */
  readonly engine: string
  /** Why `auto` passed the better engines over. */
  readonly rejected: readonly RejectedEngine[]
  /** Requests in flight at most. */
  readonly depth: number
  /** Segments of one request at most. */
  readonly segmentsMax: number
  /**
   * An eventfd that is readable when `reap()` has something to do. Clear it *before* reaping.
   */
  readonly completionFd: number
  /**
   * Byte offset of each request, by id: write it before `read()` or `write()`. The queue moves it on as a request
   * makes progress.
   */
  readonly offset: Float64Array
  /** Requests given to the kernel so far; one that is continued counts again. */
  submissions = 0
  /** Requests completed so far. */
  completions = 0
  readonly #fd: number
  readonly #engine: Engine
  readonly #table: RequestTable
  readonly #onComplete: (id: number, result: number) => void
  readonly #sink: CompletionSink
  /** `/dev/zero`: read from it to fill the rest of a request with zeroes, wherever in memory that is. */
  readonly #zeroes: number
  readonly #one: NativeMemory
  readonly #oneAddress: number
  readonly #pending: Uint16Array
  #from = 0
  #to = 0
  #inFlight = 0
  #stalled = false
  /** A request was queued again since the last submit: nobody but the queue knows. */
  #continues = false
  #ownSystemCalls = 0
  #lost: number | undefined

  /**
   * @throws RangeError for a depth or segmentsMax out of range; LinuxError when the named engine cannot be had;
   * IoQueueError when none can
   */
  constructor (options: IoQueueOptions) {
    const { fd, depth, engine = 'auto', onComplete, segmentsMax = SEGMENTS_MAX } = options
    checkInteger('depth', depth, 1, DEPTH_MAX)
    checkInteger('segmentsMax', segmentsMax, 1, SEGMENTS_MAX)
    if (typeof engine === 'object') checkInteger('depth with this engine', depth, 1, engine.depth)
    this.#zeroes = open('/dev/zero', O_RDONLY)
    const opened = this.#openEngine(engine, { fd, depth })
    this.#fd = fd
    this.depth = depth
    this.segmentsMax = segmentsMax
    this.#onComplete = onComplete
    this.#engine = opened.engine
    this.engine = opened.engine.name
    this.rejected = opened.rejected
    this.completionFd = opened.engine.completionFd
    this.#table = new RequestTable(depth, segmentsMax)
    this.offset = this.#table.offset
    this.#pending = new Uint16Array(2 * depth)
    this.#sink = (id, result) => this.#completed(id, result)
    this.#one = new NativeMemory(8)
    this.#oneAddress = this.#one.address
    this.#one.setUint64(0, 1)
  }

  #openEngine (engine: 'auto' | EngineName | Engine, options: EngineOptions): { engine: Engine, rejected: RejectedEngine[] } {
    if (typeof engine === 'object') return { engine, rejected: [] }
    try {
      return openEngine(engine, options)
    } catch (error) {
      close(this.#zeroes)
      throw error
    }
  }

  /**
   * The iovecs of all requests, in native memory: address low, address high, length low, length high (0) as 32-bit
   * words. {@link prepare} says where a request has its own. Unmapped by `close()`: keep no copy beyond it.
   */
  get iovecs (): Uint32Array {
    return this.#table.iovecs
  }

  /** Requests queued or with the kernel, not completed yet. */
  get inFlight (): number {
    return this.#inFlight
  }

  /**
   * The kernel did not take everything (EAGAIN). Submit again after the next completion, or after a millisecond or so
   * when the kernel has nothing of this queue.
   */
  get stalled (): boolean {
    return this.#stalled
  }

  /** System calls made so far, by the queue and its engine. */
  get systemCalls (): number {
    return this.#ownSystemCalls + this.#engine.systemCalls
  }

  /**
   * Where the iovecs of a request go: the word index in {@link iovecs} of the first of `count`. Fill them and
   * `offset[id]`, then call `read` or `write` with as many, or fewer.
   *
   * @throws RangeError for an id or count out of range; IoQueueError when the id is in flight, or the queue closed
   */
  prepare (id: number, count: number): number {
    this.#checkFree(id)
    checkInteger('the number of segments', count, 1, this.segmentsMax)
    return this.#table.prepare(id, count)
  }

  /**
   * Queues a read to the first `count` prepared segments. Past the end of the file they are filled with zeroes.
   *
   * @throws as `prepare`; RangeError for more segments than were prepared, or an offset that is not 0 to 2^53 - 1
   */
  read (id: number, count: number): void {
    this.#queueTransfer(id, READ, count)
  }

  /** Queues a write of the first `count` prepared segments. @throws as `read` */
  write (id: number, count: number): void {
    this.#queueTransfer(id, WRITE, count)
  }

  /** Queues a flush: what was *completed* before it is submitted is durable once it has completed. @throws as `prepare` */
  flush (id: number): void {
    this.#checkFree(id)
    this.#table.remaining[id] = this.#table.total[id] = this.#table.count[id] = 0
    this.#queue(id, FLUSH)
  }

  /** Prepares and queues a read, for callers that do not count allocations. @throws as `prepare` */
  readv (id: number, segments: readonly Segment[], offset: number): void {
    this.#fillSegments(id, segments, offset)
    this.read(id, segments.length)
  }

  /** Prepares and queues a write, for callers that do not count allocations. @throws as `prepare` */
  writev (id: number, segments: readonly Segment[], offset: number): void {
    this.#fillSegments(id, segments, offset)
    this.write(id, segments.length)
  }

  /**
   * Gives everything queued to the kernel, with one system call if it takes all. What it refuses for itself completes
   * with its error; what it does not take now stays queued, and `stalled` says so.
   *
   * @throws IoQueueError when closed
   */
  submit (): void {
    this.#checkOpen()
    this.#stalled = this.#continues = false
    while (this.#from < this.#to && !this.#stalled) this.#submitSome()
    if (this.#table.finishedCount > 0) this.#wake()
  }

  /**
   * Runs `onComplete` for all that is done, without waiting. What is to be continued is submitted.
   *
   * @returns how many requests completed.
   * @throws what `onComplete` throws, with everything in order; IoQueueError when closed
   */
  reap (): number {
    this.#checkOpen()
    const before = this.completions
    if (this.#table.finishedCount > 0) this.#reapFinished()
    if (this.#lost === undefined) this.#engine.reap(this.#sink)
    if (this.#continues && this.#lost === undefined) this.submit()
    return this.completions - before
  }

  /**
   * Submits and reaps what is in flight, waiting for it up to a limit, then gives everything back. The file stays open.
   *
   * Where requests do not come back in time, the queue's memory, engine and eventfd are left alone, on purpose and for
   * good: the kernel may write to them at any time, and to the requests' segments, which the caller must therefore
   * leave mapped too.
   *
   * @returns how many requests never came back.
   */
  close (options: IoQueueCloseOptions = {}): number {
    if (this.#lost !== undefined) return this.#lost
    this.#drain(performance.now() + (options.timeout ?? CLOSE_TIMEOUT))
    // A callback may have closed it meanwhile.
    if (this.#lost !== undefined) return this.#lost
    this.#lost = this.#inFlight
    close(this.#zeroes)
    this.#one.close()
    if (this.#lost === 0) {
      this.#engine.close()
      this.#table.close()
    }
    return this.#lost
  }

  [Symbol.dispose] (): void {
    this.close()
  }

  #queueTransfer (id: number, kind: number, count: number): void {
    this.#checkFree(id)
    const table = this.#table
    if (!Number.isInteger(count) || count < 1 || count > table.count[id]!) {
      throw new RangeError(`request ${id} was prepared for ${table.count[id]} segments: not ${count}`)
    }
    const offset = table.offset[id]!
    if (!Number.isSafeInteger(offset) || offset < 0) throw new RangeError(`an offset is 0 to 2^53 - 1: not ${offset}`)
    const { iovecs } = table
    const word = table.first[id]!
    let total = 0
    for (let length = word + 2; length < word + count * IOVEC_WORDS; length += IOVEC_WORDS) total += iovecs[length]!
    table.count[id] = count
    table.remaining[id] = table.total[id] = total
    table.stuck[id] = 0
    this.#queue(id, kind)
  }

  #queue (id: number, kind: number): void {
    this.#table.kind[id] = kind
    this.#inFlight++
    this.#append(id)
  }

  #append (id: number): void {
    const pending = this.#pending
    if (this.#from === this.#to) this.#from = this.#to = 0
    if (this.#to === pending.length) {
      pending.copyWithin(0, this.#from, this.#to)
      this.#to -= this.#from
      this.#from = 0
    }
    pending[this.#to++] = id
  }

  #submitSome (): void {
    const taken = this.#engine.submit(this.#pending, this.#from, this.#to - this.#from, this.#table)
    if (taken > 0) {
      this.#from += taken
      this.submissions += taken
    } else if (taken === 0 || taken === -errno.EAGAIN || taken === -errno.ENOMEM || taken === -errno.EBUSY) {
      this.#stalled = true
    } else if (taken !== -errno.EINTR) {
      this.#table.finish(this.#pending[this.#from++]!, taken)
    }
  }

  #wake (): void {
    this.#ownSystemCalls++
    write(this.completionFd, this.#oneAddress, 8)
  }

  #reapFinished (): void {
    const table = this.#table
    // Only those that are there now: a callback may submit more that finish at once, for ever.
    for (let left = table.finishedCount; left > 0 && table.finishedCount > 0 && this.#lost === undefined; left--) {
      const { finishedId: id, finishedResult: result } = table
      table.dropFinished()
      this.#completed(id, result)
    }
  }

  #completed (id: number, result: number): void {
    const table = this.#table
    if (result === table.remaining[id]) this.#complete(id, table.total[id]!)
    else if (result > 0) this.#continue(id, result)
    else if (result === -errno.EINTR || result === -errno.EAGAIN) this.#again(id)
    else if (result < 0) this.#fail(id, result)
    else if (table.kind[id] === READ) this.#zeroRest(id)
    else if (table.stuck[id] === 0) this.#tryOnce(id)
    else this.#complete(id, -errno.ENOSPC)
  }

  #complete (id: number, result: number): void {
    this.#table.free(id)
    this.#inFlight--
    this.completions++
    this.#onComplete(id, result)
  }

  #continue (id: number, moved: number): void {
    this.#table.stuck[id] = 0
    this.#table.advance(id, moved)
    this.#again(id)
  }

  #tryOnce (id: number): void {
    this.#table.stuck[id] = 1
    this.#again(id)
  }

  #again (id: number): void {
    this.#append(id)
    this.#continues = true
  }

  #fail (id: number, result: number): void {
    const table = this.#table
    // With O_DIRECT a read that met an end off the block boundary cannot go on from there to be told so: EINVAL.
    const began = table.remaining[id]! < table.total[id]!
    if (result === -errno.EINVAL && began && table.kind[id] === READ && isPastEnd(this.#fd, table.offset[id]!)) this.#zeroRest(id)
    else this.#complete(id, result)
  }

  #zeroRest (id: number): void {
    const table = this.#table
    while (table.remaining[id]! > 0) {
      this.#ownSystemCalls++
      const result = preadv(this.#zeroes, table.address + table.first[id]! * 4, table.count[id]!, 0)
      if (result > 0) table.advance(id, result)
      else if (result !== -errno.EINTR) return this.#complete(id, result < 0 ? result : -errno.EIO)
    }
    this.#complete(id, table.total[id]!)
  }

  #fillSegments (id: number, segments: readonly Segment[], offset: number): void {
    let word = this.prepare(id, segments.length)
    const { iovecs } = this
    for (const { address, length } of segments) {
      checkInteger('address', address, 0, Number.MAX_SAFE_INTEGER)
      checkInteger('length', length, 0, 0xffffffff)
      iovecs[word] = address >>> 0
      iovecs[word + 1] = address / 0x100000000
      iovecs[word + 2] = length
      iovecs[word + 3] = 0
      word += IOVEC_WORDS
    }
    this.offset[id] = offset
  }

  #drain (deadline: number): void {
    const nap = new Int32Array(new SharedArrayBuffer(4))
    while (this.#inFlight > 0 && this.#lost === undefined) {
      if (this.#from < this.#to) this.submit()
      this.reap()
      if (this.#inFlight === 0 || performance.now() >= deadline) return
      Atomics.wait(nap, 0, 0, 1)
    }
  }

  #checkFree (id: number): void {
    this.#checkOpen()
    const kind = this.#table.kind[id]
    if (kind === FREE) return
    if (kind === undefined) throw new RangeError(`a request id is 0 to ${this.depth - 1}: not ${id}`)
    throw new IoQueueError('ERR_IO_QUEUE_BUSY', `request ${id} is in flight: its id is free once it has completed.`)
  }

  #checkOpen (): void {
    if (this.#lost !== undefined) throw new IoQueueError('ERR_IO_QUEUE_CLOSED', 'this queue is closed. Make a new one.')
  }
}

function checkInteger (name: string, value: number, minimum: number, maximum: number): void {
  if (!Number.isInteger(value) || value < minimum || value > maximum) {
    throw new RangeError(`${name} is ${minimum} to ${maximum}: not ${value}`)
  }
}

function isPastEnd (fd: number, offset: number): boolean {
  try {
    const { kind, size } = fileStatus(fd)
    return kind === 'file' && offset >= size
  } catch {
    return false
  }
}
