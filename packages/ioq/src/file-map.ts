import {
  errno, fileStatus, LinuxError, lseek, madvise, MADV_POPULATE_READ, mmap, munmap, O_ACCMODE, O_RDONLY, openFlags, PAGE_SIZE,
  PROT_READ, PROT_WRITE, SEEK_DATA, SEEK_END
} from '@node-vmm/libc'
import { statfsSync } from 'node:fs'

// Invariants.
// - Bit p of the words is set only where page p was seen to be in the file, or was about to be written. Who reads a page
//   through the mapping that is not there makes the file system allocate it: a hole would take memory for being read.
//   That is all that hangs on a bit: a wrong one, as where another process punches holes, costs memory, never data.
// - What is written through the mapping is in whole pages of the file, before and after.
// - The kernel is asked about single pages only: looking for the next hole, it would look at all pages before that.
// - A chunk is populated with its first request, if all of its pages are known by then.

/** `statfs(2)`: a file system in memory. */
const TMPFS_MAGIC = 0x01021994
/** Pages of a chunk: what one system call has mapped in less than 10 µs. */
const CHUNK_PAGES = 64
const CHUNK_BYTES = CHUNK_PAGES * PAGE_SIZE
/** Bits of a word. */
const WORD_PAGES = 32
const CHUNK_WORDS = CHUNK_PAGES / WORD_PAGES
/** The largest file: with room to grow it has 64 MiB of bits, most of which are never touched. */
const BYTES_MAX = 2 ** 40
/** A file is mapped with room for twice its size, and this at least: addresses cost nothing. Past its end there is nothing to copy. */
const ROOM_MIN = 2 ** 30

/** A file map as plain data, for other threads of the process. */
export interface FileMapData {
  /** The open file. */
  readonly fd: number
  /** Where the first byte of the file is mapped. */
  readonly address: number
  /** Bytes mapped, those of the file and more: it may grow. */
  readonly length: number
  /** Bytes of the file when it was mapped. */
  readonly size: number
  /** Which pages are known to be there, then which chunks had a request. */
  readonly known: SharedArrayBuffer
}

/** A file in memory (tmpfs, memfd), mapped, and which of its pages are known to be there. To be shared by all queues on it. */
export class FileMap {
  /** What {@link FileMap.attach} takes, in any thread. */
  readonly data: FileMapData
  readonly #fd: number
  readonly #address: number
  readonly #mappedPages: number
  /** Whole ones, as last looked. */
  #filePages: number
  /** Whether the file has as many. The number that the call takes is a captured constant: as an argument it would be an object made at each call. */
  #hasFilePages: () => boolean
  readonly #pages: Int32Array
  readonly #chunks: Uint8Array

  private constructor (data: FileMapData) {
    this.data = data
    this.#fd = data.fd
    this.#address = data.address
    this.#mappedPages = Math.floor(data.length / PAGE_SIZE)
    this.#filePages = Math.floor(data.size / PAGE_SIZE)
    this.#hasFilePages = this.#endTest()
    const words = wordsOf(data.length)
    this.#pages = new Int32Array(data.known, 0, words)
    this.#chunks = new Uint8Array(data.known, words * 4)
  }

  /**
   * Maps a file, and room for it to grow.
   *
   * @param fd stays the caller's, to close after the map.
   * @throws LinuxError ENODEV for a file that is not in memory, EFBIG for one above 1 TiB; or as `mmap(2)` does, such as
   * EPERM for a sealed one
   */
  static create (fd: number): FileMap {
    const { kind, size, allocated } = fileStatus(fd)
    if (kind !== 'file' || !isInMemory(fd)) {
      throw new LinuxError('mmap', errno.ENODEV, { subject: `of fd ${fd}`, remedy: 'Only files in memory (tmpfs, memfd) are mapped: reading others may wait for a disk.' })
    }
    if (size > BYTES_MAX) throw new LinuxError('mmap', errno.EFBIG, { subject: `of fd ${fd}, of ${size} bytes`, remedy: 'A file of up to 1 TiB is mapped.' })
    const protection = (openFlags(fd) & O_ACCMODE) === O_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE
    const length = Math.max(ROOM_MIN, 2 * size)
    const address = mmap({ fd, length, protection })
    const known = new SharedArrayBuffer(wordsOf(length) * 4 + Math.ceil(length / CHUNK_BYTES))
    const map = new FileMap({ fd, address, length, size, known })
    if (allocated >= size) map.#addAll()
    return map
  }

