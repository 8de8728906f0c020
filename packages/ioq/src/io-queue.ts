import { close, errno, fileStatus, type FileStatus, NativeMemory, open, O_RDONLY, preadv, write } from '@node-vmm/libc'
import { openEngine, type CompletionSink, type Engine, type EngineName, type EngineSelection, type RejectedEngine } from './engine.ts'
import { IoQueueError } from './errors.ts'
import type { FileMapData } from './file-map.ts'
import {
  BLOCK_DISCARD, DISCARD, FLUSH, FREE, IOVEC_WORDS, NO_METHOD, PUNCH_HOLE, READ, REQUEST_BUFFERED, REQUEST_DURABLE,
  RequestTable, WRITE, WRITE_ZEROES, ZERO_RANGE
} from './request-table.ts'
import { WriteTurns } from './write-turns.ts'

// Invariants.
// - A request id is in exactly one place: free; pending (between `#from` and `#to`); with the engine; or finished
//   (`table.finish`) and waiting for reap. `inFlight` counts all but the free ones.
// - A request completes once, and completes whole or failed: what the kernel left undone is queued again.
// - An id is free before its callback runs, so that the callback can use it at once.
// - Zeroes that the file system cannot make are written, piece after piece: the request is then a write whose segment
//   is the current piece and whose `length` is what comes after it. The `length` of other transfers means nothing.
// - With a buffered descriptor, a write has its turn (a bit of `#special`) from before the engine gets it until the engine's
//   completion.

const DEPTH_MAX = 32768
/** IOV_MAX: what `readv(2)` takes. */
const SEGMENTS_MAX = 1024
const CLOSE_TIMEOUT = 5000
/** Bytes of zeroes that one write takes. All of them are the kernel's one page of zeroes: the memory is never written. */
const ZEROES_BYTES = 1 << 20

// Bits of `#special`: most requests have none.
/** A part of it is done: `#moved` says how much. */
const CONTINUED = 1
/** It discards or writes zeroes, perhaps by writing them. */
const RANGE = 2
/** The last write moved nothing. */
const STUCK = 4
/** It has its turn among direct writes, or among buffered ones. */
const DIRECT_TURN = 8
const BUFFERED_TURN = 16

/** What a queue is made of. */
export interface IoQueueOptions {
  /** An open file or block device. It stays the caller's, to close after the queue. */
  readonly fd: number
  /** Requests in flight at most, 1 to 32768. */
  readonly depth: number
  /**
   * Another descriptor of the same file, opened without O_DIRECT and also the caller's to close, for a file that `fd`
   * opens with O_DIRECT. What O_DIRECT cannot take (memory, offset or length off its alignment) then goes through the
   * page cache: requests with `REQUEST_BUFFERED` at once, others when the kernel has refused them with EINVAL. An engine
   * made by the caller needs it too. @default undefined: such requests fail with EINVAL
   */
  readonly bufferedFd?: number | undefined
  /**
   * Shared by all queues with a `bufferedFd` on the same file: `WriteTurns.allocate()` makes it.
   * @default memory of this queue's own
   */
  readonly writeTurns?: SharedArrayBuffer | undefined
  /**
   * The file in memory, mapped once for all queues on it, in whatever threads: `FileMap.create(fd).data`.
   * @default the engine that copies maps it for itself
   */
  readonly map?: FileMapData | undefined
  /**
   * How the kernel is asked: a name; an engine made by the caller, which the queue then owns; or `auto`, the best of
   * mapped (for files in memory), io_uring+linux-aio (for those opened with O_DIRECT), io_uring, linux-aio and sync that can be
   * had; or `no-io_uring`, the best of the others. @default 'auto'
   */
  readonly engine?: EngineSelection | EngineName | Engine
  /**
   * Runs within `reap()` or `close()`, once a request. `result` is the bytes that it moved (0 for a flush, a
   * discard and write zeroes) or a negative error number. It may prepare, queue and submit requests, `id` included.
   */
  readonly onComplete: (id: number, result: number) => void
  /** Segments of one request at most, 1 to 1024 (IOV_MAX). @default 1024 */
  readonly segmentsMax?: number
}

