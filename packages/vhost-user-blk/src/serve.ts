import { listen, type Listener } from '@node-vmm/vhost-user'
import { DataPlane, type DataPlaneOptions } from '@node-vmm/virtio-blk-dataplane'
import { BlockDevice } from './block-device.ts'

/** A guest can break its rings again and again: only so many times a session it is told. */
const FAULTS_TOLD_MAX = 32

/** A disk, how to serve it, and where front-ends connect: give `socketPath` or `fd`. */
export interface ServeOptions extends Omit<DataPlaneOptions, 'dataPlane' | 'scsi' | 'onFault' | 'onDeath'> {
  /** Path of the unix socket to listen on, created with mode 0600. */
  readonly socketPath?: string
  /**
   * A unix socket that this process was given: a listening one, or a connected one, which is served once. The server's
   * from now on: closed at the end.
   */
  readonly fd?: number
  /**
   * Receives what an operator should know: a slower engine than the best, a session's begin and end, a refused message,
   * a broken ring. @default nobody is told
   */
  readonly log?: (line: string) => void
  /** Receives a line for each vhost-user message. @default none, at no cost */
  readonly traceMessages?: (line: string) => void
}

/** A disk that is being served. */
export interface Server {
  readonly plane: DataPlane
  readonly listener: Listener
  /** Settles when no front-end will be served any more; with the error, unless that was as wanted. */
  readonly closed: Promise<Error | undefined>
  /**
   * Cuts or extends the image, or takes over the size that it has by now, and tells the guest.
   *
   * @param bytes as for `DataPlane.resize`, with its errors
   */
  resize (bytes?: number): Promise<void>
  /** Ends the session, drained, removes the socket and gives the image back. */
  close (): Promise<void>
  [Symbol.asyncDispose] (): Promise<void>
}

/**
 * Serves a raw image to vhost-user front-ends, one after the other, from a data-plane thread.
 *
 * @throws DataPlaneError, VhostUserError or LinuxError, each with its remedy: nothing is left open then
 */
export async function serve (options: ServeOptions): Promise<Server> {
  const { socketPath, fd, log = () => {}, traceMessages, ...disk } = options
  let fatal: (error: Error) => void = () => {}
  const died = new Promise<Error>((resolve) => { fatal = resolve })
  let faults = 0
  let closing = false
  const plane = DataPlane.create({
    ...disk,
    onFault: (queue, fault) => {
      if (faults++ < FAULTS_TOLD_MAX) log(`queue ${queue} is broken until the guest resets it: ${fault.message}`)
    },
    onDeath: (error) => fatal(error)
  })
  for (const { engine, reason } of plane.engine.rejected) log(`using ${plane.engine.name}, for ${engine} cannot be had: ${reason}`)
  let listener: Listener
  try {
    listener = listen({
      device: new BlockDevice(plane),
      ...(socketPath !== undefined && { path: socketPath }),
      ...(fd !== undefined && { fd }),
      onProblem: (problem) => log(problem.message),
      onSession: () => {
        faults = 0
        log('a front-end connected')
      },
      onSessionEnd: (failure) => log(`the session ended: ${failure?.message ?? (closing ? 'the server closes' : 'the front-end hung up')}`),
      ...(traceMessages !== undefined && {
        onMessage: (direction, name, size, fds) =>
          traceMessages(`vhost_user_message direction=${direction} request=${name} size=${size} fds=${fds}`)
      })
    })
  } catch (error) {
    await plane.close()
    throw error
  }
  const close = async (): Promise<void> => {
    closing = true
    await listener.close()
    await plane.close()
  }
  return {
    plane,
    listener,
    closed: Promise.race([listener.closed, died]),
    resize: async (bytes) => {
      await plane.resize(bytes)
      listener.notifyConfigChange()
    },
    close,
    [Symbol.asyncDispose]: close
  }
}
