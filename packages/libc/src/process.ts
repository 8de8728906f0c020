import { native, orErrno } from './library.ts'

const exitC = native('void _exit(int status)')

/**
 * Ends the process at once: no handler runs, nothing is flushed, no thread is waited for, not even one inside a system
 * call, for which `process.exit()` waits. See `_exit(2)`.
 *
 * @param status 0 to 255: what `wait(2)` tells the parent.
 */
export function exitNow (status: number): never {
  exitC()(status)
  throw new Error('_exit returned')
}

const processVmReadvC = native('intptr_t process_vm_readv(int pid, uintptr_t local, unsigned long localCount, uintptr_t remote, unsigned long remoteCount, unsigned long flags)')
const processVmWritevC = native('intptr_t process_vm_writev(int pid, uintptr_t local, unsigned long localCount, uintptr_t remote, unsigned long remoteCount, unsigned long flags)')

/**
 * Copies memory of a process, as an iovec array lists it, into memory of this one, as another lists that. A page that cannot be
 * had on either side ends the copy there: no signal. See `process_vm_readv(2)`.
 *
 * @param pid this process itself needs no permission.
 * @returns bytes copied, fewer than asked for where a page cannot be had, or a negative error number: EFAULT where that is the first.
 */
export function processVmReadv (pid: number, local: number, localCount: number, remote: number, remoteCount: number): number {
  return orErrno(processVmReadvC()(pid, local, localCount, remote, remoteCount, 0))
}

/** The same, from this process's memory into that of the other. @returns as `processVmReadv`. See `process_vm_writev(2)`. */
export function processVmWritev (pid: number, local: number, localCount: number, remote: number, remoteCount: number): number {
  return orErrno(processVmWritevC()(pid, local, localCount, remote, remoteCount, 0))
}
