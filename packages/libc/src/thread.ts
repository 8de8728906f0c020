import { check, native, prctlC } from './library.ts'

const schedSetaffinityC = native('int sched_setaffinity(int pid, size_t size, void *mask)')
const schedGetaffinityC = native('int sched_getaffinity(int pid, size_t size, void *mask)')
const getTidC = native('int gettid()')
const CPU_SET_BYTES = 128

// linux/prctl.h
const PR_SET_TIMERSLACK = 29
const PR_GET_TIMERSLACK = 30

/** The kernel's id of the calling thread. See `gettid(2)`. */
export function threadId (): number {
  return getTidC()()
}

const CLOCK_MONOTONIC = 1
const CLOCK_THREAD_CPUTIME_ID = 3
const clockGettimeC = native('int clock_gettime(int clock, uintptr_t time)')

/**
 * The time of the clock that nobody sets, without allocating, unlike `performance.now()`. See `clock_gettime(2)`.
 *
 * @param address 16 bytes of native memory, for seconds and nanoseconds of 64 bits each.
 */
export function monotonicTime (address: number): void {
  clockGettimeC()(CLOCK_MONOTONIC, address)
}

/** How long the calling thread has been on a processor, without allocating. A system call. @param address as for {@link monotonicTime} */
export function threadTime (address: number): void {
  clockGettimeC()(CLOCK_THREAD_CPUTIME_ID, address)
}

/** Pins the calling thread to processors, by their numbers, 0 to 1023. See `sched_setaffinity(2)`. @throws LinuxError such as EINVAL when none of them exists; RangeError for what is no such number */
export function setAffinity (cpus: readonly number[]): void {
  const mask = new Uint8Array(CPU_SET_BYTES)
  for (const cpu of cpus) {
    if (!Number.isInteger(cpu) || cpu < 0 || cpu >= CPU_SET_BYTES * 8) throw new RangeError(`no processor has number ${cpu}`)
    mask[cpu >>> 3]! |= 1 << (cpu & 7)
  }
  check(schedSetaffinityC()(0, mask.length, mask), 'sched_setaffinity', () => ({ subject: `to cpus ${cpus.join(',')}` }))
}

/** The processors that the calling thread may run on. See `sched_getaffinity(2)`. @throws LinuxError */
export function getAffinity (): number[] {
  const mask = new Uint8Array(CPU_SET_BYTES)
  check(schedGetaffinityC()(0, mask.length, mask), 'sched_getaffinity')
  return Array.from({ length: CPU_SET_BYTES * 8 }, (_, cpu) => cpu).filter((cpu) => (mask[cpu >>> 3]! & (1 << (cpu & 7))) !== 0)
}

/**
 * How much later than asked for the kernel may end the waits of the calling thread, to end several at once: 50,000 nanoseconds
 * unless set. See `prctl(2)`, PR_SET_TIMERSLACK.
 *
 * @param nanoseconds at least 1; 0 is what the thread began with.
 * @throws LinuxError such as EPERM where a seccomp filter forbids it
 */
export function setTimerSlack (nanoseconds: number): void {
  check(prctlC()(PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0), 'prctl', () => ({ subject: 'PR_SET_TIMERSLACK' }))
}

/** In nanoseconds, see {@link setTimerSlack}. @throws as there */
export function getTimerSlack (): number {
  return check(prctlC()(PR_GET_TIMERSLACK, 0, 0, 0, 0), 'prctl', () => ({ subject: 'PR_GET_TIMERSLACK' }))
}
