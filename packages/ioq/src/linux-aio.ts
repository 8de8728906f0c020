import {
  AIO_RING_MAGIC, close, errno, eventfd, IOCB_BYTES, IOCB_CMD_FDSYNC, IOCB_CMD_PREAD, IOCB_CMD_PREADV,
  IOCB_CMD_PWRITE, IOCB_CMD_PWRITEV, IOCB_FLAG_RESFD, ioDestroyInBackground, ioGetevents, ioSetup, ioSubmit,
  LinuxError, NativeMemory, O_DIRECT, openFlags, RWF_DSYNC, RWF_NOWAIT, viewMemory
} from '@node-vmm/libc'
import { DATA_SYNC } from './blocking-call.ts'
import { BlockingThread } from './blocking-thread.ts'
import type { CompletionSink, Engine, EngineOptions } from './engine.ts'
import {
  DISCARD, FLUSH, READ, REQUEST_BUFFERED, REQUEST_DURABLE, type RequestTable, WRITE_ZEROES
} from './request-table.ts'

// Invariants.
// - Control block `id` of the table in native memory belongs to request `id`; what never changes in it (data, eventfd)
//   is written once. The kernel copies it, and the iovecs, within io_submit.
// - What will not be announced by the eventfd has no IOCB_FLAG_RESFD in its control block; `#unannounced` counts those
//   with the kernel.
// - The context's address is that of its completion ring, shared with the kernel: we alone move `head`, the kernel
//   alone moves `tail`, and an event is read before the head that passes it is stored.

// struct iocb in 32-bit words (linux/aio_abi.h).
const IOCB_WORDS = IOCB_BYTES / 4
const DATA = 0
const RW_FLAGS = 3
const OPCODE = 4
const FILE = 5
const BUFFER = 6
const LENGTH = 8
const OFFSET = 10
const FLAGS = 14
const RESULT_FD = 15

// struct aio_ring in 32-bit words (fs/aio.c): a header, then events of struct io_event.
const NR = 1
const HEAD = 2
const TAIL = 3
const MAGIC = 4
const INCOMPATIBLE = 6
const HEADER_LENGTH = 7
const RING_HEADER_BYTES = 32
const EVENT_BYTES = 32
const EVENT_WORDS = EVENT_BYTES / 4
const EVENT_RESULT = 4

/** What Linux AIO works on. */
export interface LinuxAioOptions extends EngineOptions {
  /**
   * Read completions from the memory that the kernel shares, where its layout is the known one; otherwise with
   * `io_getevents(2)`, one at a time. @default true
   */
  readonly sharedRing?: boolean
  /** The eventfd to make readable, the caller's to close. @default one of the engine's own */
  readonly completionFd?: number
  /** Transfers end with EAGAIN or EOPNOTSUPP rather than wait in `submit`: see RWF_NOWAIT in `pwritev2(2)`. @default false */
  readonly noWait?: boolean
  /** Requests with the kernel at most: what counts against `fs.aio-max-nr`. @default depth */
  readonly inFlightMax?: number
}

/**
 * Linux AIO: one `io_submit(2)` for a batch, completions read from memory that the kernel shares. Asynchronous for
 * files opened with O_DIRECT; for others `io_submit` mostly does the work itself before it returns. It knows neither
 * discards nor write zeroes: a thread of its own makes the blocking calls for those, from the first one on.
 */
export class LinuxAioEngine implements Engine {
  readonly name = 'linux-aio'
  readonly depth: number
  readonly completionFd: number
  systemCalls = 0
  readonly #ownsCompletionFd: boolean
  readonly #fd: number
  readonly #bufferedFd: number
  readonly #thread: BlockingThread
  readonly #context: number
  /** `depth` control blocks, `depth` pointers to them, then room for the event that io_getevents gives. */
  readonly #memory: NativeMemory
  readonly #pointersAddress: number
  /** `io_submit` of this context: its addresses are objects made once, as captured constants, not once a call. */
  readonly #submitBlocks: (count: number) => number
  readonly #eventAddress: number
  /** The completion ring, or undefined where this kernel's has another layout. */
  #ring: Uint32Array | undefined
  /** Where the ring's entries start, in words. */
  #ringEvents = 0
  #ringSize = 0
  /**
   * The flags of a transfer: the kernel is asked to announce its end only where it may come later. Through the page cache
   * it has come when io_submit returns, and the eventfd would wake the loop once more, for nothing.
   */
  #transferFlags: number
  readonly #transferRwFlags: number
  #unannounced = 0
  /** The file system refuses FDSYNC (Linux before 4.18): flushes are blocking calls too. */
  #flushBlocks = false
  #closed = false

