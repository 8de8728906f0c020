import { constants } from 'node:buffer'
import { check, koffi, native, orErrno } from './library.ts'

/** No access: `mmap(2)`, as are all of these. */
export const PROT_NONE = 0
/** May be read. */
export const PROT_READ = 1
/** May be written. */
export const PROT_WRITE = 2
/** May be executed. */
export const PROT_EXEC = 4
/** Others who map the file see what is written. */
export const MAP_SHARED = 0x01
/** Others do not see what is written. */
export const MAP_PRIVATE = 0x02
/** At exactly this address, in place of what is there. */
export const MAP_FIXED = 0x10
/** Memory without a file. */
export const MAP_ANONYMOUS = 0x20
/** No swap space is kept for it. */
export const MAP_NORESERVE = 0x4000
/** Pages are there at once, not at their first use. */
export const MAP_POPULATE = 0x8000
/** Of huge pages. */
export const MAP_HUGETLB = 0x40000
/** Not inherited by a program that is started: `memfd_create(2)`, as are these. */
export const MFD_CLOEXEC = 1
/** May be sealed: see `F_SEAL_SHRINK`. */
export const MFD_ALLOW_SEALING = 2
/** Of huge pages. */
export const MFD_HUGETLB = 4

/** What can be read is mapped now, not at its first use: `madvise(2)`, Linux 5.14. */
export const MADV_POPULATE_READ = 22

/** Bytes of a page: mappings start at its multiples. */
export const PAGE_SIZE = 4096

const mmapC = native('intptr_t mmap(uintptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)')
const munmapC = native('int munmap(uintptr_t address, size_t length)')
const mprotectC = native('int mprotect(uintptr_t address, size_t length, int protection)')
const madviseC = native('int madvise(uintptr_t address, size_t length, int advice)')
const memfdCreateC = native('int memfd_create(const char *name, unsigned int flags)')

/** What to map: see `mmap(2)`. */
export interface MapOptions {
  /** Bytes, at least 1. */
  readonly length: number
  /** `PROT_*` bits. @default PROT_READ | PROT_WRITE */
  readonly protection?: number
  /** `MAP_*` bits. @default MAP_SHARED */
  readonly flags?: number
  /** The file, or -1 with `MAP_ANONYMOUS`. @default -1 */
  readonly fd?: number
  /** Where in the file, a multiple of the page size. @default 0 */
  readonly offset?: number
  /** Where to put it; the kernel chooses when 0. @default 0 */
  readonly address?: number
}

/**
 * Maps a file or anonymous memory. See `mmap(2)`.
 *
 * @returns the address of the first byte.
 * @throws LinuxError such as ENOMEM, EINVAL for an offset that is not aligned
 */
export function mmap (options: MapOptions): number {
  const { length, protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED, fd = -1, offset = 0, address = 0 } = options
  return check(mmapC()(address, length, protection, flags, fd, offset), 'mmap',
    () => ({ subject: `of ${length} bytes at offset ${offset} of fd ${fd}` }))
}

/** Gives a mapping back. No view of it may be touched again, in any thread: that ends the process. See `munmap(2)`. @throws LinuxError such as EINVAL */
export function munmap (address: number, length: number): void {
  check(munmapC()(address, length), 'munmap', () => ({ subject: `of ${length} bytes at 0x${address.toString(16)}` }))
}

/** Changes how mapped memory may be accessed. @returns 0 or a negative error number: EACCES where the system forbids it. See `mprotect(2)`. */
export function mprotect (address: number, length: number, protection: number): number {
  return orErrno(mprotectC()(address, length, protection))
}

/** Tells the kernel how mapped memory will be used. @returns 0 or a negative error number: EINVAL for advice that it does not know. See `madvise(2)`. */
export function madvise (address: number, length: number, advice: number): number {
  return orErrno(madviseC()(address, length, advice))
}

