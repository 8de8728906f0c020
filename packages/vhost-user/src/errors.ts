/** What can go wrong between the two ends. Stable: programs may switch on it. */
export type VhostUserErrorCode =
  /** The peer broke the protocol so that the connection cannot go on. */
  | 'ERR_VHOST_USER_PROTOCOL'
  /** A request was refused: the session goes on, the request had no effect. */
  | 'ERR_VHOST_USER_REFUSED'
  /** A ring could not be started with what the front-end said of it. */
  | 'ERR_VHOST_USER_RING'
  /** The device failed to give a queue back: its memory and descriptors stay open, on purpose. */
  | 'ERR_VHOST_USER_DEVICE'
  /**
   * The device gave a queue up whose requests do not end: its memory and descriptors stay open, on purpose. The session is
   * over; the device can serve another one.
   */
  | 'ERR_VHOST_USER_ABANDONED'
  /** The connection ended before the reply came, or was closed before the call. */
  | 'ERR_VHOST_USER_CLOSED'
  /** The peer did not answer in time. The connection is closed: a late reply could be taken for another's. */
  | 'ERR_VHOST_USER_TIMEOUT'
  /** Somebody listens on the socket's path already, or a file that is no socket stands there. */
  | 'ERR_VHOST_USER_ADDRESS'

/** Something failed between a vhost-user front-end and a back-end. */
export class VhostUserError extends Error {
  static override readonly name = 'VhostUserError'
  override readonly name = 'VhostUserError'
  /** Stable: programs may switch on it. */
  readonly code: VhostUserErrorCode

  constructor (code: VhostUserErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** The request cannot be served as it stands; the reason is for the peer's operator. */
export function refused (reason: string, options?: ErrorOptions): VhostUserError {
  return new VhostUserError('ERR_VHOST_USER_REFUSED', reason, options)
}

/** The stream cannot be followed any further. */
export function violation (reason: string): VhostUserError {
  return new VhostUserError('ERR_VHOST_USER_PROTOCOL', reason)
}

/** Whether a device gave a queue up, and can serve the next front-end. */
export function isAbandonment (error: unknown): boolean {
  return error instanceof VhostUserError && error.code === 'ERR_VHOST_USER_ABANDONED'
}

/** What was thrown, as an error whatever it is. */
export function asError (thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown))
}