  /** @throws LinuxError such as EAGAIN, ENOSYS */
  constructor ({ fd, depth, bufferedFd = fd, sharedRing = true, completionFd, noWait = false, inFlightMax = depth }: LinuxAioOptions) {
    this.#fd = fd
    this.#bufferedFd = bufferedFd
    this.depth = depth
    this.#transferFlags = isDirect(fd) ? IOCB_FLAG_RESFD : 0
    this.#transferRwFlags = noWait ? RWF_NOWAIT : 0
    this.#ownsCompletionFd = completionFd === undefined
    this.completionFd = completionFd ?? eventfd()
    this.#thread = new BlockingThread(this.completionFd)
    this.#memory = new NativeMemory(depth * (IOCB_BYTES + 8) + EVENT_BYTES)
    this.#pointersAddress = this.#memory.address + depth * IOCB_BYTES
    this.#eventAddress = this.#pointersAddress + depth * 8
    const result = ioSetup(inFlightMax, this.#memory.address)
    if (result < 0) {
      this.#giveBack()
      throw setupError(-result, inFlightMax)
    }
    this.#context = this.#memory.getUint64(0)
    const context = this.#context
    const pointers = this.#pointersAddress
    this.#submitBlocks = (count) => ioSubmit(context, count, pointers)
    this.#prepareBlocks()
    if (sharedRing) this.#mapRing()
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    if (this.#blocks(table.kind[ids[from]!]!)) return this.#submitBlocking(ids[from]!, table)
    let filled = 0
    while (filled < count && !this.#blocks(table.kind[ids[from + filled]!]!)) this.#fill(filled++, ids[from + filled - 1]!, table)
    this.systemCalls++
    const taken = this.#submitBlocks(filled)
    this.#countUnannounced(ids, from, taken)
    if (taken !== -errno.EINVAL || table.kind[ids[from]!] !== FLUSH) return taken
    this.#flushBlocks = true
    return this.#submitBlocking(ids[from]!, table)
  }

  get unannounced (): boolean {
    return this.#unannounced > 0
  }

  #countUnannounced (ids: Uint16Array, from: number, taken: number): void {
    for (let index = 0; index < taken; index++) {
      if (this.#memory.u32[ids[from + index]! * IOCB_WORDS + FLAGS] === 0) this.#unannounced++
    }
  }

  #blocks (kind: number): boolean {
    return kind === DISCARD || kind === WRITE_ZEROES || (kind === FLUSH && this.#flushBlocks)
  }

  #submitBlocking (id: number, table: RequestTable): number {
    this.systemCalls++
    const method = table.kind[id] === FLUSH ? DATA_SYNC : table.method[id]!
    this.#thread.submit(id, this.#fd, method, table)
    return 1
  }

  #fill (position: number, id: number, table: RequestTable): void {
    const { u32 } = this.#memory
    const block = id * IOCB_WORDS
    const kind = table.kind[id]!
    if (kind === FLUSH) {
      u32[block + OPCODE] = IOCB_CMD_FDSYNC
      u32[block + FLAGS] = IOCB_FLAG_RESFD
      u32[block + FILE] = this.#fd
      u32[block + RW_FLAGS] = 0
      u32[block + BUFFER] = u32[block + BUFFER + 1] = u32[block + LENGTH] = u32[block + LENGTH + 1] = 0
      u32[block + OFFSET] = u32[block + OFFSET + 1] = 0
    } else {
      this.#fillTransfer(block, id, table)
    }
    const address = this.#memory.address + id * IOCB_BYTES
    const pointer = this.depth * IOCB_WORDS + position * 2
    u32[pointer] = address >>> 0
    u32[pointer + 1] = address / 0x100000000
  }

  #fillTransfer (block: number, id: number, table: RequestTable): void {
    const { u32 } = this.#memory
    const { iovecs } = table
    const first = table.first[id]!
    const reads = table.kind[id] === READ
    const flags = table.flags[id]!
    u32[block + FILE] = (flags & REQUEST_BUFFERED) !== 0 ? this.#bufferedFd : this.#fd
    u32[block + FLAGS] = this.#transferFlags
    u32[block + RW_FLAGS] = this.#transferRwFlags | (!reads && (flags & REQUEST_DURABLE) !== 0 ? RWF_DSYNC : 0)
    if (table.count[id] === 1) {
      u32[block + OPCODE] = reads ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE
      u32[block + BUFFER] = iovecs[first]!
      u32[block + BUFFER + 1] = iovecs[first + 1]!
      u32[block + LENGTH] = iovecs[first + 2]!
      u32[block + LENGTH + 1] = iovecs[first + 3]!
    } else {
      const address = table.address + first * 4
      u32[block + OPCODE] = reads ? IOCB_CMD_PREADV : IOCB_CMD_PWRITEV
      u32[block + BUFFER] = address >>> 0
      u32[block + BUFFER + 1] = address / 0x100000000
      u32[block + LENGTH] = table.count[id]!
      u32[block + LENGTH + 1] = 0
    }
    const offset = table.offset[id]!
    u32[block + OFFSET] = offset >>> 0
    u32[block + OFFSET + 1] = offset / 0x100000000
  }

