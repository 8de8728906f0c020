import { native, orErrno } from './library.ts'
import { platform } from './platform.ts'

// linux/aio_abi.h
/** A read into one buffer. */
export const IOCB_CMD_PREAD = 0
/** A write from one buffer. */
export const IOCB_CMD_PWRITE = 1
/** `fdatasync(2)`. */
export const IOCB_CMD_FDSYNC = 3
/** A read into several buffers. */
export const IOCB_CMD_PREADV = 7
/** A write from several buffers. */
export const IOCB_CMD_PWRITEV = 8
/** The completion is announced on an eventfd, `aio_resfd`. */
export const IOCB_FLAG_RESFD = 1
/** Bytes of `struct iocb`. */
export const IOCB_BYTES = 64
/** `aio_ring.magic`: the completion ring that the kernel maps at the context's address. */
export const AIO_RING_MAGIC = 0xa10a10a1

const syscallC = native('int syscall(long number, intptr_t first, intptr_t second, uintptr_t third)')
const geteventsC = native('int syscall(long number, intptr_t context, long minimum, long maximum, uintptr_t events, uintptr_t timeout)')

/**
 * Makes a context for up to `events` requests; its address (the context id) is written to 8 zeroed bytes of native
 * memory at `result`. See `io_setup(2)`.
 *
 * @returns 0 or a negative error number.
 */
export function ioSetup (events: number, result: number): number {
  return orErrno(syscallC()(platform().syscalls.ioSetup, events, result, 0))
}

/** Ends a context, waiting for what is in flight. See `io_destroy(2)`. @returns 0 or a negative error number. */
export function ioDestroy (context: number): number {
  return orErrno(syscallC()(platform().syscalls.ioDestroy, context, 0, 0))
}

/**
 * As `ioDestroy`, on a thread of Node's pool: to end a context takes the kernel some 30 ms even when it is idle. Whether it could be
 * ended is not told. A calling thread that ends meanwhile waits for it.
 */
export function ioDestroyInBackground (context: number): void {
  try {
    syscallC().async(platform().syscalls.ioDestroy, context, 0, 0, () => {})
  } catch {
    // koffi makes 256 such calls at a time.
    ioDestroy(context)
  }
}

let submitNumber = -1

/**
 * Submits the first `count` control blocks of an array of pointers. See `io_submit(2)`.
 *
 * @returns how many were taken, or a negative error number that speaks of the first one.
 */
export function ioSubmit (context: number, count: number, pointers: number): number {
  if (submitNumber < 0) submitNumber = platform().syscalls.ioSubmit
  return orErrno(syscallC()(submitNumber, context, count, pointers))
}

/** Takes completions, without waiting when `minimum` is 0. See `io_getevents(2)`. @returns how many or a negative error number. */
export function ioGetevents (context: number, minimum: number, maximum: number, events: number): number {
  return orErrno(geteventsC()(platform().syscalls.ioGetevents, context, minimum, maximum, events, 0))
}
