import { closeSync, openSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { native } from '../../packages/libc/src/library.ts'

const SYS_cachestat = 451
const syscall = native('long syscall(long number, int fd, const uint64_t *range, _Out_ uint64_t *cachestat, unsigned int flags)')

/** Pages of a file that the host has in its page cache only: a power failure would lose them (Linux 6.5's cachestat). */
export function unstablePages (file: string): number {
  const fd = openSync(file, 'r')
  try {
    const counts = new BigUint64Array(5)
    if (syscall()(SYS_cachestat, fd, new BigUint64Array(2), counts, 0) !== 0) throw new Error('cachestat failed')
    const [, dirty, writeback] = counts
    return Number(dirty! + writeback!)
  } finally {
    closeSync(fd)
  }
}

/** Why it cannot be known for files in this one's folder (an older kernel, overlayfs); undefined where it can. */
export function unstablePagesUnknown (file: string): string | undefined {
  const probe = `${dirname(file)}/page-cache-probe`
  writeFileSync(probe, 'not on the disk yet')
  try {
    return unstablePages(probe) > 0 ? undefined : `the kernel does not count the page cache of ${dirname(file)}`
  } catch {
    return 'Linux before 6.5 has no cachestat(2)'
  }
}
