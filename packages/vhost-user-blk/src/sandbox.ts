import {
  assembleFilter, dropBoundingSet, dropCapabilities, installFilter, landlockVersion, restrictToReading, O_ACCMODE, setDumpable, setNoNewPrivileges,
  type SyscallRule
} from '@node-vmm/libc'
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { Account } from './users.ts'

/** A process cannot give up what it should, or cannot go on without it; the message says what, why, and what to do. */
export class SandboxError extends Error {
  static override readonly name = 'SandboxError'
  override readonly name = 'SandboxError'
  /** Stable: programs may switch on it. */
  readonly code = 'ERR_SANDBOX'
}

/** What a sandbox leaves. */
export interface SandboxOptions {
  /** Go on where the host does not have all of it: see `Sandbox.missing`. @default false */
  readonly bestEffort?: boolean
  /**
   * Leave io_uring. Its operations are made by the kernel and never filtered: whoever controls the process can open files
   * and sockets through it. @default false
   */
  readonly ioUring?: boolean
  /** Files and folders that data-plane threads read beside this package's code: those of an engine of one's own. @default none */
  readonly readable?: readonly string[]
}

/** What came of it. */
export interface Sandbox {
  /**
   * Who can open nothing but the program's own code, `/proc` and `/sys` (Landlock): all threads; those that began
   * afterwards, the data-plane threads among them (before Linux 7.0); or none (a kernel without Landlock).
   */
  readonly pathsRestricted: 'all' | 'new' | 'none'
  /**
   * Which io_uring is left, whose operations are not filtered: none; those that Node's event loops have by then (Node 22
   * on Linux 6.6 or later, unless the host forbids them), no new ones; or any, as asked for.
   */
  readonly ioUring: 'none' | 'node' | 'any'
  /** What the host does not have, and why: empty but for `bestEffort`. */
  readonly missing: readonly string[]
}

const O_CREAT = 0o100
const O_TRUNC = 0o1000
const CLONE_THREAD = 0x10000
const [FIONBIO, FIOCLEX, FIONREAD, TCGETS, TIOCGWINSZ, BLKDISCARD] = [0x5421, 0x5451, 0x541b, 0x5401, 0x5413, 0x1277]
const [PR_SET_NAME, PR_GET_NAME, PR_SET_TIMERSLACK, PR_SET_VMA] = [15, 16, 29, 0x53564d41]

const IO_URING_CALLS: readonly SyscallRule[] = ['io_uring_enter', 'io_uring_register', 'io_uring_setup']

