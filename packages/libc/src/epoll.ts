import { check, native, orErrno } from './library.ts'
import { platform } from './platform.ts'

/** There is something to read. All of these: `epoll_ctl(2)`. */
export const EPOLLIN = 0x001
/** There is room to write. */
export const EPOLLOUT = 0x004
/** An error; told whether asked for or not. */
export const EPOLLERR = 0x008
/** The other end hung up; told whether asked for or not. */
export const EPOLLHUP = 0x010
/** The other end will write no more. */
export const EPOLLRDHUP = 0x2000
/** Edge-triggered: told once for each change. */
export const EPOLLET = 0x80000000

/** Adds a descriptor. */
export const EPOLL_CTL_ADD = 1
/** Removes a descriptor. */
export const EPOLL_CTL_DEL = 2
/** Changes what is told of a descriptor. */
export const EPOLL_CTL_MOD = 3

const EPOLL_CLOEXEC = 0o2000000

const epollCreateC = native('int epoll_create1(int flags)')
const epollCtlC = native('int epoll_ctl(int epoll, int operation, int fd, uintptr_t event)')
const epollWaitC = native('int epoll_wait(int epoll, uintptr_t events, int maximum, int timeout)')
// The C library has it since 2.35.
const epollPwait2C = native('int syscall(long number, int epoll, uintptr_t events, int maximum, uintptr_t timeout, uintptr_t signals, size_t size)')

/** A new epoll instance, close-on-exec. See `epoll_create(2)`. @throws LinuxError */
export function epollCreate (): number {
  return check(epollCreateC()(EPOLL_CLOEXEC), 'epoll_create1')
}

/**
 * Adds, changes or removes the interest in a descriptor. See `epoll_ctl(2)`.
 *
 * @param event the address of a `struct epoll_event` in native memory (its layout: `platform()`), 0 to remove.
 * @throws LinuxError
 */
export function epollCtl (epoll: number, operation: number, fd: number, event: number): void {
  check(epollCtlC()(epoll, operation, fd, event), 'epoll_ctl', () => ({ subject: `fd ${fd}` }))
}

/**
 * Waits for events, written to native memory. See `epoll_wait(2)`.
 *
 * @param timeout milliseconds; -1 waits for ever.
 * @returns the number of events, or a negative error number (-EINTR after a signal).
 */
export function epollWait (epoll: number, events: number, maximum: number, timeout: number): number {
  return orErrno(epollWaitC()(epoll, events, maximum, timeout))
}

/**
 * The same with a time limit in nanoseconds, to which the kernel adds up to the thread's timer slack ({@link setTimerSlack}). See
 * `epoll_pwait2(2)`, Linux 5.11.
 *
 * @param timeout the address of 16 bytes of native memory: seconds and nanoseconds of 64 bits each.
 * @returns the number of events, or a negative error number (-EINTR after a signal, -ENOSYS on an older kernel).
 */
export function epollPwait2 (epoll: number, events: number, maximum: number, timeout: number): number {
  return orErrno(epollPwait2C()(platform().syscalls.epollPwait2, epoll, events, maximum, timeout, 0, 0))
}
