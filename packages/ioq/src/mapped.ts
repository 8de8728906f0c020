import {
  close, eventfd, fdatasync, LinuxError, NativeMemory, PAGE_SIZE, preadv, prefetch, processVmReadv, processVmWritev, pwritev, touch
} from '@node-vmm/libc'
import { BlockingThread } from './blocking-thread.ts'
import type { CompletionSink, Engine, EngineOptions } from './engine.ts'
import { FileMap } from './file-map.ts'
import { FLUSH, IOVEC_BYTES, IOVEC_WORDS, READ, type RequestTable, WRITE } from './request-table.ts'

// Invariants.
// - The mapping is only ever given to the kernel to copy from or to, never read or written by this process: what goes wrong
//   with a page (the file was cut, there is no room) is the end of that copy, not a SIGBUS.
// - A request that was not copied whole, or to a file that was cut, is done over by preadv or pwritev, which knows why, and so is one
//   that is alone: so neither a wrong guess about a page, nor a file cut or extended meanwhile, changes any result.
// - Copies are empty between two calls of `submit`.

/** Iovecs of one call (IOV_MAX). */
const IOVECS_MAX = 1024
/** The words of its length. */
const LENGTH = 2
/** Bytes of segments that are one to the kernel. */
const MERGED_MAX = 1 << 30
/** A larger offset would be an object when passed on. */
const OFFSET_MAX = 0x7fffffff

/** Requests in one direction that one system call does. */
class Copy {
  /** The iovecs of the file, one a request, then those of its segments. */
  readonly memory = new NativeMemory(2 * IOVECS_MAX * IOVEC_BYTES)
  readonly ids = new Uint16Array(IOVECS_MAX)
  readonly #fileAddress: number
  requests = 0
  /** Iovecs of segments: up to as many as there are segments. */
  segments = 0
  // Their addresses are captured constants: as arguments they would be objects made at each call.
  /** Copies what the iovecs say. @returns how many bytes, or a negative error number */
  readonly run: () => number
  /** Does the one request that is there without the mapping: looking up this process and its pages pays for several. @returns as `run` */
  readonly runAlone: (offset: number) => number

  /**
   * @param reads from the file to the segments, not the other way round
   * @param fileAddress where the file is mapped
   * @param fd the file itself
   */
  constructor (reads: boolean, fileAddress: number, fd: number) {
    this.#fileAddress = fileAddress
    const { pid } = process
    const file = this.memory.address
    const segments = file + IOVECS_MAX * IOVEC_BYTES
    // The file's pages are the "local" side, which is copied as a program's memory is, and the segments the "remote" one,
    // whose pages are looked up one by one: there are few of those, and they are used again and again.
    const copy = reads
      ? () => processVmWritev(pid, file, this.requests, segments, this.segments)
      : () => processVmReadv(pid, file, this.requests, segments, this.segments)
    const transfer = reads ? preadv : pwritev
    this.runAlone = (offset) => transfer(fd, segments, this.segments, offset)
    this.run = () => {
      // Where in the file each request is, no cache knows: all are waited for at once, not one after the other.
      prefetch(file, this.requests)
      return copy()
    }
  }

  hasRoomFor (segments: number): boolean {
    return this.requests < IOVECS_MAX && this.segments + segments <= IOVECS_MAX
  }

  add (id: number, table: RequestTable): void {
    const { u32 } = this.memory
    const { iovecs } = table
    const count = table.count[id]!
    const at = this.requests * IOVEC_WORDS
    const address = this.#fileAddress + table.offset[id]!
    this.ids[this.requests++] = id
    u32[at] = address >>> 0
    u32[at + 1] = address / 0x100000000
    u32[at + LENGTH] = table.remaining[id]!
    u32[at + LENGTH + 1] = table.remaining[id]! / 0x100000000
    const from = table.first[id]!
    for (let word = from; word < from + count * IOVEC_WORDS; word += IOVEC_WORDS) this.#addSegment(iovecs, word)
  }

  /** A segment that begins where the last one ended is a part of it: pages are looked up together then. */
  #addSegment (iovecs: Uint32Array, word: number): void {
    const { u32 } = this.memory
    const low = iovecs[word]!
    const high = iovecs[word + 1]!
    const length = iovecs[word + LENGTH]!
    const to = (IOVECS_MAX + this.segments) * IOVEC_WORDS
    const last = to - IOVEC_WORDS
    const lastLength = u32[last + LENGTH]!
    if (this.segments > 0 && u32[last]! + lastLength === low && u32[last + 1] === high && lastLength + length <= MERGED_MAX) {
      u32[last + LENGTH] = lastLength + length
    } else {
      u32[to] = low
      u32[to + 1] = high
      u32[to + LENGTH] = length
      u32[to + LENGTH + 1] = iovecs[word + LENGTH + 1]!
      this.segments++
    }
  }
}

/**
 * A file in memory, mapped: all reads and all writes of a batch are two system calls, which copy between the mapping and the
 * requests' segments, and know neither files nor pages. See `process_vm_readv(2)`, with this process at both ends. What cannot be
 * copied, such as a read of a hole, is done by system calls of its own, discards and write zeroes by a thread.
 */
