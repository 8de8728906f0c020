import { connectUnix, sendMessage, unixDatagramSocket } from '@node-vmm/libc'

/** A socket that systemd made and passed on. */
export interface PassedSocket {
  readonly fd: number
  /** The unit's `FileDescriptorName=`, or the name of the unit. */
  readonly name: string
}

/** The first descriptor that is passed on: see `sd_listen_fds(3)`. */
const LISTEN_FDS_START = 3
const LISTEN_FDS_MAX = 1024

/**
 * The sockets that systemd has passed to this process, by the variables LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, which
 * are removed: they are not for the processes that this one starts. See `sd_listen_fds(3)`.
 */
export function takePassedSockets (environment: NodeJS.ProcessEnv = process.env, pid = process.pid): PassedSocket[] {
  const { LISTEN_PID, LISTEN_FDS = '', LISTEN_FDNAMES } = environment
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete environment[name]
  const count = Number(LISTEN_FDS)
  if (LISTEN_PID !== String(pid) || !(Number.isInteger(count) && count > 0 && count <= LISTEN_FDS_MAX)) return []
  const names = LISTEN_FDNAMES?.split(':') ?? []
  return Array.from({ length: count }, (_, index) => ({ fd: LISTEN_FDS_START + index, name: names[index] ?? 'unknown' }))
}

/** Tells systemd how the service is: see `sd_notify(3)`. */
export class Notifier {
  readonly #fd: number

  private constructor (fd: number) {
    this.#fd = fd
  }

  /**
   * Connects to the socket that NOTIFY_SOCKET names, if there is one.
   *
   * @throws LinuxError where nobody listens; RangeError for a name that cannot be one
   */
  static connect (address: string | undefined = process.env.NOTIFY_SOCKET): Notifier | undefined {
    if (address === undefined || address === '') return undefined
    const fd = unixDatagramSocket()
    connectUnix(fd, address.startsWith('@') ? `\0${address.slice(1)}` : address)
    return new Notifier(fd)
  }

  /**
   * Sends assignments such as `READY: '1'`, as one message.
   *
   * @throws LinuxError where nobody listens any more
   */
  notify (assignments: Readonly<Record<string, string>>): void {
    sendMessage(this.#fd, Buffer.from(Object.entries(assignments).map(([name, value]) => `${name}=${value}`).join('\n')))
  }
}
