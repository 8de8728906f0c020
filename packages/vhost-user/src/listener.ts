import { type BigIntStats, chmodSync, closeSync, fchmodSync, lchownSync, lstatSync, unlinkSync } from 'node:fs'
import {
  accept, bindUnix, connectUnix, errno, isListening, LinuxError, listen as listenOn, setNonBlocking, unixSocket, type Watch,
  watchReadable
} from '@node-vmm/libc'
import { unlessAborted } from './aborts.ts'
import { type BackEndOptions, BackEndSession, type CloseOptions } from './back-end.ts'
import type { VhostUserDevice } from './device.ts'
import { asError, isAbandonment, VhostUserError } from './errors.ts'

/** Milliseconds before the next attempt when a connection could not be taken: descriptors or memory ran out. */
const ACCEPT_RETRY_MS = 500

/** Milliseconds that a front-end has for its first message. */
const GREETING_MS = 5000

/** Where front-ends come from, and what they are served. */
export interface ListenOptions extends BackEndOptions {
  /** The device that each front-end gets, one after the other. */
  readonly device: VhostUserDevice
  /** The socket's path, up to 107 bytes (`unix(7)`). Give this or `fd`. @default none */
  readonly path?: string
  /**
   * A unix stream socket that somebody else opened: one that listens, or one that is connected, which is served once. The
   * listener's from now on. @default none
   */
  readonly fd?: number
  /** Permissions of the socket file; whoever may write it may connect. @default 0o600 */
  readonly mode?: number
  /** Who owns the socket file, by numbers; what is absent stays this process's own. @default this process's user and group */
  readonly owner?: SocketOwner
  /** Told when a front-end's session begins. @default nobody is told */
  readonly onSession?: ((session: BackEndSession) => void) | undefined
  /** Told when it is over, and the error that ended it unless the front-end hung up. @default nobody is told */
  readonly onSessionEnd?: ((failure: Error | undefined) => void) | undefined
}

/** A user and a group, by their numbers: see `chown(2)`. */
export interface SocketOwner {
  /** @default this process's user */
  readonly uid?: number
  /** @default this process's group */
  readonly gid?: number
}

/**
 * Serves a device to front-ends that connect, one at a time: a device has one guest. A second front-end is accepted
 * when the first one's session is over; until then it waits, connected but unanswered, in the socket's backlog.
 */
export class Listener {
  /**
   * Settles when no front-end will be served any more: after `close`, after the one front-end of a connected `fd`, or
   * with the error of a device that failed to give its queues back, at all or at the end. Never rejects.
   */
  readonly closed: Promise<Error | undefined>

  readonly #options: ListenOptions
  readonly #socket: ListeningSocket | undefined
  #session: BackEndSession | undefined
  #watch: Watch | undefined
  #retry: NodeJS.Timeout | undefined
  #isClosing = false
  #settle!: (failure: Error | undefined) => void

  /** @internal */
  constructor (options: ListenOptions, socket: ListeningSocket | undefined, connected: number | undefined) {
    this.#options = options
    this.#socket = socket
    this.closed = new Promise((resolve) => { this.#settle = resolve })
    if (connected === undefined) this.#await()
    else this.#serve(connected)
  }

  /** The session of the front-end that is connected now. */
  get session (): BackEndSession | undefined {
    return this.#session
  }

  /** Tells the front-end that is connected now of a changed configuration space. @returns false when there is none, or it cannot be told */
  notifyConfigChange (): boolean {
    return this.#session?.notifyConfigChange() ?? false
  }

  /**
   * Ends the session, if there is one, with its queues drained, and removes the socket.
   *
   * @returns what `closed` settles with
   * @throws the signal's reason
   */
  close ({ signal }: CloseOptions = {}): Promise<Error | undefined> {
    this.#stopListening()
    if (this.#session === undefined) this.#settle(undefined)
    else void this.#session.close()
    return unlessAborted(() => this.closed, signal)
  }

  /** The same as `close()`, for `await using`. */
  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  #await (): void {
    this.#watch = watchReadable(this.#socket!.fd, () => this.#accept())
  }

  /** Where descriptors ran out, the watch itself cannot be had. */
  #awaitAgain (): void {
    try {
      this.#await()
    } catch (error) {
      this.#awaitLater(error)
    }
  }

  #awaitLater (reason: unknown): void {
    this.#retry = setTimeout(() => this.#awaitAgain(), ACCEPT_RETRY_MS)
    this.#options.onProblem?.(asError(reason))
  }

