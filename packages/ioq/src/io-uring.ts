import {
  close, errno, eventfd, IORING_CQ_EVENTFD_DISABLED, IO_URING_CQE_BYTES, IO_URING_PARAMS_BYTES, IO_URING_SQE_BYTES, IORING_ENTER_GETEVENTS,
  IORING_FEAT_RW_CUR_POS, IORING_FEAT_SINGLE_MMAP, IORING_FSYNC_DATASYNC, IORING_OFF_CQ_RING, IORING_OFF_SQ_RING,
  IORING_OFF_SQES, IORING_OP_FALLOCATE, IORING_OP_FSYNC, IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE,
  IORING_OP_WRITEV, IORING_REGISTER_EVENTFD, IORING_SETUP_COOP_TASKRUN, IORING_SETUP_SINGLE_ISSUER,
  IORING_SETUP_TASKRUN_FLAG, IORING_SQ_CQ_OVERFLOW, IORING_SQ_TASKRUN, ioUringEnter, ioUringRegister, ioUringSetup,
  LinuxError, MAP_POPULATE, MAP_SHARED, mmap, munmap, NativeMemory, RWF_DSYNC, viewMemory
} from '@node-vmm/libc'
import { BlockingThread } from './blocking-thread.ts'
import type { CompletionSink, Engine, EngineOptions } from './engine.ts'
import {
  BLOCK_DISCARD, DISCARD, FLUSH, READ, REQUEST_BUFFERED, REQUEST_DURABLE, type RequestTable, WRITE
} from './request-table.ts'

// Invariants.
// - Ring indices are free-running 32-bit numbers; each side stores its own with release and loads the other's with
//   acquire order, which is what Atomics gives. For a burst of completions both are done once: that is a call each.
// - The kernel looks at the submission queue only within io_uring_enter (there is no polling thread), so entries that
//   it did not take are withdrawn by setting the tail back: they stay with the queue, which sends them again.
// - No more than `depth` requests are in flight, the submission queue has at least that many entries and the
//   completion queue twice as many: neither can be full, even while a burst is not given back yet.
// - `user_data` is the request id. What a submission entry never uses stays zero.

// struct io_uring_params in 32-bit words (linux/io_uring.h).
const SQ_ENTRIES = 0
const CQ_ENTRIES = 1
const SETUP_FLAGS = 2
const FEATURES = 5
const SQ_OFFSETS = 10
const CQ_OFFSETS = 20
// struct io_sqring_offsets and io_cqring_offsets in words.
const OFF_HEAD = 0
const OFF_TAIL = 1
const OFF_MASK = 2
const OFF_SQ_FLAGS = 4
const OFF_SQ_ARRAY = 6
const OFF_CQES = 5
const OFF_CQ_FLAGS = 6

// struct io_uring_sqe in words.
const SQE_WORDS = IO_URING_SQE_BYTES / 4
const SQE_OPCODE = 0
const SQE_FD = 1
const SQE_OFFSET = 2
const SQE_ADDRESS = 4
const SQE_LENGTH = 6
const SQE_FLAGS = 7
const SQE_USER_DATA = 8

const CQE_WORDS = IO_URING_CQE_BYTES / 4
const CQE_RESULT = 2

/** Completions without inter-processor interrupts, and with a flag that says when they wait for a system call. */
const BEST_FLAGS = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG

/**
 * io_uring: one `io_uring_enter(2)` for a batch, completions read from memory that the kernel shares. Needs Linux 5.6;
 * all calls must come from the thread that made the engine.
 */
export class IoUringEngine implements Engine {
  readonly name = 'io_uring'
  readonly depth: number
  readonly completionFd: number
  systemCalls = 0
  readonly #fd: number
  readonly #bufferedFd: number
  /** For the one call that io_uring cannot make: BLKDISCARD. */
  readonly #thread: BlockingThread
  readonly #ring: number
  /** What gives each thing back that the kernel has of this engine, the last one first. */
  readonly #owned: (() => void)[] = []
  #sq: Int32Array
  #cq: Int32Array
  #entries: Uint32Array
  readonly #sqHead: number
  readonly #sqTail: number
  readonly #sqFlags: number
  readonly #sqMask: number
  readonly #cqHead: number
  readonly #cqTail: number
  readonly #cqMask: number
  /** 0 before Linux 5.8, which has no flags there. */
  readonly #cqFlags: number
  readonly #completions: number
  /** The next completion to hand out: how far `#cqHead` was read, if not told yet. */
  #reaped = 0
  #closed = false

