import { check, native } from './library.ts'

/** Not inherited by a program that is started: `eventfd(2)`. */
export const EFD_CLOEXEC = 0o2000000
/** Reads and writes that would wait fail with EAGAIN. */
export const EFD_NONBLOCK = 0o4000

const eventfdC = native('int eventfd(unsigned int initial, int flags)')

/**
 * A counter that wakes: writing adds to it, reading takes it all. See `eventfd(2)`.
 *
 * @param initial the counter at first, 32 bits. @default 0
 * @param flags `EFD_*` bits. @default EFD_CLOEXEC | EFD_NONBLOCK
 * @throws LinuxError such as EMFILE
 */
export function eventfd (initial = 0, flags = EFD_CLOEXEC | EFD_NONBLOCK): number {
  return check(eventfdC()(initial, flags), 'eventfd')
}
