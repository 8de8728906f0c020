/** What can go wrong between a client and its server. Stable: programs may switch on it. */
export type NbdErrorCode =
  /** The URI or an option cannot be right. Nothing was sent. */
  | 'ERR_NBD_OPTIONS'
  /** No connection: nobody listens, the name is unknown, it took too long. See `cause`. */
  | 'ERR_NBD_CONNECT'
  /** The server refuses what this client needs: there is no such export, TLS is missing or required, it is too old. */
  | 'ERR_NBD_REFUSED'
  /** The server broke the protocol. The client is useless from then on: what it sent cannot be trusted. */
  | 'ERR_NBD_PROTOCOL'
  /** The connection is lost, and there is no other or none came in time. What was in flight may have been done or not. */
  | 'ERR_NBD_DISCONNECTED'
  /**
   * A flush after the connection was lost: writes that had been answered may have been lost with the server's cache.
   * Told once; what must be durable has to be written again.
   */
  | 'ERR_NBD_WRITES_LOST'
  /** After a reconnection the export has another size or other features: it is not the disk that it was. */
  | 'ERR_NBD_CHANGED'
  /** An offset or length is no multiple of the minimum block size, or reaches past the end. Nothing was sent. */
  | 'ERR_NBD_RANGE'
  /** A write to an export that is read-only. Nothing was sent. */
  | 'ERR_NBD_READ_ONLY'
  /** The client is closed, or closing. */
  | 'ERR_NBD_CLOSED'
  /** The server failed the request, with this error of the protocol: "operation not permitted", of a write to a read-only export mostly. */
  | 'EPERM'
  /** The server failed the request: input/output error. */
  | 'EIO'
  /** The server failed the request: it has no memory for it. */
  | 'ENOMEM'
  /** The server failed the request: it finds it invalid. */
  | 'EINVAL'
  /** The server failed the request: no space left. */
  | 'ENOSPC'
  /** The server failed the request: it is too large. */
  | 'EOVERFLOW'
  /** The server does not do this, or did not offer it, or (with FAST_ZERO) not fast. */
  | 'ENOTSUP'
  /** The server is shutting down. */
  | 'ESHUTDOWN'

/** A request that failed, or a server that cannot be used. */
export class NbdError extends Error {
  static override readonly name = 'NbdError'
  override readonly name = 'NbdError'
  /** Stable: programs may switch on it. */
  readonly code: NbdErrorCode

  constructor (code: NbdErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** The protocol's error values, the only ones that servers may send. */
const codes = new Map<number, NbdErrorCode>([
  [1, 'EPERM'], [5, 'EIO'], [12, 'ENOMEM'], [22, 'EINVAL'], [28, 'ENOSPC'], [75, 'EOVERFLOW'], [95, 'ENOTSUP'], [108, 'ESHUTDOWN']
])

/** The code of an error value. As the specification says, one that it does not define is treated as EINVAL. */
export function codeOf (value: number): NbdErrorCode {
  return codes.get(value) ?? 'EINVAL'
}

/** The server broke the protocol. */
export function violation (what: string): NbdError {
  return new NbdError('ERR_NBD_PROTOCOL', `the server breaks the NBD protocol: ${what}. The connection was ended.`)
}

/** A server's words, for a message: one line, of a length that one reads, whatever was sent. */
export function quoted (bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 256)).toString()
  // Nothing that moves a terminal's cursor, or makes one log line two.
  return `"${text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '?')}"`
}
