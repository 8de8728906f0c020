import { type CloseOptions, listen, type Listener, type SocketOwner, VhostUserError } from '@node-vmm/vhost-user'
import { DataPlane, type DataPlaneOptions } from '@node-vmm/virtio-blk-dataplane'
import { BlockDevice } from './block-device.ts'
import { limited } from './limited-log.ts'

/** A guest can break its rings again and again: only so many times a session it is told. */
const FAULTS_TOLD_MAX = 32

/** A disk, how to serve it, and where front-ends connect: give `socketPath` or `fd`. */
export interface ServeOptions extends Omit<DataPlaneOptions, 'dataPlane' | 'scsi' | 'onFault' | 'onDeath'> {
  /** Path of the unix socket to listen on, up to 107 bytes (`unix(7)`). @default none: `fd` is given */
  readonly socketPath?: string
  /** Permissions of that socket, from its first moment: whoever may write to it has the disk. @default 0o600 */
  readonly socketMode?: number
  /** Who owns that socket, before anybody can connect. @default this process's user and group */
  readonly socketOwner?: SocketOwner
  /**
   * A unix socket that this process was given: a listening one, or a connected one, which is served once. The server's
   * from now on: closed at the end. @default none: `socketPath` is given
   */
  readonly fd?: number
  /**
   * Receives what an operator should know: a slower engine than the best, a session's begin and end, a refused message,
   * a broken ring, a failure of a disk of your own. 128 lines may come at once, then one in ten seconds: no guest and no front-end fills a disk with them.
   * @default nobody is told
   */
  readonly log?: (line: string) => void
  /** A front-end has connected. @default nobody is told */
  readonly onSession?: () => void
  /** Receives a line for each vhost-user message. @default none, at no cost */
  readonly traceMessages?: (line: string) => void
  /**
   * Threads begin when a front-end connects, but not before this is fulfilled: when a sandbox is to hold them, once it does. The
   * first ring of a guest has them begin in any case. @default at once
   */
  readonly prepareAfter?: Promise<unknown>
  /** Gives the start up, with the signal's reason, once the disk is open and can be closed again. @default never */
  readonly signal?: AbortSignal
}

/** A disk that is being served. */
export interface Server {
  /** The disk: to be paused, drained, looked at. It is closed with the server. */
  readonly plane: DataPlane
  /** What front-ends connect to. It is closed with the server. */
  readonly listener: Listener
  /** Front-ends that have connected so far. */
  readonly sessions: number
  /** Settles when no front-end will be served any more; with the error, unless that was as wanted. */
  readonly closed: Promise<Error | undefined>
  /**
   * Cuts or extends the image, or takes over the size that it has by now, and tells the guest.
   *
   * @param bytes as for `DataPlane.resize`. @default what the file, device or disk has
   * @throws as `DataPlane.resize`
   */
  resize (bytes?: number): Promise<void>
  /**
   * Ends the session, drained, removes the socket and gives the image back, or closes the disk. No effect when closed.
   *
   * @throws VhostUserError ERR_VHOST_USER_ABANDONED when requests did not end within `stopTimeout`: it is closed all the
   * same, but for the image, which stays open and locked until the process ends; the signal's reason: the close goes on
   */
  close (options?: CloseOptions): Promise<void>
  /** The same as `close()`, for `await using`. */
  [Symbol.asyncDispose] (): Promise<void>
}

/**
 * Serves a disk, a raw image or one of your own, to vhost-user front-ends, one after the other: from a data-plane thread, or
 * from this one where your own disk is an object of it.
 *
 * @throws DataPlaneError, VhostUserError ERR_VHOST_USER_ADDRESS or LinuxError, each with its remedy; TypeError for both a
 * `socketPath` and an `fd`, or neither; the signal's reason. Nothing is left open then
 */
export async function serve (options: ServeOptions): Promise<Server> {
  const { socketPath, socketMode, socketOwner, fd, traceMessages, onProblem, onSession, prepareAfter, signal, ...disk } = options
  signal?.throwIfAborted()
  const log = limited(options.log ?? (() => {}))
  let fatal: (error: Error) => void = () => {}
  const died = new Promise<Error>((resolve) => { fatal = resolve })
  let faults = 0
  let sessions = 0
  let closing = false
  const plane = await DataPlane.open({
    ...disk,
    onProblem: (problem) => {
      log(problem.message)
      onProblem?.(problem)
    },
    onFault: (queue, fault) => {
      if (faults++ < FAULTS_TOLD_MAX) log(`queue ${queue} is broken until the guest resets it: ${fault.message}`)
    },
    onDeath: (error) => fatal(error)
  })
  for (const { engine, reason } of plane.engine.rejected) log(`using ${plane.engine.name}, not ${engine}: ${reason}`)
  let listener: Listener
  try {
    signal?.throwIfAborted()
    listener = listen({
      device: new BlockDevice(plane),
      ...(socketPath !== undefined && { path: socketPath }),
      ...(socketMode !== undefined && { mode: socketMode }),
      ...(socketOwner !== undefined && { owner: socketOwner }),
      ...(fd !== undefined && { fd }),
      onProblem: (problem) => log(problem.message),
      onSession: () => {
        faults = 0
        sessions++
        log('a front-end connected')
        onSession?.()
        // Until the guest's driver has found its disk, its threads have begun. A plane that is being closed needs none.
        Promise.resolve(prepareAfter).then(() => plane.prepare()).catch(() => {})
      },
      onSessionEnd: (failure) => log(`the session ended: ${failure?.message ?? (closing ? 'the server closes' : 'the front-end hung up')}`),
      ...(traceMessages !== undefined && {
        onMessage: (direction, name, size, fds) => {
          // Requests are told a little late: those before the message come before it.
          plane.collectTrace()
          traceMessages(`vhost_user_message direction=${direction} request=${name} size=${size} fds=${fds}`)
        }
      })
    })
  } catch (error) {
    await plane.close()
    throw error
  }
  const giveBack = async (): Promise<void> => {
    const failure = await listener.closed
    await plane.close()
    if (failure instanceof VhostUserError && failure.code === 'ERR_VHOST_USER_ABANDONED') throw failure
  }
  let closed: Promise<void> | undefined
  const close = async (wait?: CloseOptions): Promise<void> => {
    closing = true
    const listenerClosed = listener.close(wait)
    closed ??= giveBack()
    await Promise.all([listenerClosed, closed])
  }
  return {
    plane,
    listener,
    get sessions () { return sessions },
    closed: Promise.race([listener.closed, died]),
    resize: async (bytes) => {
      await plane.resize(bytes)
      listener.notifyConfigChange()
    },
    close,
    [Symbol.asyncDispose]: () => close()
  }
}
