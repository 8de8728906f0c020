import { platform } from './platform.ts'

/**
 * Numbers of system calls by their kernel name, on x86-64 and on arm64 (`asm/unistd.h`), for filters that name them.
 * arm64 lacks those that have only one number.
 */
const numbers = {
  // Memory.
  brk: [12, 214],
  madvise: [28, 233],
  membarrier: [324, 283],
  memfd_create: [319, 279],
  mmap: [9, 222],
  mprotect: [10, 226],
  mremap: [25, 216],
  munmap: [11, 215],
  pkey_alloc: [330, 289],
  pkey_free: [331, 290],
  pkey_mprotect: [329, 288],
  process_vm_readv: [310, 270],
  process_vm_writev: [311, 271],
  // Threads and the process.
  arch_prctl: [158],
  capget: [125, 90],
  clone: [56, 220],
  exit: [60, 93],
  exit_group: [231, 94],
  futex: [202, 98],
  getcpu: [309, 168],
  getegid: [108, 177],
  geteuid: [107, 175],
  getgid: [104, 176],
  getpid: [39, 172],
  getppid: [110, 173],
  getresgid: [120, 150],
  getresuid: [118, 148],
  getrlimit: [97, 163],
  getrusage: [98, 165],
  gettid: [186, 178],
  getuid: [102, 174],
  prctl: [157, 167],
  prlimit64: [302, 261],
  rseq: [334, 293],
  sched_get_priority_max: [146, 125],
  sched_get_priority_min: [147, 126],
  sched_getaffinity: [204, 123],
  sched_getparam: [143, 121],
  sched_getscheduler: [145, 120],
  sched_setaffinity: [203, 122],
  sched_yield: [24, 124],
  seccomp: [317, 277],
  set_robust_list: [273, 99],
  // Signals.
  restart_syscall: [219, 128],
  rt_sigaction: [13, 134],
  rt_sigprocmask: [14, 135],
  rt_sigreturn: [15, 139],
  sigaltstack: [131, 132],
  tgkill: [234, 131],
  // Time, and what the machine is.
  clock_getres: [229, 114],
  clock_gettime: [228, 113],
  clock_nanosleep: [230, 115],
  getrandom: [318, 278],
  gettimeofday: [96, 169],
  nanosleep: [35, 101],
  sysinfo: [99, 179],
  uname: [63, 160],
  // Files.
  access: [21],
  close: [3, 57],
  dup: [32, 23],
  dup3: [292, 24],
  faccessat: [269, 48],
  faccessat2: [439, 439],
  fallocate: [285, 47],
  fcntl: [72, 25],
  fdatasync: [75, 83],
  fstat: [5, 80],
  fstatfs: [138, 44],
  fsync: [74, 82],
  ftruncate: [77, 46],
  getcwd: [79, 17],
  getdents64: [217, 61],
  ioctl: [16, 29],
  lseek: [8, 62],
  lstat: [6],
  newfstatat: [262, 79],
  open: [2],
  openat: [257, 56],
  pread64: [17, 67],
  preadv: [295, 69],
  preadv2: [327, 286],
  pwrite64: [18, 68],
  pwritev: [296, 70],
  pwritev2: [328, 287],
  read: [0, 63],
  readlink: [89],
  readlinkat: [267, 78],
  readv: [19, 65],
  stat: [4],
  statfs: [137, 43],
  statx: [332, 291],
  utimensat: [280, 88],
  write: [1, 64],
  writev: [20, 66],
  // Events.
  epoll_create1: [291, 20],
  epoll_ctl: [233, 21],
  epoll_pwait: [281, 22],
  epoll_pwait2: [441, 441],
  epoll_wait: [232],
  eventfd2: [290, 19],
  pipe2: [293, 59],
  poll: [7],
  ppoll: [271, 73],
  // Sockets.
  accept4: [288, 242],
  getpeername: [52, 205],
  getsockname: [51, 204],
  getsockopt: [55, 209],
  recvmsg: [47, 212],
  sendmsg: [46, 211],
  shutdown: [48, 210],
  // Disk I/O.
  io_destroy: [207, 1],
  io_getevents: [208, 4],
  io_pgetevents: [333, 292],
  io_setup: [206, 0],
  io_submit: [209, 2],
  io_uring_enter: [426, 426],
  io_uring_register: [427, 427],
  io_uring_setup: [425, 425]
} as const satisfies Readonly<Record<string, readonly [x64: number, arm64?: number]>>

/** The kernel's name of a system call, such as `'openat'`. */
export type SyscallName = keyof typeof numbers

/** Every system call that {@link syscallNumber} knows. */
export const SYSCALL_NAMES = Object.keys(numbers) as readonly SyscallName[]

/**
 * The number of a system call on this machine, or on the one named; undefined where it has no such call.
 *
 * @param arch as `process.arch`. @default this machine's
 * @throws UnsupportedPlatformError ERR_UNSUPPORTED_PLATFORM on anything but x64 or arm64.
 */
export function syscallNumber (name: SyscallName, arch: string = process.arch): number | undefined {
  platform('linux', arch)
  const [x64, arm64]: readonly [number, number?] = numbers[name]
  return arch === 'x64' ? x64 : arm64
}
