import { createRequire } from 'node:module'
import type { LibraryHandle } from 'koffi'
import { LinuxError, type LinuxErrorDetail } from './errors.ts'
import { platform } from './platform.ts'

type Koffi = typeof import('koffi')
type Native = ((...args: any[]) => any) & { readonly async: (...args: any[]) => void }

let loaded: { readonly koffi: Koffi, readonly libc: LibraryHandle } | undefined

// Loading is left to the first call, so that importing a package costs nothing and works on any platform.
function load (): NonNullable<typeof loaded> {
  if (loaded === undefined) {
    platform()
    const koffi = createRequire(import.meta.url)('koffi') as Koffi
    loaded = { koffi, libc: koffi.load('libc.so.6') }
  }
  return loaded
}

/** koffi itself, loaded at first use. */
export function koffi (): Koffi {
  return load().koffi
}

/** A C function by its prototype, bound at its first call. */
export function native (prototype: string): () => Native {
  let bound: Native | undefined
  return () => (bound ??= load().libc.func(prototype) as Native)
}

/** The error number of this thread's last failed call. Read it at once: any other call may change it. */
export function lastErrno (): number {
  return load().koffi.errno()
}

/** A call's result, or its error thrown. */
export function check (result: number, syscall: string, detail?: () => LinuxErrorDetail): number {
  if (result >= 0) return result
  const number = lastErrno()
  throw new LinuxError(syscall, number, detail?.())
}

/** A call's result, or its negative error number: the kernel's own convention, for calls that must not throw. */
export function orErrno (result: number): number {
  return result >= 0 ? result : -lastErrno()
}

/** `prctl(2)`, of which several files make something. */
export const prctlC = native('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)')
