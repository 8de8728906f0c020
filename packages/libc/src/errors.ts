import { constants } from 'node:os'
import { getSystemErrorMap } from 'node:util'

/** Error numbers by name, as `errno(3)` has them on this platform: `errno.EAGAIN === 11`. */
export const errno: Readonly<typeof constants.errno> = constants.errno

// Some numbers have two names: reversed, so that the first one wins, EAGAIN over EWOULDBLOCK as Node itself has it.
const nameOf = new Map<number, string>(Object.entries(constants.errno).reverse().map(([name, number]) => [number, name]))
const textOf = new Map<number, string>([...getSystemErrorMap()].map(([number, [, text]]) => [-number, text]))

/** The symbolic name of an error number, `'ENOENT'` for 2; `'E' + number` for one that has no name. */
export function errorName (number: number): string {
  return nameOf.get(number) ?? `E${number}`
}

/** What a failed call says beside its error number. */
export interface LinuxErrorDetail {
  /** What the call was made on: a path, a file descriptor, a size. @default not told */
  readonly subject?: string
  /** What the reader can do about it, a whole sentence. @default not told */
  readonly remedy?: string
}

/** A Linux system call failed. Same shape as Node's own system errors: `code`, `errno` and `syscall`. */
export class LinuxError extends Error {
  static override readonly name = 'LinuxError'
  override readonly name = 'LinuxError'
  /** The symbolic error name, such as `'ENOENT'`. Stable: programs may switch on it. */
  readonly code: string
  /** The error number as `errno(3)` has it: positive. */
  readonly errno: number
  /** The call that failed, such as `'open'`. */
  readonly syscall: string

  constructor (syscall: string, number: number, detail: LinuxErrorDetail = {}) {
    const code = errorName(number)
    const call = detail.subject === undefined ? syscall : `${syscall} ${detail.subject}`
    const text = textOf.get(number) ?? 'unknown error'
    super(`${call}: ${code}, ${text}${detail.remedy === undefined ? '' : `. ${detail.remedy}`}`)
    this.code = code
    this.errno = number
    this.syscall = syscall
  }
}

/** This machine lacks what the packages are made for: Linux on x86-64 or arm64. */
export class UnsupportedPlatformError extends Error {
  static override readonly name = 'UnsupportedPlatformError'
  override readonly name = 'UnsupportedPlatformError'
  /** Stable: programs may switch on it. */
  readonly code = 'ERR_UNSUPPORTED_PLATFORM'

  constructor (platform: string, arch: string) {
    super(`node-vmm makes Linux system calls on x64 and arm64: this is ${platform} on ${arch}. ` +
      'Importing the packages is safe here, using them is not.')
  }
}
