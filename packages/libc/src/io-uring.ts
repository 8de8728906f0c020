import { native, orErrno } from './library.ts'
import { platform } from './platform.ts'

// linux/io_uring.h
/** Where the submission queue is mapped: `io_uring_setup(2)`, as are all of these. */
export const IORING_OFF_SQ_RING = 0
/** Where the completion queue is mapped. */
export const IORING_OFF_CQ_RING = 0x8000000
/** Where the submission queue entries are mapped. */
export const IORING_OFF_SQES = 0x10000000

/** Completions are polled for, not interrupted by. */
export const IORING_SETUP_IOPOLL = 1 << 0
/** A kernel thread submits. */
export const IORING_SETUP_SQPOLL = 1 << 1
/** The size of the completion queue is given. */
export const IORING_SETUP_CQSIZE = 1 << 3
/** Sizes beyond the limit are cut, not refused. */
export const IORING_SETUP_CLAMP = 1 << 4
/** Begins disabled. */
export const IORING_SETUP_R_DISABLED = 1 << 6
/** A completion does not interrupt the thread: it is posted when that enters the kernel. */
export const IORING_SETUP_COOP_TASKRUN = 1 << 8
/** `IORING_SQ_TASKRUN` tells that completions wait for such an entry. */
export const IORING_SETUP_TASKRUN_FLAG = 1 << 9
/** One thread alone submits. */
export const IORING_SETUP_SINGLE_ISSUER = 1 << 12
/** Completions are posted when they are waited for, only. */
export const IORING_SETUP_DEFER_TASKRUN = 1 << 13

/** Both rings are one mapping. */
export const IORING_FEAT_SINGLE_MMAP = 1 << 0
/** Completions are never dropped. */
export const IORING_FEAT_NODROP = 1 << 1
/** What an entry points at may change once it is submitted. */
export const IORING_FEAT_SUBMIT_STABLE = 1 << 2
/** The offset -1 means the file's own position. */
export const IORING_FEAT_RW_CUR_POS = 1 << 3

/** Waits for completions: `io_uring_enter(2)`. */
export const IORING_ENTER_GETEVENTS = 1 << 0
/** Wakes the kernel thread that submits. */
export const IORING_ENTER_SQ_WAKEUP = 1 << 1

/** In the flags of the submission queue: the kernel thread sleeps. */
export const IORING_SQ_NEED_WAKEUP = 1 << 0
/** Completions wait outside the full queue: enter the kernel to have them. */
export const IORING_SQ_CQ_OVERFLOW = 1 << 1
/** Completions wait to be posted: enter the kernel to have them. */
export const IORING_SQ_TASKRUN = 1 << 2

/** In the flags of the completion queue, set by whoever wants no announcements on the eventfd for now. Linux 5.8. */
export const IORING_CQ_EVENTFD_DISABLED = 1 << 0

/** Completions are announced on an eventfd: `io_uring_register(2)`. */
export const IORING_REGISTER_EVENTFD = 4
/** They no longer are. */
export const IORING_UNREGISTER_EVENTFD = 5

/** Does nothing, and completes. */
export const IORING_OP_NOP = 0
/** `preadv2(2)`. */
export const IORING_OP_READV = 1
/** `pwritev2(2)`. */
export const IORING_OP_WRITEV = 2
/** `fsync(2)`. */
export const IORING_OP_FSYNC = 3
/** `fallocate(2)`. */
export const IORING_OP_FALLOCATE = 17
/** `pread(2)`. */
export const IORING_OP_READ = 22
/** `pwrite(2)`. */
export const IORING_OP_WRITE = 23

/** `IORING_OP_FSYNC` is `fdatasync(2)`. */
export const IORING_FSYNC_DATASYNC = 1
/** Bytes of `struct io_uring_params`. */
export const IO_URING_PARAMS_BYTES = 120
/** Bytes of `struct io_uring_sqe`, a submission queue entry. */
export const IO_URING_SQE_BYTES = 64
/** Bytes of `struct io_uring_cqe`, a completion queue entry. */
export const IO_URING_CQE_BYTES = 16

const setupC = native('int syscall(long number, unsigned int entries, uintptr_t params)')
const enterC = native('int syscall(long number, int fd, unsigned int submit, unsigned int complete, unsigned int flags, uintptr_t signals, size_t size)')
const registerC = native('int syscall(long number, int fd, unsigned int opcode, uintptr_t argument, unsigned int count)')

/** Makes a ring; `params` is the address of a `struct io_uring_params`. See `io_uring_setup(2)`. @returns its fd or a negative error number. */
export function ioUringSetup (entries: number, params: number): number {
  return orErrno(setupC()(platform().syscalls.ioUringSetup, entries, params))
}

let enterNumber = -1

/** Submits and, with IORING_ENTER_GETEVENTS, waits. See `io_uring_enter(2)`. @returns entries consumed or a negative error number. */
export function ioUringEnter (fd: number, submit: number, complete: number, flags: number): number {
  if (enterNumber < 0) enterNumber = platform().syscalls.ioUringEnter
  return orErrno(enterC()(enterNumber, fd, submit, complete, flags, 0, 0))
}

/** Registers files, buffers or an eventfd with a ring. See `io_uring_register(2)`. @returns 0 or a negative error number. */
export function ioUringRegister (fd: number, opcode: number, argument: number, count: number): number {
  return orErrno(registerC()(platform().syscalls.ioUringRegister, fd, opcode, argument, count))
}