/** A piece of memory by its address: a plain number below 2^53. */
export interface Segment {
  /** Where it begins, not 0. */
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
   * An eventfd that is readable when `reap()` has something to do. Clear it *before* reaping. The queue's: closed with it.
   */
  readonly completionFd: number
  /**
   * Byte offset of each request, by id: write it before `read()`, `write()`, `discard()` or `writeZeroes()`. The queue
   * moves it on as a request makes progress.
   */
  readonly offset: Float64Array
  /** Bytes to discard or zero, by id: write it before `discard()` or `writeZeroes()`. The queue changes it too. */
  readonly length: Float64Array
  /**
   * What is special about each request, by id: write it before `read()`, `write()` or `writeZeroes()`, and leave it alone
   * until that has completed, when the queue sets it back to 0.
   *
   * `REQUEST_DURABLE`: a write is stable before it completes, as if a flush had followed it. `REQUEST_BUFFERED`: the
   * transfer goes by `bufferedFd`, where there is one.
   */
  readonly flags: Uint8Array
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
  /** Memory to write zeroes from, once it is needed. */
  #zeroMemory: NativeMemory | undefined
  readonly #buffered: boolean
  /** What the file was found not to know. */
  readonly #refused = new Set<number>()
  /** Asked for when it first matters. */
  #blockDevice: boolean | undefined
  /** With a buffered descriptor: who may write now. */
  readonly #turns: WriteTurns | undefined
  /** By id: what makes it more than a transfer that was asked for once, and done. */
  readonly #special: Uint8Array
  /** By id: bytes that were moved before, of a request that is continued. */
  readonly #moved: Float64Array
  readonly #one: NativeMemory
  readonly #oneAddress: number
  readonly #pending: Uint16Array
  #from = 0
  #to = 0
  #stalled = false
  /** A request was queued again since the last submit: nobody but the queue knows. */
  #continues = false
  #ownSystemCalls = 0
  /** Completions are not announced for now. */
  #isQuiet = false
  #lost: number | undefined