  /** @throws LinuxError such as ENOSYS, EPERM, ENOMEM */
  constructor ({ fd, depth, bufferedFd = fd }: EngineOptions) {
    this.#fd = fd
    this.#bufferedFd = bufferedFd
    this.depth = depth
    const completionFd = eventfd()
    this.completionFd = completionFd
    this.#owned.push(() => close(completionFd))
    this.#thread = new BlockingThread(completionFd)
    const { ring, params, sq, cq, entries } = this.#open(depth)
    this.#ring = ring
    this.#sq = sq
    this.#cq = cq
    this.#entries = entries
    this.#sqHead = params[SQ_OFFSETS + OFF_HEAD]! / 4
    this.#sqTail = params[SQ_OFFSETS + OFF_TAIL]! / 4
    this.#sqFlags = params[SQ_OFFSETS + OFF_SQ_FLAGS]! / 4
    this.#sqMask = sq[params[SQ_OFFSETS + OFF_MASK]! / 4]!
    this.#cqHead = params[CQ_OFFSETS + OFF_HEAD]! / 4
    this.#cqTail = params[CQ_OFFSETS + OFF_TAIL]! / 4
    this.#cqMask = cq[params[CQ_OFFSETS + OFF_MASK]! / 4]!
    this.#cqFlags = params[CQ_OFFSETS + OFF_CQ_FLAGS]! / 4
    this.#completions = params[CQ_OFFSETS + OFF_CQES]! / 4
    // The submission queue is a ring of indices of entries; ours are always in order.
    for (let index = 0; index <= this.#sqMask; index++) sq[params[SQ_OFFSETS + OFF_SQ_ARRAY]! / 4 + index] = index
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    if (blocks(ids[from]!, table)) return this.#submitBlocking(ids[from]!, table)
    const tail = this.#sq[this.#sqTail]!
    let filled = 0
    while (filled < count && !blocks(ids[from + filled]!, table)) {
      this.#fill(((tail + filled) & this.#sqMask) * SQE_WORDS, ids[from + filled]!, table)
      filled++
    }
    Atomics.store(this.#sq, this.#sqTail, (tail + filled) | 0)
    this.systemCalls++
    const result = ioUringEnter(this.#ring, filled, 0, 0)
    const head = Atomics.load(this.#sq, this.#sqHead)
    if (head !== ((tail + filled) | 0)) Atomics.store(this.#sq, this.#sqTail, head)
    // What the kernel took counts even where it also reports an error.
    const taken = (head - tail) | 0
    return taken > 0 ? taken : result
  }

  #submitBlocking (id: number, table: RequestTable): number {
    this.systemCalls++
    this.#thread.submit(id, this.#fd, table.method[id]!, table)
    return 1
  }

  #fill (entry: number, id: number, table: RequestTable): void {
    const kind = table.kind[id]!
    this.#entries[entry + SQE_USER_DATA] = id
    if (kind === READ || kind === WRITE) this.#fillTransfer(entry, id, table)
    else this.#fillFlushOrRange(entry, id, table)
  }

  #fillFlushOrRange (entry: number, id: number, table: RequestTable): void {
    const entries = this.#entries
    entries[entry + SQE_FD] = this.#fd
    if (table.kind[id] === FLUSH) {
      entries[entry + SQE_OPCODE] = IORING_OP_FSYNC
      entries[entry + SQE_OFFSET] = entries[entry + SQE_OFFSET + 1] = 0
      entries[entry + SQE_ADDRESS] = entries[entry + SQE_ADDRESS + 1] = 0
      entries[entry + SQE_LENGTH] = 0
      entries[entry + SQE_FLAGS] = IORING_FSYNC_DATASYNC
    } else {
      // The length stands where other operations have an address, the mode where they have a length.
      const offset = table.offset[id]!
      const length = table.length[id]!
      entries[entry + SQE_OPCODE] = IORING_OP_FALLOCATE
      entries[entry + SQE_OFFSET] = offset >>> 0
      entries[entry + SQE_OFFSET + 1] = offset / 0x100000000
      entries[entry + SQE_ADDRESS] = length >>> 0
      entries[entry + SQE_ADDRESS + 1] = length / 0x100000000
      entries[entry + SQE_LENGTH] = table.method[id]!
      entries[entry + SQE_FLAGS] = 0
    }
  }

  #fillTransfer (entry: number, id: number, table: RequestTable): void {
    const entries = this.#entries
    const { iovecs } = table
    const first = table.first[id]!
    const reads = table.kind[id] === READ
    const flags = table.flags[id]!
    entries[entry + SQE_FD] = (flags & REQUEST_BUFFERED) !== 0 ? this.#bufferedFd : this.#fd
    // The entry's length has 32 bits: what needs more goes, and fails, as an iovec.
    if (table.count[id] === 1 && iovecs[first + 3] === 0) {
      entries[entry + SQE_OPCODE] = reads ? IORING_OP_READ : IORING_OP_WRITE
      entries[entry + SQE_ADDRESS] = iovecs[first]!
      entries[entry + SQE_ADDRESS + 1] = iovecs[first + 1]!
      entries[entry + SQE_LENGTH] = iovecs[first + 2]!
    } else {
      const address = table.address + first * 4
      entries[entry + SQE_OPCODE] = reads ? IORING_OP_READV : IORING_OP_WRITEV
      entries[entry + SQE_ADDRESS] = address >>> 0
      entries[entry + SQE_ADDRESS + 1] = address / 0x100000000
      entries[entry + SQE_LENGTH] = table.count[id]!
    }
    const offset = table.offset[id]!
    entries[entry + SQE_OFFSET] = offset >>> 0
    entries[entry + SQE_OFFSET + 1] = offset / 0x100000000
    entries[entry + SQE_FLAGS] = !reads && (flags & REQUEST_DURABLE) !== 0 ? RWF_DSYNC : 0
  }

  announce (wanted: boolean): boolean {
    if (this.#cqFlags !== 0) Atomics.store(this.#cq, this.#cqFlags, wanted ? 0 : IORING_CQ_EVENTFD_DISABLED)
    return wanted && this.hasCompletions()
  }

  hasCompletions (): boolean {
    return this.#reaped !== Atomics.load(this.#cq, this.#cqTail) || this.#needsEnter()
  }

  /** Completions that did not fit, or that the kernel posts when it is entered next. */
  #needsEnter (): boolean {
    return (Atomics.load(this.#sq, this.#sqFlags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) !== 0
  }

  reap (sink: CompletionSink): void {
    if (this.#needsEnter()) {
      this.systemCalls++
      ioUringEnter(this.#ring, 0, 0, IORING_ENTER_GETEVENTS)
    }
    for (let tail = Atomics.load(this.#cq, this.#cqTail); this.#reaped !== tail; tail = Atomics.load(this.#cq, this.#cqTail)) {
      this.#handOut(tail, sink)
      if (this.#closed) return
      Atomics.store(this.#cq, this.#cqHead, this.#reaped)
    }
    this.#thread.reap(sink)
  }

  /** Hands out what stands before `tail`. A callback may reap too: how far we are is never in a local variable across one. */
  #handOut (tail: number, sink: CompletionSink): void {
    const cq = this.#cq
    while (((tail - this.#reaped) | 0) > 0 && !this.#closed) {
      const completion = this.#completions + (this.#reaped & this.#cqMask) * CQE_WORDS
      this.#reaped = (this.#reaped + 1) | 0
      sink(cq[completion]!, cq[completion + CQE_RESULT]!)
    }
  }

  close (): void {
    this.#closed = true
    this.#thread.close()
    // Replaced, so that a mistaken late access reads `undefined` instead of ending the process.
    this.#sq = this.#cq = new Int32Array(0)
    this.#entries = new Uint32Array(0)
    this.#giveBack()
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  #giveBack (): void {
    for (const giveBack of this.#owned.splice(0).reverse()) giveBack()
  }

  /** Where it fails, nothing is left behind: `auto` goes on with the next engine. */
  #open (depth: number): { ring: number, params: Uint32Array, sq: Int32Array, cq: Int32Array, entries: Uint32Array } {
    try {
      const { ring, params } = setUp(depth)
      this.#owned.push(() => close(ring))
      const rings = this.#mapRings(ring, params)
      registerEventfd(ring, this.completionFd)
      return { ring, params, ...rings }
    } catch (error) {
      this.#giveBack()
      throw error
    }
  }

  #mapRings (ring: number, params: Uint32Array): { sq: Int32Array, cq: Int32Array, entries: Uint32Array } {
    const sqBytes = params[SQ_OFFSETS + OFF_SQ_ARRAY]! + params[SQ_ENTRIES]! * 4
    const cqBytes = params[CQ_OFFSETS + OFF_CQES]! + params[CQ_ENTRIES]! * IO_URING_CQE_BYTES
    const entries = new Uint32Array(this.#map(ring, IORING_OFF_SQES, params[SQ_ENTRIES]! * IO_URING_SQE_BYTES))
    if ((params[FEATURES]! & IORING_FEAT_SINGLE_MMAP) !== 0) {
      const both = new Int32Array(this.#map(ring, IORING_OFF_SQ_RING, Math.max(sqBytes, cqBytes)))
      return { sq: both, cq: both, entries }
    }
    const sq = new Int32Array(this.#map(ring, IORING_OFF_SQ_RING, sqBytes))
    return { sq, cq: new Int32Array(this.#map(ring, IORING_OFF_CQ_RING, cqBytes)), entries }
  }

  #map (ring: number, offset: number, length: number): ArrayBuffer {
    const address = mmap({ length, fd: ring, offset, flags: MAP_SHARED | MAP_POPULATE })
    this.#owned.push(() => munmap(address, length))
    return viewMemory(address, length)
  }
}

function registerEventfd (ring: number, fd: number): void {
  const argument = new NativeMemory(4)
  argument.i32[0] = fd
  const result = ioUringRegister(ring, IORING_REGISTER_EVENTFD, argument.address, 1)
  argument.close()
  if (result < 0) throw new LinuxError('io_uring_register', -result, { subject: 'IORING_REGISTER_EVENTFD' })
}

function blocks (id: number, table: RequestTable): boolean {
  return table.kind[id] === DISCARD && table.method[id] === BLOCK_DISCARD
}

function setUp (depth: number): { ring: number, params: Uint32Array } {
  const memory = new NativeMemory(IO_URING_PARAMS_BYTES)
  memory.u32[SETUP_FLAGS] = BEST_FLAGS
  let ring = ioUringSetup(depth, memory.address)
  if (ring === -errno.EINVAL) {
    // Linux before 6.0 refuses flags that it does not know.
    memory.u32.fill(0)
    ring = ioUringSetup(depth, memory.address)
  }
  const params = memory.u32.slice(0, IO_URING_PARAMS_BYTES / 4)
  memory.close()
  if (ring < 0) throw setupError(-ring, depth)
  if ((params[FEATURES]! & IORING_FEAT_RW_CUR_POS) === 0) {
    close(ring)
    throw new LinuxError('io_uring_setup', errno.EOPNOTSUPP, { remedy: 'The io_uring of this kernel lacks the READ and WRITE operations: it takes Linux 5.6.' })
  }
  return { ring, params }
}

function setupError (number: number, depth: number): LinuxError {
  const remedies: Readonly<Record<number, string>> = {
    [errno.ENOSYS]: 'This kernel has no io_uring (Linux before 5.1, or CONFIG_IO_URING off), or a seccomp filter hides it.',
    [errno.EPERM]: 'io_uring is disabled on this host (sysctl kernel.io_uring_disabled), or a seccomp filter forbids it, as container runtimes do.',
    [errno.ENOMEM]: 'The locked memory that the rings need is over the limit: raise RLIMIT_MEMLOCK (ulimit -l), or ask for a smaller depth.'
  }
  const remedy = remedies[number]
  return new LinuxError('io_uring_setup', number, { subject: `for ${depth} requests`, ...(remedy === undefined ? {} : { remedy }) })
}