  hasCompletions (): boolean {
    const ring = this.#ring
    return ring !== undefined && ring[HEAD] !== Atomics.load(ring, TAIL)
  }

  reap (sink: CompletionSink): void {
    if (this.#ring === undefined) this.#reapByCall(sink)
    else this.#reapRing(this.#ring, sink)
    // Not at once after all, as on some network file systems: from now on the kernel announces.
    if (this.#unannounced > 0) this.#transferFlags = IOCB_FLAG_RESFD
    this.#thread.reap(sink)
  }

  #hand (id: number, result: number, sink: CompletionSink): void {
    if (this.#memory.u32[id * IOCB_WORDS + FLAGS] === 0) this.#unannounced--
    sink(id, result)
  }

  #reapRing (ring: Uint32Array, sink: CompletionSink): void {
    // A callback may reap too: where we are is kept in the ring, never in a local variable across a callback.
    for (let head = ring[HEAD]!; head !== Atomics.load(ring, TAIL); head = ring[HEAD]!) {
      const event = this.#ringEvents + head * EVENT_WORDS
      const id = ring[event]!
      const result = ring[event + EVENT_RESULT]! | 0
      Atomics.store(ring, HEAD, head + 1 === this.#ringSize ? 0 : head + 1)
      this.#hand(id, result, sink)
      if (this.#closed) return
    }
  }

  #reapByCall (sink: CompletionSink): void {
    const word = (this.#eventAddress - this.#memory.address) / 4
    for (;;) {
      this.systemCalls++
      // One at a time: a callback may reap too, and must find what is left.
      if (ioGetevents(this.#context, 0, 1, this.#eventAddress) !== 1) return
      const { u32 } = this.#memory
      this.#hand(u32[word]!, u32[word + EVENT_RESULT]! | 0, sink)
      if (this.#closed) return
    }
  }

  close (): void {
    // io_destroy unmaps the ring: nobody may look at it afterwards.
    this.#closed = true
    this.#ring = undefined
    // It takes its time, and others wait for this thread.
    ioDestroyInBackground(this.#context)
    this.#thread.close()
    this.#giveBack()
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  #giveBack (): void {
    if (this.#ownsCompletionFd) close(this.completionFd)
    this.#memory.close()
  }

  #prepareBlocks (): void {
    const { u32 } = this.#memory
    u32.fill(0)
    for (let id = 0; id < this.depth; id++) {
      const block = id * IOCB_WORDS
      u32[block + DATA] = id
      u32[block + RESULT_FD] = this.completionFd
    }
  }

  #mapRing (): void {
    const header = new Uint32Array(viewMemory(this.#context, RING_HEADER_BYTES))
    if (header[MAGIC] !== AIO_RING_MAGIC || header[INCOMPATIBLE] !== 0) return
    this.#ringSize = header[NR]!
    this.#ringEvents = header[HEADER_LENGTH]! / 4
    this.#ring = new Uint32Array(viewMemory(this.#context, header[HEADER_LENGTH]! + this.#ringSize * EVENT_BYTES))
  }
}

/** Whether a file was opened with O_DIRECT. @returns false for a bad descriptor too: its requests say so. */
export function isDirect (fd: number): boolean {
  try {
    return (openFlags(fd) & O_DIRECT) !== 0
  } catch {
    return false
  }
}

function setupError (number: number, depth: number): LinuxError {
  const remedies: Readonly<Record<number, string>> = {
    [errno.EAGAIN]: 'The system has no room for that many requests: raise fs.aio-max-nr (sysctl), or ask for a smaller depth.',
    [errno.ENOSYS]: 'This kernel was built without Linux AIO (CONFIG_AIO), or a seccomp filter hides it.',
    [errno.EPERM]: 'A seccomp filter forbids it, as container runtimes may do.'
  }
  const remedy = remedies[number]
  return new LinuxError('io_setup', number, { subject: `for ${depth} requests`, ...(remedy === undefined ? {} : { remedy }) })
}