/**
 * A new anonymous file in memory, of 0 bytes. See `memfd_create(2)`.
 *
 * @param name what `/proc` shows of it.
 * @param flags `MFD_*` bits. @default MFD_CLOEXEC | MFD_ALLOW_SEALING
 * @throws LinuxError such as EMFILE
 */
export function memfdCreate (name: string, flags: number = MFD_CLOEXEC | MFD_ALLOW_SEALING): number {
  return check(memfdCreateC()(name, flags), 'memfd_create', () => ({ subject: name }))
}

/** The largest view that one `ArrayBuffer` can give: 4 GiB on Node 20. */
export const VIEW_BYTES_MAX: number = constants.MAX_LENGTH

/**
 * An `ArrayBuffer` straight over native memory, nothing copied. The memory must stay mapped while any view of it is in
 * use; the buffer does not own it.
 *
 * @throws RangeError for what would make the runtime abort the process: the null address, or more than
 * `VIEW_BYTES_MAX` bytes.
 */
export function viewMemory (address: number, length: number): ArrayBuffer {
  if (!Number.isSafeInteger(address) || address <= 0) throw new RangeError(`no memory at address ${address}`)
  if (!Number.isSafeInteger(length) || length <= 0 || length > VIEW_BYTES_MAX) {
    throw new RangeError(`a view has 1 to ${VIEW_BYTES_MAX} bytes: not ${length}`)
  }
  return koffi().view(BigInt(address), length)
}

/**
 * Where the bytes of a view are: what `viewMemory` takes. The address holds as long as the view's buffer is reachable and
 * neither resized nor detached; a WebAssembly memory may move when it grows.
 */
export function addressOf (view: ArrayBufferView): number {
  return Number(koffi().address(view))
}

/** Memory outside the JavaScript heap, zeroed, page-aligned, for structures that the kernel reads and writes. */
export class NativeMemory {
  /** The address of the first byte: a plain number, valid in every thread of the process. */
  readonly address: number
  /** Bytes: what was asked for, rounded up to whole pages. */
  readonly length: number
  // Replaced by empty arrays at close, so that a late access reads `undefined` instead of ending the process.
  /** All of it as bytes; empty once closed, as are the next three. */
  u8: Uint8Array
  /** All of it as 16-bit words, unsigned. */
  u16: Uint16Array
  /** All of it as 32-bit words, unsigned. */
  u32: Uint32Array
  /** All of it as 32-bit words, signed. */
  i32: Int32Array

  /** @throws RangeError for a length below 1; LinuxError when the kernel has no memory */
  constructor (bytes: number) {
    if (!Number.isSafeInteger(bytes) || bytes <= 0) throw new RangeError(`native memory has 1 or more bytes: not ${bytes}`)
    this.length = Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE
    this.address = mmap({ length: this.length, flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE })
    const buffer = viewMemory(this.address, this.length)
    this.u8 = new Uint8Array(buffer)
    this.u16 = new Uint16Array(buffer)
    this.u32 = new Uint32Array(buffer)
    this.i32 = new Int32Array(buffer)
  }

  /** Stores a 64-bit value below 2^53 at a byte offset that is a multiple of 4. */
  setUint64 (offset: number, value: number): void {
    this.u32[offset >>> 2] = value >>> 0
    this.u32[(offset >>> 2) + 1] = value / 0x100000000
  }

  /** The 64-bit value at a byte offset that is a multiple of 4, exact below 2^53. */
  getUint64 (offset: number): number {
    return this.u32[(offset >>> 2) + 1]! * 0x100000000 + this.u32[offset >>> 2]!
  }

  /**
   * Unmaps. The kernel must have let go of it; typed arrays made from it elsewhere must not be touched again. No effect
   * when closed.
   *
   * @throws LinuxError
   */
  close (): void {
    if (this.u8.length === 0) return
    this.u8 = new Uint8Array(0)
    this.u16 = new Uint16Array(0)
    this.u32 = new Uint32Array(0)
    this.i32 = new Int32Array(0)
    munmap(this.address, this.length)
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }
}