// What Node and the server call once they serve, on either processor, as `strace` shows it, with their near relatives
// that other C libraries choose. Nothing here starts a program, makes a socket, or changes anything by its path.
function rules (pid: number): readonly SyscallRule[] {
  const onlyReading = (flags: 1 | 2) => [{ argument: flags, mask: O_ACCMODE | O_CREAT | O_TRUNC, values: [0] }] as const
  return [
    // The hot path: polling, requests, notifications.
    'epoll_wait', 'epoll_pwait', 'epoll_pwait2', 'epoll_ctl', 'epoll_create1', 'eventfd2', 'read', 'write', 'futex',
    'io_submit', 'io_getevents', 'io_pgetevents', 'io_setup', 'io_destroy', 'preadv', 'pwritev', 'preadv2', 'pwritev2',
    'pread64', 'pwrite64', 'readv', 'writev', 'fsync', 'fdatasync', 'fallocate', 'ftruncate', 'lseek',
    // An image in memory: copies within this process alone, and the time of the open file.
    { call: 'process_vm_readv', tests: [{ argument: 0, values: [pid] }] },
    { call: 'process_vm_writev', tests: [{ argument: 0, values: [pid] }] },
    { call: 'utimensat', tests: [{ argument: 1, values: [0] }, { argument: 1, high: true, values: [0] }] },
    // The front-end: what the listening socket and the sessions take. The region for requests in flight is a memfd.
    'accept4', 'recvmsg', 'sendmsg', 'shutdown', 'getsockopt', 'getsockname', 'getpeername', 'memfd_create',
    // Memory, of which V8 makes some executable: it compiles.
    'brk', 'mmap', 'munmap', 'mprotect', 'mremap', 'madvise', 'membarrier', 'pkey_alloc', 'pkey_free', 'pkey_mprotect',
    // Threads, but no processes. clone3, whose flags are out of a filter's sight, is absent: C libraries fall back to this.
    { call: 'clone', tests: [{ argument: 0, mask: CLONE_THREAD, values: [CLONE_THREAD] }] },
    'arch_prctl', 'exit', 'exit_group', 'rseq', 'set_robust_list', 'sched_yield', 'sched_getaffinity', 'sched_setaffinity',
    'sched_getparam', 'sched_getscheduler', 'sched_get_priority_max', 'sched_get_priority_min',
    { call: 'prctl', tests: [{ argument: 0, values: [PR_SET_NAME, PR_GET_NAME, PR_SET_TIMERSLACK, PR_SET_VMA] }] },
    // Signals to itself: abort().
    { call: 'tgkill', tests: [{ argument: 0, values: [pid] }] },
    'restart_syscall', 'rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'sigaltstack',
    // Files are opened to be read: each data-plane thread loads its code anew, and a block device's size is in /sys.
    { call: 'open', tests: onlyReading(1) },
    { call: 'openat', tests: onlyReading(2) },
    'close', 'dup', 'dup3', 'fcntl', 'pipe2', 'poll', 'ppoll', 'stat', 'fstat', 'lstat', 'newfstatat', 'statx', 'statfs',
    'fstatfs', 'access', 'faccessat', 'faccessat2', 'readlink', 'readlinkat', 'getcwd', 'getdents64',
    // Neither what types into a terminal nor what changes a device.
    { call: 'ioctl', tests: [{ argument: 1, values: [FIONBIO, FIOCLEX, FIONREAD, TCGETS, TIOCGWINSZ, BLKDISCARD] }] },
    // What it is, and where. Limits may be read, its own.
    'capget', 'clock_getres', 'clock_gettime', 'clock_nanosleep', 'getcpu', 'getegid', 'geteuid', 'getgid', 'getpid',
    'getppid', 'getrandom', 'getresgid', 'getresuid', 'getrlimit', 'getrusage', 'gettid', 'gettimeofday', 'getuid',
    'nanosleep', 'sysinfo', 'uname',
    { call: 'prlimit64', tests: [{ argument: 0, values: [0, pid] }, { argument: 2, values: [0] }, { argument: 2, high: true, values: [0] }] }
  ]
}

/**
 * Gives up, for this whole process and for ever, what a server does not need once it listens and has its image open:
 * privileges, all system calls but some, paths, core dumps. What is open stays open. Call it when nothing else is to
 * be opened for writing, and no program to be run, by anybody in this process.
 *
 * All but the last step happen before this returns, so that no guest is served in between. The last one tries whether a
 * new data-plane thread can still start.
 *
 * @throws SandboxError ERR_SANDBOX when that cannot be had, or data-plane threads could not start any more
 */
export async function enterSandbox ({ bestEffort = false, ioUring = false, readable = [] }: SandboxOptions = {}): Promise<Sandbox> {
  const missing: string[] = []
  const miss = (what: string, reason: string): void => {
    if (!bestEffort) throw new SandboxError(`the sandbox lacks ${what}: ${reason}. Ask for the best effort to go on without.`)
    missing.push(`${what}: ${reason}`)
  }
  const attempt = (what: string, action: () => void): void => {
    try {
      action()
    } catch (error) {
      miss(what, (error as Error).message)
    }
  }
  // First, so that what is refused has changed nothing.
  const capable = threads(/^CapPrm:\t0+\nCapEff:\t0+$/m)
  if (capable !== undefined) {
    miss('the drop of capabilities', `${capable} have some, and can only give them up themselves. Start it as a user without any, or have it become one, ` +
      'which takes them from all')
  }
  let pathsRestricted: Sandbox['pathsRestricted'] = 'none'
  const rings = openRings()
  const ioUringRules: readonly SyscallRule[] = ioUring
    ? IO_URING_CALLS
    : rings.length === 0 ? [] : [{ call: 'io_uring_enter', tests: [{ argument: 0, values: rings }] }]
  attempt('the drop of capabilities', dropCapabilities)
  attempt('no_new_privs', setNoNewPrivileges)
  attempt('the ban on core dumps', () => setDumpable(false))
  if (landlockVersion() > 0) attempt('the restriction of paths', () => { pathsRestricted = restrictToReading([...codePaths(), ...readable]) })
  attempt('the filter of system calls', () => installFilter(assembleFilter([...rules(process.pid), ...ioUringRules])))
  // What the kernel says of each thread, rather than what the calls have promised.
  const unfiltered = threads(/^NoNewPrivs:\t1\nSeccomp:\t2$/m)
  if (unfiltered !== undefined) miss('the filter of system calls', `${unfiltered} are not held by it`)
  await startThread()
  return { pathsRestricted, ioUring: ioUring ? 'any' : rings.length === 0 ? 'none' : 'node', missing }
}