  /**
   * @throws RangeError for a depth or segmentsMax out of range; LinuxError when the named engine cannot be had;
   * IoQueueError ERR_IO_QUEUE_NO_ENGINE when none can
   */
  constructor (options: IoQueueOptions) {
    const { fd, depth, bufferedFd, map, engine = 'auto', onComplete, segmentsMax = SEGMENTS_MAX } = options
    checkInteger('depth', depth, 1, DEPTH_MAX)
    checkInteger('segmentsMax', segmentsMax, 1, SEGMENTS_MAX)
    if (typeof engine === 'object') checkInteger('depth with this engine', depth, 1, engine.depth)
    this.#fd = fd
    this.depth = depth
    this.segmentsMax = segmentsMax
    this.#onComplete = onComplete
    const held: (() => void)[] = []
    try {
      const table = this.#table = new RequestTable(depth, segmentsMax)
      held.push(() => table.close())
      const one = this.#one = new NativeMemory(8)
      held.push(() => one.close())
      const zeroes = this.#zeroes = open('/dev/zero', O_RDONLY)
      held.push(() => close(zeroes))
      const opened = typeof engine === 'object' ? { engine, rejected: [] } : openEngine(engine, { fd, depth, bufferedFd, map })
      this.#engine = opened.engine
      this.rejected = opened.rejected
    } catch (error) {
      for (const giveBack of held.reverse()) giveBack()
      throw error
    }
    this.engine = this.#engine.name
    this.completionFd = this.#engine.completionFd
    this.offset = this.#table.offset
    this.length = this.#table.length
    this.flags = this.#table.flags
    this.#buffered = bufferedFd !== undefined
    this.#turns = bufferedFd === undefined ? undefined : new WriteTurns(options.writeTurns ?? WriteTurns.allocate())
    this.#special = new Uint8Array(depth)
    this.#moved = new Float64Array(depth)
    this.#pending = new Uint16Array(2 * depth)
    this.#sink = (id, result) => this.#completed(id, result)
    this.#oneAddress = this.#one.address
    this.#one.setUint64(0, 1)
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
    return this.#table.inFlight
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
   * @throws RangeError for an id or count out of range; IoQueueError ERR_IO_QUEUE_BUSY, ERR_IO_QUEUE_CLOSED
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

  /**
   * Queues a flush: what was *completed* before it is submitted is durable once it has completed, by whichever
   * descriptor it was written: `fdatasync(2)` is about the file, its pages and its device, not about the descriptor.
   *
   * @throws as `prepare`
   */
  flush (id: number): void {
    this.#checkFree(id)
    this.#table.remaining[id] = this.#table.count[id] = 0
    this.#queue(id, FLUSH)
  }

  /**
   * Queues a discard: the space of `length[id]` bytes from `offset[id]` on is given back. What is read there afterwards
   * is zeroes, or on some block devices anything: old data too. A block device wants multiples of its logical block
   * size, and completes others with EINVAL. What has no way to give space back completes with EOPNOTSUPP.
   *
   * @throws as `prepare`; RangeError for an offset, a length or a sum of both that is not 0 to 2^53 - 1
   */
  discard (id: number): void {
    if (this.#checkRange(id)) this.#startRange(id, DISCARD, PUNCH_HOLE)
  }

  /**
   * Queues the zeroing of `length[id]` bytes from `offset[id]` on. With `unmap` their space may be given back, as by a
   * discard; without, it stays allocated (virtio 1.2, 5.2.6.2, lets a device deallocate only where `unmap` is set).
   * Where the file knows neither holes nor zeroed ranges, zeroes are written, which may make it grow.
   *
   * @throws as `discard`
   */
  writeZeroes (id: number, unmap: boolean): void {
    if (this.#checkRange(id)) this.#startRange(id, WRITE_ZEROES, unmap ? PUNCH_HOLE : ZERO_RANGE)
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
   * @throws IoQueueError ERR_IO_QUEUE_CLOSED
   */
  submit (): void {
    this.#submitAll()
    if (this.#table.finishedCount > 0 || this.#engine.unannounced === true) this.#wake()
  }

  /**
   * `submit`, then `reap`: what is done at once is completed at once, and nobody is woken for it.
   *
   * @returns how many requests completed. @throws as `reap`
   */
  submitAndReap (): number {
    this.#submitAll()
    const completed = this.reap()
    if (this.#lost === undefined && this.#table.finishedCount > 0) this.#wake()
    return completed
  }

  /** Whether `reap` has something to do, told without a system call; false where the engine cannot tell, and when closed. For those who poll. */
  get hasCompletions (): boolean {
    return this.#lost === undefined && (this.#table.finishedCount > 0 || this.#engine.hasCompletions?.() === true)
  }

  /** Asks for no word on `completionFd`, for who is awake and reaps anyway. A hint: some may still come. No effect when closed. */
  disableNotification (): void {
    if (this.#isQuiet || this.#engine.announce === undefined || this.#lost !== undefined) return
    this.#isQuiet = true
    this.#engine.announce(false)
  }

  /**
   * Asks for word on `completionFd` again, before waiting for it: as it is in the beginning. No effect when closed.
   *
   * @returns `'more'` when `reap` has something to do of which there may have been no word: do not wait.
   */
  enableNotification (): 'empty' | 'more' {
    if (!this.#isQuiet) return 'empty'
    this.#isQuiet = false
    return this.#engine.announce!(true) ? 'more' : 'empty'
  }

  #submitAll (): void {
    this.#checkOpen()
    this.#stalled = this.#continues = false
    while (this.#from < this.#to && !this.#stalled) this.#submitSome()
  }

  /**
   * Runs `onComplete` for all that is done, without waiting. What is to be continued is submitted.
   *
   * @returns how many requests completed.
   * @throws what `onComplete` throws, with everything in order; IoQueueError ERR_IO_QUEUE_CLOSED
   */
  reap (): number {
    this.#checkOpen()
    const before = this.completions
    if (this.#table.finishedCount > 0) this.#reapFinished()
    if (this.#lost === undefined) this.#engine.reap(this.#sink)
    if (this.#lost !== undefined) return this.completions - before
    if (this.#continues) this.submit()
    else if (this.#engine.unannounced === true) this.#wake()
    return this.completions - before
  }

  /**
   * Submits and reaps what is in flight, waiting for it up to a limit, then gives everything back. The file stays open.
   *
   * Where requests do not come back in time, the queue's memory, engine and eventfd are left alone, on purpose and for
   * good: the kernel may write to them at any time, and to the requests' segments, which the caller must therefore
   * leave mapped too.
   *
   * @returns how many requests never came back; the same when it is closed already.
   * @throws what `onComplete` throws: it is not closed then
   */
  close (options: IoQueueCloseOptions = {}): number {
    if (this.#lost !== undefined) return this.#lost
    this.#drain(performance.now() + (options.timeout ?? CLOSE_TIMEOUT))
    // A callback may have closed it meanwhile.
    if (this.#lost !== undefined) return this.#lost
    this.#lost = this.#table.inFlight
    this.#isQuiet = false
    close(this.#zeroes)
    this.#one.close()
    this.#turns?.stopWaiting()
    if (this.#lost === 0) {
      this.#engine.close()
      this.#table.close()
      this.#zeroMemory?.close()
    }
    return this.#lost
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  #queueTransfer (id: number, kind: number, count: number): void {
    this.#checkFree(id)
    const table = this.#table
    if (!Number.isInteger(count) || count < 1 || count > table.count[id]!) throw notPrepared(id, table.count[id]!, count)
    const offset = table.offset[id]!
    if (!Number.isSafeInteger(offset) || offset < 0) throw new RangeError(`an offset is 0 to 2^53 - 1: not ${offset}`)
    const { iovecs } = table
    const word = table.first[id]!
    let total = 0
    for (let length = word + 2; length < word + count * IOVEC_WORDS; length += IOVEC_WORDS) total += iovecs[length]!
    table.count[id] = count
    table.remaining[id] = total
    this.#queue(id, kind)
  }

  /** @returns whether there is something to do; an empty range is finished already. */
  #checkRange (id: number): boolean {
    this.#checkFree(id)
    const table = this.#table
    const offset = table.offset[id]!
    const length = table.length[id]!
    if (!Number.isSafeInteger(offset) || offset < 0 || !Number.isSafeInteger(length) || length < 0 || !Number.isSafeInteger(offset + length)) {
      throw new RangeError(`a range has an offset, a length and an end of 0 to 2^53 - 1: not ${length} bytes at ${offset}`)
    }
    table.remaining[id] = table.count[id] = 0
    this.#special[id] = RANGE
    this.#table.inFlight++
    if (length > 0) return true
    table.kind[id] = DISCARD
    table.finish(id, 0)
    return false
  }

  /** Queues a range, to be done by the method given or by the best one after it that the file is not known to refuse. */
  #startRange (id: number, kind: number, method: number): void {
    const table = this.#table
    while (this.#refused.has(method)) method = this.#methodAfter(kind, method)
    table.kind[id] = kind
    table.method[id] = method
    if (method !== NO_METHOD) this.#append(id)
    else if (kind === DISCARD) table.finish(id, -errno.EOPNOTSUPP)
    else this.#writeZeroPiece(id)
  }

  #methodAfter (kind: number, method: number): number {
    if (method !== PUNCH_HOLE) return NO_METHOD
    if (kind === WRITE_ZEROES) return ZERO_RANGE
    // A block device zeroes where a file gets a hole, and not every one that can discard can also promise zeroes.
    this.#blockDevice ??= statusOf(this.#fd)?.kind === 'block device'
    return this.#blockDevice ? BLOCK_DISCARD : NO_METHOD
  }

  /** Zeroes cannot be had any other way: writes the next piece of them. */
  #writeZeroPiece (id: number): void {
    const table = this.#table
    const memory = this.#zeroMemory ??= new NativeMemory(ZEROES_BYTES)
    const piece = Math.min(table.length[id]!, ZEROES_BYTES)
    const word = table.prepare(id, 1)
    const { iovecs } = table
    iovecs[word] = memory.address
    iovecs[word + 1] = memory.address / 0x100000000
    iovecs[word + 2] = piece
    iovecs[word + 3] = 0
    table.kind[id] = WRITE
    table.length[id]! -= piece
    table.remaining[id] = piece
    this.#special[id]! &= ~STUCK
    this.#append(id)
  }

  #queue (id: number, kind: number): void {
    this.#table.kind[id] = kind
    this.#table.inFlight++
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
    const count = this.#turns === undefined ? this.#to - this.#from : this.#takeTurns(this.#turns)
    const taken = count === 0 ? 0 : this.#engine.submit(this.#pending, this.#from, count, this.#table)
    if (taken > 0) {
      this.#from += taken
      this.submissions += taken
    } else if (taken === 0 || taken === -errno.EAGAIN || taken === -errno.ENOMEM || taken === -errno.EBUSY) {
      this.#stalled = true
    } else if (taken !== -errno.EINTR) {
      this.#table.finish(this.#pending[this.#from++]!, taken)
    }
  }

  /** @returns how many of the pending requests may be submitted, from the front: up to a write that must wait. */
  #takeTurns (turns: WriteTurns): number {
    const table = this.#table
    for (let index = this.#from; index < this.#to; index++) {
      const id = this.#pending[index]!
      if (table.kind[id] !== WRITE || (this.#special[id]! & (DIRECT_TURN | BUFFERED_TURN)) !== 0) continue
      const buffered = (table.flags[id]! & REQUEST_BUFFERED) !== 0
      if (!turns.enter(buffered)) return index - this.#from
      this.#special[id]! |= buffered ? BUFFERED_TURN : DIRECT_TURN
    }
    return this.#to - this.#from
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
    if (result === table.remaining[id] && this.#special[id] === 0) this.#complete(id, result)
    else this.#completedOtherwise(id, result)
  }

  /** A request that is special, or was not done as it was asked for. */
  #completedOtherwise (id: number, result: number): void {
    const table = this.#table
    this.#giveTurnBack(id)
    if (result === table.remaining[id]) this.#whole(id)
    else if (result > 0) this.#continue(id, result)
    else if (result === -errno.EINTR || result === -errno.EAGAIN) this.#again(id)
    else if (result < 0) this.#fail(id, result)
    else if (table.kind[id] === READ) this.#zeroRest(id)
    else if ((this.#special[id]! & STUCK) === 0) this.#tryOnce(id)
    else this.#end(id, -errno.ENOSPC)
  }

  #giveTurnBack (id: number): void {
    const turn = this.#special[id]! & (DIRECT_TURN | BUFFERED_TURN)
    if (turn === 0) return
    this.#turns!.leave(turn === BUFFERED_TURN)
    this.#special[id]! &= ~turn
  }

  /** All that the engine was given is done: the request too, unless it goes on. */
  #whole (id: number): void {
    const table = this.#table
    const isRange = (this.#special[id]! & RANGE) !== 0
    if (isRange && table.kind[id] === WRITE && table.length[id]! > 0) {
      table.offset[id]! += table.remaining[id]!
      this.#writeZeroPiece(id)
      this.#continues = true
    } else if (table.kind[id] === WRITE_ZEROES && (table.flags[id]! & REQUEST_DURABLE) !== 0) {
      // fallocate(2) knows no O_DSYNC.
      table.kind[id] = FLUSH
      this.#again(id)
    } else {
      this.#end(id, isRange ? 0 : this.#moved[id]! + table.remaining[id]!)
    }
  }

  /** Completes a request that was special, or failed. */
  #end (id: number, result: number): void {
    this.#special[id] = this.#moved[id] = 0
    this.#complete(id, result)
  }

  #complete (id: number, result: number): void {
    this.#table.free(id)
    this.#table.inFlight--
    this.completions++
    this.#onComplete(id, result)
  }

  #continue (id: number, moved: number): void {
    this.#special[id]! &= ~STUCK
    this.#advance(id, moved)
    this.#again(id)
  }

  #advance (id: number, moved: number): void {
    this.#table.advance(id, moved)
    this.#moved[id]! += moved
    this.#special[id]! |= CONTINUED
  }

  #tryOnce (id: number): void {
    this.#special[id]! |= STUCK
    this.#again(id)
  }

  #again (id: number): void {
    this.#append(id)
    this.#continues = true
  }

  #fail (id: number, result: number): void {
    const table = this.#table
    const kind = table.kind[id]
    if (kind === DISCARD || kind === WRITE_ZEROES) this.#failRange(id, kind, result)
    else if (result === -errno.EINVAL && kind !== FLUSH) this.#failInvalid(id)
    else this.#end(id, result)
  }

  /** EINVAL: O_DIRECT cannot take it, or the rest of it after a short transfer. */
  #failInvalid (id: number): void {
    const table = this.#table
    const began = (this.#special[id]! & CONTINUED) !== 0
    if (this.#buffered && (table.flags[id]! & REQUEST_BUFFERED) === 0) {
      table.flags[id]! |= REQUEST_BUFFERED
      this.#again(id)
    } else if (began && table.kind[id] === READ && this.#isPastEnd(table.offset[id]!)) {
      // A read that met an end off the block boundary cannot go on from there to be told so.
      this.#zeroRest(id)
    } else {
      this.#end(id, -errno.EINVAL)
    }
  }

  #failRange (id: number, kind: number, result: number): void {
    const method = this.#table.method[id]!
    const unknown = result === -errno.EOPNOTSUPP || result === -errno.ENOSYS || result === -errno.ENOTTY
    if (unknown && method !== NO_METHOD) this.#refused.add(method)
    // EINVAL is about this range alone: a block device zeroes whole blocks only, and writes less.
    else if (!unknown && (result !== -errno.EINVAL || kind === DISCARD)) return this.#end(id, result)
    const next = this.#methodAfter(kind, method)
    if (next === NO_METHOD && kind === DISCARD) return this.#end(id, -errno.EOPNOTSUPP)
    this.#startRange(id, kind, next)
    this.#continues = true
  }

  #isPastEnd (offset: number): boolean {
    const status = statusOf(this.#fd)
    return status?.kind === 'file' && offset >= status.size
  }

  #zeroRest (id: number): void {
    const table = this.#table
    while (table.remaining[id]! > 0) {
      this.#ownSystemCalls++
      const result = preadv(this.#zeroes, table.address + table.first[id]! * 4, table.count[id]!, 0)
      if (result > 0) this.#advance(id, result)
      else if (result !== -errno.EINTR) return this.#end(id, result < 0 ? result : -errno.EIO)
    }
    this.#end(id, this.#moved[id]! + table.remaining[id]!)
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
    while (this.#table.inFlight > 0 && this.#lost === undefined) {
      if (this.#from < this.#to) this.submit()
      this.reap()
      if (this.#table.inFlight === 0 || performance.now() >= deadline) return
      Atomics.wait(nap, 0, 0, 1)
    }
  }

  #checkFree (id: number): void {
    this.#checkOpen()
    const kind = this.#table.kind[id]
    if (kind !== FREE) throw notFree(id, kind, this.depth)
  }

  #checkOpen (): void {
    if (this.#lost !== undefined) throw new IoQueueError('ERR_IO_QUEUE_CLOSED', 'this queue is closed. Make a new one.')
  }
}

// Apart, for V8 makes the text of what stands twice in one function before it knows whether it is needed.

function notPrepared (id: number, prepared: number, count: number): RangeError {
  return new RangeError(`request ${id} was prepared for ${prepared} segments: not ${count}`)
}

function notFree (id: number, kind: number | undefined, depth: number): Error {
  if (kind === undefined) return new RangeError(`a request id is 0 to ${depth - 1}: not ${id}`)
  return new IoQueueError('ERR_IO_QUEUE_BUSY', `request ${id} is in flight: its id is free once it has completed.`)
}

function checkInteger (name: string, value: number, minimum: number, maximum: number): void {
  if (!Number.isInteger(value) || value < minimum || value > maximum) {
    throw new RangeError(`${name} is ${minimum} to ${maximum}: not ${value}`)
  }
}

function statusOf (fd: number): FileStatus | undefined {
  try {
    return fileStatus(fd)
  } catch {
    return undefined
  }
}