export class MappedEngine implements Engine {
  readonly name = 'mapped'
  readonly depth: number
  readonly completionFd: number
  systemCalls = 0
  readonly #fd: number
  readonly #map: FileMap
  readonly #ownsMap: boolean
  readonly #reads: Copy
  readonly #writes: Copy
  readonly #thread: BlockingThread
  /** Something was written since the file was last touched: copying does not tell its time. */
  #written = false

  /** @throws as `FileMap.create`; LinuxError such as EPERM where a seccomp filter forbids the call */
  constructor ({ fd, depth, bufferedFd = fd, map }: EngineOptions) {
    this.#fd = bufferedFd
    this.depth = depth
    checkCopies()
    this.#ownsMap = map === undefined
    this.#map = map === undefined ? FileMap.create(bufferedFd) : FileMap.attach(map)
    this.completionFd = this.#openCompletion()
    this.#thread = new BlockingThread(this.completionFd)
    this.#reads = new Copy(true, this.#map.data.address, bufferedFd)
    this.#writes = new Copy(false, this.#map.data.address, bufferedFd)
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    for (let index = from; index < from + count; index++) this.#begin(ids[index]!, table)
    this.#copy(this.#reads, table)
    this.#copy(this.#writes, table)
    return count
  }

  #begin (id: number, table: RequestTable): void {
    switch (table.kind[id]!) {
      case READ: return this.#read(id, table)
      case WRITE: return this.#write(id, table)
      case FLUSH: return table.finish(id, this.#flush())
      default: return this.#range(id, table)
    }
  }

  #read (id: number, table: RequestTable): void {
    const first = Math.floor(table.offset[id]! / PAGE_SIZE)
    const end = Math.ceil((table.offset[id]! + table.remaining[id]!) / PAGE_SIZE)
    if (this.#map.mayRead(first, end)) this.#add(this.#reads, id, table)
    else this.#call(id, table)
  }

  #write (id: number, table: RequestTable): void {
    const first = Math.floor(table.offset[id]! / PAGE_SIZE)
    const end = Math.ceil((table.offset[id]! + table.remaining[id]!) / PAGE_SIZE)
    if (!this.#map.mayWrite(first, end)) return this.#call(id, table)
    this.#written = true
    this.#add(this.#writes, id, table)
  }

  #add (copy: Copy, id: number, table: RequestTable): void {
    if (!copy.hasRoomFor(table.count[id]!)) this.#copy(copy, table)
    copy.add(id, table)
  }

  #copy (copy: Copy, table: RequestTable): void {
    if (copy.requests === 0) return
    this.systemCalls++
    const id = copy.ids[0]!
    if (copy.requests === 1 && table.offset[id]! <= OFFSET_MAX) table.finish(id, copy.runAlone(table.offset[id]!))
    else this.#finishAll(copy, copy.run(), table)
    copy.requests = copy.segments = 0
  }

  /** @param copied bytes of all requests, one after the other */
  #finishAll (copy: Copy, copied: number, table: RequestTable): void {
    let left = copied
    if (copy === this.#writes && !this.#isWhole()) left = 0
    for (let index = 0; index < copy.requests; index++) {
      const id = copy.ids[index]!
      const length = table.remaining[id]!
      if (left >= length) table.finish(id, length)
      else this.#call(id, table)
      left -= length
    }
  }

  #isWhole (): boolean {
    this.systemCalls++
    return this.#map.isWhole()
  }

  /** Does a transfer by a system call of its own. */
  #call (id: number, table: RequestTable): void {
    this.systemCalls++
    const address = table.address + table.first[id]! * 4
    const transfer = table.kind[id] === READ ? preadv : pwritev
    table.finish(id, transfer(this.#fd, address, table.count[id]!, table.offset[id]!))
  }

  /** What is written is as stable as it gets: what is left is to say when. */
  #flush (): number {
    if (this.#written) this.#touch()
    this.systemCalls++
    return fdatasync(this.#fd)
  }

  #touch (): void {
    this.#written = false
    this.systemCalls++
    touch(this.#fd)
  }

  #range (id: number, table: RequestTable): void {
    // What is a hole in part is there.
    this.#map.remove(Math.ceil(table.offset[id]! / PAGE_SIZE), Math.floor((table.offset[id]! + table.length[id]!) / PAGE_SIZE))
    this.systemCalls++
    this.#thread.submit(id, this.#fd, table.method[id]!, table)
  }

  reap (sink: CompletionSink): void {
    this.#thread.reap(sink)
  }

  close (): void {
    if (this.#written) this.#touch()
    this.#thread.close()
    close(this.completionFd)
    this.#reads.memory.close()
    this.#writes.memory.close()
    if (this.#ownsMap) this.#map.close()
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  #openCompletion (): number {
    try {
      return eventfd()
    } catch (error) {
      if (this.#ownsMap) this.#map.close()
      throw error
    }
  }
}

/** Tries a copy: containers may forbid it. */
function checkCopies (): void {
  const memory = new NativeMemory(2 * IOVEC_BYTES)
  memory.setUint64(0, memory.address)
  memory.setUint64(8, 8)
  const result = processVmReadv(process.pid, memory.address, 1, memory.address, 1)
  memory.close()
  if (result >= 0) return
  throw new LinuxError('process_vm_readv', -result, { remedy: 'A seccomp filter forbids it, as container runtimes may do, or this kernel was built without it (CONFIG_CROSS_MEMORY_ATTACH).' })
}
