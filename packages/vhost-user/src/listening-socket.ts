import { type BigIntStats, chmodSync, closeSync, fchmodSync, lchownSync, lstatSync, unlinkSync } from 'node:fs'
import {
  accept, bindUnix, connectUnix, errno, LinuxError, listen, setNonBlocking, unixSocket, type Watch, watchReadable
} from '@node-vmm/libc'
import { asError, VhostUserError } from './errors.ts'

/** Milliseconds before the next attempt when a connection could not be taken: descriptors or memory ran out. */
const RETRY_MILLISECONDS = 500

/** A user and a group, by their numbers: see `chown(2)`. */
export interface SocketOwner {
  /** @default this process's user */
  readonly uid?: number
  /** @default this process's group */
  readonly gid?: number
}

/**
 * A unix socket that listens: made for a path with its permissions and owner from the first moment, or passed on. It takes
 * connections from Node's event loop, and outlives times in which descriptors or memory run out.
 */
export class ListeningSocket {
  /** Non-blocking; closed by {@link ListeningSocket.close}. */
  readonly fd: number
  readonly #path: string | undefined
  readonly #inode: bigint | undefined
  #take: (fd: number) => void = closeSync
  #onProblem: (error: Error) => void = () => {}
  #watch: Watch | undefined
  #retry: NodeJS.Timeout | undefined

  private constructor (fd: number, path?: string) {
    this.fd = fd
    this.#path = path
    this.#inode = path === undefined ? undefined : status(path)?.ino
  }

  /** Takes over a socket that listens already: closed at the end, and its file stays. @throws LinuxError */
  static inherit (fd: number): ListeningSocket {
    setNonBlocking(fd)
    return new ListeningSocket(fd)
  }

  /**
   * Listens on a path. One where a server that died left its socket is taken over.
   *
   * @param path up to 107 bytes
   * @param mode permissions of the file. @default 0o600
   * @param owner of the file. @default this process's user and group
   * @throws VhostUserError ERR_VHOST_USER_ADDRESS; LinuxError; RangeError for a path that is too long
   */
  static bind (path: string, mode = 0o600, owner: SocketOwner = {}): ListeningSocket {
    const fd = unixSocket({ nonBlocking: true })
    try {
      // On Linux the file gets the mode of the socket, less the umask: it is right from its first moment.
      fchmodSync(fd, mode)
      bindOrReplace(fd, path)
      if (Number(status(path)!.mode & 0o777n) !== mode) chmodSync(path, mode)
      giveTo(path, owner)
      // Until here, whoever connects is refused.
      listen(fd)
      return new ListeningSocket(fd, path)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }

  /**
   * Takes connections from now on, until it is paused or closed. Once only.
   *
   * @param take has each connection, blocking, from then on
   * @param onProblem is told why one could not be taken: it is tried again half a second later. @default nobody is told
   * @throws LinuxError where the socket cannot be watched
   */
  accept (take: (fd: number) => void, onProblem: (error: Error) => void = () => {}): void {
    this.#take = take
    this.#onProblem = onProblem
    this.#await()
  }

  /** Takes no connection until `resume`: who connects waits, in the backlog. No effect when paused. */
  pause (): void {
    this.#watch?.close()
    this.#watch = undefined
    clearTimeout(this.#retry)
  }

  /** Takes connections again after `pause`. No effect when it does. */
  resume (): void {
    if (this.#watch !== undefined) return
    try {
      this.#await()
    } catch (error) {
      // Where descriptors ran out, the watch itself cannot be had.
      this.#later(error)
    }
  }

  #await (): void {
    this.#watch = watchReadable(this.fd, () => this.#accept())
  }

  #accept (): void {
    let fd: number | undefined
    try {
      fd = accept(this.fd)
    } catch (error) {
      // The connection stays in the backlog, readable: looking again at once would be a busy loop.
      return this.#later(error)
    }
    if (fd !== undefined) this.#take(fd)
  }

  #later (reason: unknown): void {
    this.pause()
    this.#retry = setTimeout(() => this.resume(), RETRY_MILLISECONDS)
    this.#onProblem(asError(reason))
  }

  /**
   * Closes it and removes its file, but for one that another server has taken the path over with. Once only.
   *
   * @throws Node's error where the file cannot be removed: the socket is closed then
   */
  close (): void {
    this.pause()
    closeSync(this.fd)
    if (this.#path === undefined) return
    if (status(this.#path)?.ino === this.#inode) remove(this.#path)
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }
}

function giveTo (path: string, { uid = -1, gid = -1 }: SocketOwner): void {
  if (uid === -1 && gid === -1) return
  try {
    lchownSync(path, uid, gid)
  } catch (error) {
    remove(path)
    const to = [...(uid === -1 ? [] : [`user ${uid}`]), ...(gid === -1 ? [] : [`group ${gid}`])].join(' and ')
    throw new VhostUserError('ERR_VHOST_USER_ADDRESS', `${path} cannot be given to ${to}: ${asError(error).message}. ` +
      'Only root may give files away; a user may choose among the groups that it is in.', { cause: error })
  }
}

function bindOrReplace (fd: number, path: string): void {
  try {
    bindUnix(fd, path)
  } catch (error) {
    if (!(error instanceof LinuxError) || error.errno !== errno.EADDRINUSE) throw error
    expectStale(path)
    remove(path)
    bindUnix(fd, path)
  }
}

// Bigints, and no rmSync (which looks too): after a plain stat of a socket, Node 20 stops short of following symbolic
// links to packages (fs.realpathSync takes the last stat for its own), and the program's next `require` may fail.
function status (path: string): BigIntStats | undefined {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false })
}

function remove (path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

function expectStale (path: string): void {
  if (status(path)?.isSocket() === false) {
    throw new VhostUserError('ERR_VHOST_USER_ADDRESS', `${path} is no socket: it is left as it is. Choose another path, or remove the file.`)
  }
  const probe = unixSocket({ nonBlocking: true })
  try {
    connectUnix(probe, path)
  } catch (error) {
    if (error instanceof LinuxError && (error.errno === errno.ECONNREFUSED || error.errno === errno.ENOENT)) return
    // EAGAIN: a full backlog has somebody behind it.
    if (!(error instanceof LinuxError) || error.errno !== errno.EAGAIN) throw error
  } finally {
    closeSync(probe)
  }
  throw new VhostUserError('ERR_VHOST_USER_ADDRESS', `somebody listens on ${path} already. Stop that server, or choose another path.`)
}
