import { isListening } from '@node-vmm/libc'
import { unlessAborted } from './aborts.ts'
import { type BackEndOptions, BackEndSession, type CloseOptions } from './back-end.ts'
import type { VhostUserDevice } from './device.ts'
import { asError, isAbandonment, VhostUserError } from './errors.ts'
import { ListeningSocket, type SocketOwner } from './listening-socket.ts'

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
  #isClosing = false
  #settle!: (failure: Error | undefined) => void

  /** @internal */
  constructor (options: ListenOptions, socket: ListeningSocket | undefined, connected: number | undefined) {
    this.#options = options
    this.#socket = socket
    this.closed = new Promise((resolve) => { this.#settle = resolve })
    if (connected !== undefined) this.#serve(connected)
    else socket!.accept((fd) => this.#take(fd), (error) => this.#options.onProblem?.(error))
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

  #take (fd: number): void {
    this.#socket!.pause()
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
    else this.#socket!.resume()
  }

  #stopListening (): void {
    if (this.#isClosing) return
    this.#isClosing = true
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