/**
 * Becomes another user, in all threads, without any of this one's groups, and thereby without capabilities.
 *
 * @throws SandboxError ERR_SANDBOX when this process may not
 */
export function becomeUser ({ uid, gid, primaryGid }: Account): void {
  const group = gid ?? primaryGid
  if (group === undefined) throw new SandboxError(`user ${uid} is not in /etc/passwd: say which group, as ${uid}:GROUP`)
  if (process.getuid!() === uid && process.getgid!() === group) return
  try {
    // While it still may; what else it is capable of ends with the user.
    dropBoundingSet()
    process.setgroups!([])
    process.setgid!(group)
    process.setuid!(uid)
  } catch (error) {
    throw new SandboxError(`cannot become user ${uid} with group ${group}: ${(error as Error).message}. Only root may.`, { cause: error })
  }
}

/** What new threads read: the code of this package and of all that it depends on, and what Node and koffi look at. */
function codePaths (): string[] {
  return [...packageFolders(fileURLToPath(new URL('..', import.meta.url))), process.execPath, '/dev/zero', '/proc', '/sys']
}

function packageFolders (folder: string, found = new Set<string>()): Set<string> {
  if (found.has(folder)) return found
  found.add(folder)
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
    const installed = installedFolder(name, folder)
    if (installed !== undefined) packageFolders(installed, found)
  }
  return found
}

// As Node looks for packages. One that is optional may be absent.
function installedFolder (name: string, from: string): string | undefined {
  for (let folder = from; ; folder = dirname(folder)) {
    const path = join(folder, 'node_modules', name)
    if (existsSync(path)) return realpathSync.native(path)
    if (folder === dirname(folder)) return undefined
  }
}

// Without its ring, an event loop that has one ends the process.
function openRings (): number[] {
  const isRing = (fd: string): boolean => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[io_uring]'
    } catch {
      // The descriptor of this very list, by now closed.
      return false
    }
  }
  return readdirSync('/proc/self/fd').filter(isRing).map(Number)
}

/** Those whose `/proc/self/task/N/status` is not as expected, told in words; undefined when all are. */
function threads (expected: RegExp): string | undefined {
  const all = readdirSync('/proc/self/task')
  const others = all.filter((id) => !expected.test(readFileSync(`/proc/self/task/${id}/status`, 'utf8')))
  return others.length === 0 ? undefined : `${others.length} of ${all.length} threads`
}

// Better now than when a guest connects: the user may not be allowed to read the code, or this version of Node may make
// a system call that no other has made.
async function startThread (): Promise<void> {
  const modules = ['@node-vmm/virtio-blk-dataplane', '@node-vmm/libc'].map((name) => `import(${JSON.stringify(import.meta.resolve(name))})`)
  const worker = new Worker(`Promise.all([${modules.join()}]).then(([, { close, eventfd }]) => close(eventfd()))`, { eval: true })
  try {
    await new Promise<void>((resolve, reject) => {
      worker.once('error', reject)
      worker.once('exit', () => resolve())
    })
  } catch (error) {
    throw new SandboxError(`no data-plane thread can start in the sandbox: ${(error as Error).message}. ` +
      'Its user must be able to read the code of this program, and Node; what is loaded besides has to be named as readable.', { cause: error })
  }
}
