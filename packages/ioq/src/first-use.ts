import { close, MAP_POPULATE, MAP_SHARED, memfdCreate, mmap, munmap, NativeMemory, PAGE_SIZE, processVmWritev, pwritev } from '@node-vmm/libc'
import { IOVEC_BYTES } from './request-table.ts'

/** Pages used by one call, and calls: the best counts, for others use the processor too. */
const PAGES = 16
const CALLS = 4
/** Microseconds a page that are too many: what copying a page saves, each time that it is used. */
const TOO_LONG = 1

/** Microseconds, once they are known. */
let measured: number | undefined

/**
 * Why a file in memory had better not be mapped on this machine, though it could be; undefined where nothing speaks against it.
 * Guests keep in their own memory what they read: many a page of an image is used once.
 *
 * @param firstUse microseconds. @default what is measured, once a thread
 */
export function whyNotMap (firstUse: number = measured ??= measureFirstUse()): string | undefined {
  if (firstUse <= TOO_LONG) return undefined
  return `the first use of each mapped page takes ${firstUse.toFixed(1)} µs on this machine, as it does where a hypervisor shadows page tables: ` +
    'more than copying saves. Where the same pages are used again and again, ask for mapped by its name.'
}

/**
 * What it costs to use a page of a mapped file for the first time, beyond what each use costs, where the page is in memory and in this
 * process's page tables: nothing, on most machines. A hypervisor that keeps page tables of its own in place of its guests'
 * (shadow paging) is asked about each page once: 4 to 6 µs.
 *
 * @returns microseconds a page.
 * @throws LinuxError such as EMFILE
 */
export function measureFirstUse (): number {
  const length = CALLS * PAGES * PAGE_SIZE
  const file = memfdCreate('first-use')
  const memory = new NativeMemory(PAGE_SIZE + CALLS * PAGES * IOVEC_BYTES)
  try {
    // Written as files are: pages that are new to the mapping are another matter.
    for (let page = 0; page < CALLS * PAGES; page++) point(memory, page, memory.address, PAGE_SIZE)
    pwritev(file, memory.address + PAGE_SIZE, CALLS * PAGES, 0)
    const address = mmap({ fd: file, length, flags: MAP_SHARED | MAP_POPULATE })
    const costs = Array.from({ length: CALLS }, (_, call) => firstUse(memory, address + call * PAGES * PAGE_SIZE))
    munmap(address, length)
    return Math.max(0, Math.min(...costs))
  } finally {
    memory.close()
    close(file)
  }
}

/** @returns microseconds a page, less than 0 where the second use took longer */
function firstUse (memory: NativeMemory, address: number): number {
  for (let page = 0; page < PAGES; page++) point(memory, page, address + page * PAGE_SIZE, 1)
  point(memory, PAGES, memory.address, PAGES)
  const first = use(memory)
  return (first - use(memory)) * 1000 / PAGES
}

/** Copies a byte of each page. @returns milliseconds */
function use (memory: NativeMemory): number {
  const begin = performance.now()
  processVmWritev(process.pid, memory.address + PAGE_SIZE, PAGES, memory.address + PAGE_SIZE + PAGES * IOVEC_BYTES, 1)
  return performance.now() - begin
}

/** Fills an iovec, behind the page of data. */
function point (memory: NativeMemory, index: number, address: number, length: number): void {
  const at = PAGE_SIZE + index * IOVEC_BYTES
  memory.setUint64(at, address)
  memory.setUint64(at + 8, length)
}