  #accept (): void {
    let fd: number | undefined
    try {
      fd = accept(this.#socket!.fd)
    } catch (error) {
      // The connection stays in the backlog, readable: looking again at once would be a busy loop.
      this.#watch?.close()
      return this.#awaitLater(error)
    }
    if (fd === undefined) return
    this.#watch?.close()
    this.#serve(fd)
  }

  #serve (fd: number): void {
    // Nobody else can come by a socket that was passed on connected: its front-end has all the time it wants.
    const greetingTimeout = this.#socket === undefined ? Infinity : GREETING_MS
    const session = new BackEndSession(fd, this.#options.device, { greetingTimeout, ...this.#options })
    this.#session = session
    void session.closed.then((failure) => this.#ended(failure))
    this.#options.onSession?.(session)
  }

  #ended (failure: Error | undefined): void {
    this.#session = undefined
    this.#options.onSessionEnd?.(failure)
    const isFatal = failure instanceof VhostUserError && failure.code === 'ERR_VHOST_USER_DEVICE'
    if (isFatal || this.#socket === undefined) this.#stopListening()
    if (this.#isClosing) this.#settle(isFatal || isAbandonment(failure) ? failure : undefined)
    else this.#awaitAgain()
  }

  #stopListening (): void {
    if (this.#isClosing) return
    this.#isClosing = true
    this.#watch?.close()
    clearTimeout(this.#retry)
    try {
      this.#socket?.close()
    } catch (error) {
      this.#options.onProblem?.(new Error(`the socket stays, for the next server to take over: ${asError(error).message}`, { cause: error }))
    }
  }
}

/**
 * Listens for front-ends on a path, or on a socket that was passed to this process.
 *
 * A path where a server that died left its socket is taken over. The file is never accessible to more than `mode` says,
 * not even for a moment, and nobody can connect before it is `owner`'s. It is removed at the end; where this process may
 * not do that any more, `onProblem` is told and the file stays.
 *
 * @throws VhostUserError ERR_VHOST_USER_ADDRESS when somebody listens there, a file that is no socket is there, or this
 * process may not give the socket to `owner`; LinuxError; RangeError for a path that is too long; TypeError for both a
 * path and an fd, or neither
 */
export function listen (options: ListenOptions): Listener {
  const { path, fd, mode = 0o600, owner = {} } = options
  if ((path === undefined) === (fd === undefined)) throw new TypeError('listen: give either a path or an fd')
  if (path !== undefined) return new Listener(options, ListeningSocket.bind(path, mode, owner), undefined)
  if (isListening(fd!)) return new Listener(options, ListeningSocket.inherit(fd!), undefined)
  return new Listener(options, undefined, fd)
}

/** A unix socket that listens: made for a path with its permissions and owner from the first moment, or passed on. */
export class ListeningSocket {
  /** Non-blocking; closed by {@link ListeningSocket.close}. */
  readonly fd: number
  readonly #path: string | undefined
  readonly #inode: bigint | undefined

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
   * Listens on a path, as {@link listen} does.
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
      listenOn(fd)
      return new ListeningSocket(fd, path)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }

  /**
   * Closes it and removes its file, but for one that another server has taken the path over with. Once only.
   *
   * @throws Node's error where the file cannot be removed: the socket is closed then
   */
  close (): void {
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
