import { UnsupportedPlatformError } from './errors.ts'

/** What differs between the processors that Linux runs on. */
export interface Platform {
  /** Numbers of the calls that the C library has no function for (`asm/unistd.h`). */
  readonly syscalls: {
    /** `io_setup(2)`. */
    readonly ioSetup: number
    /** `io_destroy(2)`. */
    readonly ioDestroy: number
    /** `io_submit(2)`. */
    readonly ioSubmit: number
    /** `io_getevents(2)`. */
    readonly ioGetevents: number
    /** `io_uring_setup(2)`. */
    readonly ioUringSetup: number
    /** `io_uring_enter(2)`. */
    readonly ioUringEnter: number
    /** `io_uring_register(2)`. */
    readonly ioUringRegister: number
    /** `epoll_pwait2(2)`. */
    readonly epollPwait2: number
  }
  /** Bytes of `struct epoll_event`: packed on x86-64 only (`linux/eventpoll.h`). */
  readonly epollEventBytes: number
  /** Where the 64-bit `data` stands in `struct epoll_event`, in bytes. */
  readonly epollDataOffset: number
}

/** Numbers since Linux 5.1 are the same everywhere. */
const newer = { ioUringSetup: 425, ioUringEnter: 426, ioUringRegister: 427, epollPwait2: 441 }

const platforms: Readonly<Record<string, Platform>> = {
  x64: {
    syscalls: { ioSetup: 206, ioDestroy: 207, ioGetevents: 208, ioSubmit: 209, ...newer },
    epollEventBytes: 12,
    epollDataOffset: 4
  },
  arm64: {
    syscalls: { ioSetup: 0, ioDestroy: 1, ioSubmit: 2, ioGetevents: 4, ...newer },
    epollEventBytes: 16,
    epollDataOffset: 8
  }
}

/**
 * The layouts and numbers of this machine, or of the one named.
 *
 * @param os as `process.platform`. @default this machine's
 * @param arch as `process.arch`. @default this machine's
 * @throws UnsupportedPlatformError ERR_UNSUPPORTED_PLATFORM on anything but Linux on x64 or arm64.
 */
export function platform (os: string = process.platform, arch: string = process.arch): Platform {
  const found = os === 'linux' ? platforms[arch] : undefined
  if (found === undefined) throw new UnsupportedPlatformError(os, arch)
  return found
}