  /** The same map in another thread; who made it closes it, after the last use by anybody. */
  static attach (data: FileMapData): FileMap {
    return new FileMap(data)
  }

  // Ranges are of pages, whose numbers are small enough to be no objects where a function is given them.

  /**
   * Whether pages may be read through the mapping: all of them are there. Asks the kernel where that is not known.
   *
   * @param end the page behind the last one.
   */
  mayRead (first: number, end: number): boolean {
    if (end > this.#mappedPages) return false
    for (let page = first; page < end; page++) {
      if (!this.#has(page) && !this.#ask(page)) return false
      this.#begin(page)
    }
    return true
  }

  /** Whether pages may be written through the mapping, as they are about to be: the file has the whole of them. */
  mayWrite (first: number, end: number): boolean {
    if (end > this.#filePages && !this.#reaches(end)) return false
    for (let page = first; page < end; page++) {
      if (!this.#has(page)) this.#set(page)
      this.#begin(page)
    }
    return true
  }

  /**
   * Whether all that `mayWrite` has allowed is in the file still, to be asked after it was written: what is copied past the
   * end of a file that somebody has cut, in its last page, nobody ever reads.
   */
  isWhole (): boolean {
    if (this.#hasFilePages()) return true
    this.#lookAtSize()
    return false
  }

  /** Holes are about to be made of pages, wherever that ends. */
  remove (first: number, behind: number): void {
    const end = Math.min(behind, this.#mappedPages)
    let page = first
    for (; page < end && page % WORD_PAGES !== 0; page++) this.#clear(page)
    const whole = Math.floor(end / WORD_PAGES)
    if (page / WORD_PAGES < whole) {
      this.#pages.fill(0, page / WORD_PAGES, whole)
      page = whole * WORD_PAGES
    }
    for (; page < end; page++) this.#clear(page)
  }

  /** Unmaps. Nothing may be copying, in any thread. */
  close (): void {
    munmap(this.#address, this.data.length)
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  #reaches (end: number): boolean {
    this.#lookAtSize()
    return end <= this.#filePages
  }

  #lookAtSize (): void {
    this.#filePages = Math.min(Math.floor(fileStatus(this.#fd).size / PAGE_SIZE), this.#mappedPages)
    this.#hasFilePages = this.#endTest()
  }

  #endTest (): () => boolean {
    const fd = this.#fd
    const fromEnd = -this.#filePages * PAGE_SIZE
    // Before the begin of a file that is smaller there is nothing: EINVAL.
    return () => lseek(fd, fromEnd, SEEK_END) >= 0
  }

  #has (page: number): boolean {
    return (this.#pages[page >>> 5]! & (1 << (page & 31))) !== 0
  }

  #set (page: number): void {
    Atomics.or(this.#pages, page >>> 5, 1 << (page & 31))
  }

  #clear (page: number): void {
    Atomics.and(this.#pages, page >>> 5, ~(1 << (page & 31)))
  }

  #ask (page: number): boolean {
    const offset = page * PAGE_SIZE
    if (lseek(this.#fd, offset, SEEK_DATA) !== offset) return false
    this.#set(page)
    return true
  }

  /** The file has no holes. */
  #addAll (): void {
    const words = Math.floor(this.#filePages / WORD_PAGES)
    this.#pages.fill(-1, 0, words)
    for (let page = words * WORD_PAGES; page < this.#filePages; page++) this.#set(page)
  }

  /** There is a request for a page. Of a chunk that is known all pages are mapped at the first, instead of by a fault for each. */
  #begin (page: number): void {
    const chunk = Math.floor(page / CHUNK_PAGES)
    if (this.#chunks[chunk] !== 0) return
    this.#chunks[chunk] = 1
    for (let word = chunk * CHUNK_WORDS; word < (chunk + 1) * CHUNK_WORDS; word++) if (this.#pages[word] !== -1) return
    // Before Linux 5.14 there are faults.
    madvise(this.#address + chunk * CHUNK_BYTES, CHUNK_BYTES, MADV_POPULATE_READ)
  }
}

/** Whether a file is kept in memory alone. @returns false for a bad descriptor too */
export function isInMemory (fd: number): boolean {
  try {
    return statfsSync(`/proc/self/fd/${fd}`).type === TMPFS_MAGIC
  } catch {
    return false
  }
}

function wordsOf (length: number): number {
  return Math.ceil(length / PAGE_SIZE / WORD_PAGES)
}

