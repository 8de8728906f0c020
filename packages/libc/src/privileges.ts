import { check, native, prctlC } from './library.ts'

// linux/prctl.h
const PR_GET_DUMPABLE = 3
const PR_SET_DUMPABLE = 4
const PR_CAPBSET_READ = 23
const PR_CAPBSET_DROP = 24
const PR_SET_NO_NEW_PRIVS = 38
const PR_GET_NO_NEW_PRIVS = 39
const PR_CAP_AMBIENT = 47
const PR_CAP_AMBIENT_CLEAR_ALL = 4
/** linux/capability.h: capability sets of 64 bits, in two halves. */
const LINUX_CAPABILITY_VERSION_3 = 0x20080522

const capsetC = native('int capset(void *header, void *sets)')

/**
 * From now on no program that the calling thread starts, nor a thread, can have more rights than it has itself; this
 * cannot be undone. See `prctl(2)`, PR_SET_NO_NEW_PRIVS.
 *
 * @throws LinuxError
 */
export function setNoNewPrivileges (): void {
  check(prctlC()(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 'prctl', () => ({ subject: 'PR_SET_NO_NEW_PRIVS' }))
}

/** Whether the calling thread can gain no rights. See `prctl(2)`, PR_GET_NO_NEW_PRIVS. */
export function hasNoNewPrivileges (): boolean {
  return prctlC()(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) === 1
}

/**
 * Whether this process may leave a core dump, and be looked into by others of its user (`ptrace(2)`, `/proc/pid/mem`).
 * See `prctl(2)`, PR_SET_DUMPABLE.
 *
 * @throws LinuxError
 */
export function setDumpable (dumpable: boolean): void {
  check(prctlC()(PR_SET_DUMPABLE, Number(dumpable), 0, 0, 0), 'prctl', () => ({ subject: 'PR_SET_DUMPABLE' }))
}

/** See {@link setDumpable}. */
export function isDumpable (): boolean {
  return prctlC()(PR_GET_DUMPABLE, 0, 0, 0, 0) !== 0
}

/**
 * No program that the calling thread starts, nor a thread, can have a capability any more, whatever stands in its file:
 * the bounding set. Without CAP_SETPCAP nothing happens. See `capabilities(7)`.
 */
export function dropBoundingSet (): void {
  // What is above the last one that the kernel has is an error.
  for (let capability = 0; prctlC()(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) prctlC()(PR_CAPBSET_DROP, capability, 0, 0, 0)
}

/**
 * Gives up all capabilities of the calling thread, and of those that it starts from now on: effective, permitted,
 * inheritable, ambient and, as far as it may, the bounding set. Other threads keep theirs: capabilities belong to
 * threads, and only a change of user (`process.setuid`) reaches all of them. See `capabilities(7)`.
 *
 * @throws LinuxError
 */
export function dropCapabilities (): void {
  dropBoundingSet()
  // Where the kernel has none (before Linux 4.3) there is nothing to clear.
  prctlC()(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
  check(capsetC()(Uint32Array.of(LINUX_CAPABILITY_VERSION_3, 0), new Uint32Array(6)), 'capset')
}
