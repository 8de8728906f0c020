import { connect, isIP, type NetConnectOpts, type Socket } from 'node:net'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import type { NbdTlsOptions, ResolvedAddress } from './address.ts'
import { NbdError } from './errors.ts'

/** Who takes the bytes that arrive. What it throws ends the connection. */
export interface Receiver {
  /** Memory that the next bytes are to go into, nothing copied; undefined where they may go anywhere. */
  target (): Uint8Array | undefined
  /** So many bytes have arrived in the target. */
  filled (count: number): void
  /** Bytes that arrived elsewhere; valid during the call only. */
  received (bytes: Uint8Array): void
}

/** As much as one read from a socket takes, where the bytes have no place of their own yet. */
const SCRATCH_BYTES = 64 * 1024

/**
 * A byte stream to a server, that can become encrypted. In the clear, the kernel copies straight into the receiver's
 * memory; nothing is buffered here, in either direction, beyond one {@link SCRATCH_BYTES}.
 */
export class Transport {
  receiver: Receiver
  /** Called once, when it has ended. */
  onEnd: (error: Error) => void = () => {}
  #socket: Socket
  #ended: Error | undefined
  #scratch: Uint8Array | undefined
  #target: Uint8Array | undefined
  readonly #onData = (bytes: Uint8Array): void => this.#guarded(() => this.receiver.received(bytes))

  private constructor (address: ResolvedAddress, receiver: Receiver) {
    this.receiver = receiver
    // A socket that is to be encrypted gives its bytes to node:tls, which knows no buffers of ours.
    this.#socket = address.tls === undefined
      ? connect({ ...address.connect, noDelay: true, keepAlive: true, onread: this.#intoPlace() } as NetConnectOpts)
      : connect({ ...address.connect, noDelay: true, keepAlive: true }).on('data', this.#onData)
    this.#watch(this.#socket)
  }

  /**
   * Connects.
   *
   * @throws NbdError ERR_NBD_CONNECT
   */
  static async open (address: ResolvedAddress, receiver: Receiver): Promise<Transport> {
    const transport = new Transport(address, receiver)
    await new Promise<void>((resolve, reject) => {
      transport.onEnd = (error) => reject(new NbdError('ERR_NBD_CONNECT', `no connection to ${address.text}: ${error.message}. ` +
        'Is the server running, and this its address?', { cause: error }))
      transport.#socket.once('connect', resolve)
    })
    return transport
  }

  /** Why it has ended; undefined while it has not. */
  get ended (): Error | undefined {
    return this.#ended
  }

  /** Sends the pieces, in order and with as few system calls as can be; they must stay as they are until `done`. */
  send (pieces: readonly Uint8Array[], done: () => void): void {
    const last = pieces.length - 1
    this.#socket.cork()
    for (let index = 0; index < last; index++) this.#socket.write(pieces[index])
    this.#socket.write(pieces[last], (error) => { if (!error) done() })
    this.#socket.uncork()
  }

  /**
   * Encrypts from here on. Only for an address with `tls`.
   *
   * @throws NbdError ERR_NBD_REFUSED where the two find no agreement, or the certificate is not to be trusted
   */
  async startTls (tls: NbdTlsOptions): Promise<void> {
    const plain = this.#socket.off('data', this.#onData)
    const { ca, cert, key, hostname = '', verifyPeer = true } = tls
    // A server's certificate is checked against `host`; the name to ask for (SNI) cannot be an address.
    const socket: TLSSocket = connectTls({
      socket: plain, host: hostname, rejectUnauthorized: verifyPeer, minVersion: 'TLSv1.2',
      ...(isIP(hostname) === 0 && { servername: hostname }), ...(ca && { ca }), ...(cert && { cert }), ...(key && { key })
    })
    const onEnd = this.onEnd
    await new Promise<void>((resolve, reject) => {
      this.onEnd = (error) => reject(new NbdError('ERR_NBD_REFUSED', `no encrypted connection: ${error.message}`, { cause: error }))
      this.#watch(socket)
      socket.once('secureConnect', resolve).on('data', this.#onData)
    })
    this.onEnd = onEnd
    this.#socket = socket
  }

  /** Calls back when nothing has moved for so long, in either direction; 0 for never. */
  watchSilence (milliseconds: number, onSilence: () => void): void {
    this.#socket.setTimeout(milliseconds).on('timeout', onSilence)
  }

  /** Says goodbye: sends what is on its way, and ends. */
  finish (pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) this.#socket.write(piece)
    this.#socket.end()
  }

  /** Ends at once: no byte is read or written after this call. */
  destroy (error: Error): void {
    this.#end(error)
    this.#socket.destroy()
  }

  #watch (socket: Socket): void {
    let reason = new Error('the server ended the connection')
    socket.on('error', (error) => { reason = error })
    socket.on('close', () => this.#end(reason))
  }

  #end (error: Error): void {
    if (this.#ended !== undefined) return
    this.#ended = error
    this.onEnd(error)
  }

  /** After each read, the socket asks where the next one is to go. */
  #intoPlace (): object {
    return {
      buffer: () => {
        this.#target = this.#ended === undefined ? this.receiver.target() : undefined
        return this.#target ?? (this.#scratch ??= new Uint8Array(SCRATCH_BYTES))
      },
      callback: (count: number, bytes: Uint8Array) => {
        if (this.#target !== undefined) this.#guarded(() => this.receiver.filled(count))
        else this.#guarded(() => this.receiver.received(bytes.subarray(0, count)))
        return true
      }
    }
  }

  #guarded (take: () => void): void {
    if (this.#ended !== undefined) return
    try {
      take()
    } catch (error) {
      this.destroy(error as Error)
    }
  }
}
