import { native, orErrno } from './library.ts'
import { platform } from './platform.ts'

// linux/io_uring.h
export const IORING_OFF_SQ_RING = 0
export const IORING_OFF_CQ_RING = 0x8000000
export const IORING_OFF_SQES = 0x10000000

export const IORING_SETUP_IOPOLL = 1 << 0
export const IORING_SETUP_SQPOLL = 1 << 1
export const IORING_SETUP_CQSIZE = 1 << 3
export const IORING_SETUP_CLAMP = 1 << 4
export const IORING_SETUP_R_DISABLED = 1 << 6
export const IORING_SETUP_COOP_TASKRUN = 1 << 8
export const IORING_SETUP_TASKRUN_FLAG = 1 << 9
export const IORING_SETUP_SINGLE_ISSUER = 1 << 12
export const IORING_SETUP_DEFER_TASKRUN = 1 << 13

export const IORING_FEAT_SINGLE_MMAP = 1 << 0
export const IORING_FEAT_NODROP = 1 << 1
export const IORING_FEAT_SUBMIT_STABLE = 1 << 2
export const IORING_FEAT_RW_CUR_POS = 1 << 3

export const IORING_ENTER_GETEVENTS = 1 << 0
export const IORING_ENTER_SQ_WAKEUP = 1 << 1

export const IORING_SQ_NEED_WAKEUP = 1 << 0
export const IORING_SQ_CQ_OVERFLOW = 1 << 1
export const IORING_SQ_TASKRUN = 1 << 2

export const IORING_REGISTER_EVENTFD = 4
export const IORING_UNREGISTER_EVENTFD = 5

export const IORING_OP_NOP = 0
export const IORING_OP_READV = 1
export const IORING_OP_WRITEV = 2
export const IORING_OP_FSYNC = 3
export const IORING_OP_FALLOCATE = 17
export const IORING_OP_READ = 22
export const IORING_OP_WRITE = 23

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
