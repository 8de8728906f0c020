import { setImmediate } from 'node:timers/promises'
import {
  close, errno, LinuxError, receiveMessage, sendMessage, setNonBlocking, watchReadable, watchWritable, type Watch
} from '@node-vmm/libc'
import { closeAll } from './descriptor.ts'
import { VhostUserError, violation } from './errors.ts'
import { decodeHeader, encodeMessage, HEADER_BYTES, MESSAGE_FDS_MAX, type Message, type MessageObserver } from './message.ts'

/** A peer that sends without pause must not keep the event loop from everything else. */
const MESSAGES_PER_TURN = 16
/** Flag of `recv(2)`: look, and leave it there. */
const MSG_PEEK = 2

/** How a channel shows what passes. */
export interface ChannelOptions {
  /** Turns a request's code into its name, for the observer. */
  readonly nameOf: (request: number) => string
  /** @default nobody looks */
  readonly onMessage?: MessageObserver | undefined
  /** Told when the peer hangs up while nothing is received or sent. @default nobody looks */
  readonly onHangUp?: (() => void) | undefined
}

/**
 * A unix stream socket that carries messages with file descriptors, on Node's event loop: one `receive` or one `send`
 * at a time. Owns the socket. Bytes and descriptors of half a message are kept, counted, and closed with the channel.
 */
export class Channel {
  readonly #fd: number
  readonly #options: ChannelOptions
  #wake: (() => void) | undefined
  #closed = false
  #receivedThisTurn = 0
  #idleWatch: Watch | undefined

  /** @param fd a connected unix stream socket, the channel's from now on */
  constructor (fd: number, options: ChannelOptions) {
    this.#fd = fd
    this.#options = options
    setNonBlocking(fd)
    this.#watchIdle()
  }

  get closed (): boolean {
    return this.#closed
  }

  /**
   * Waits for the next message, whole.
   *
   * @returns undefined when the peer hung up between two messages, or the channel was closed.
   * @throws VhostUserError when the stream cannot be followed; LinuxError
   */
  async receive (): Promise<Message | undefined> {
    const fds: number[] = []
    if (++this.#receivedThisTurn > MESSAGES_PER_TURN) await this.#nextTurn()
    try {
      const header = await this.#read(HEADER_BYTES, fds, false)
      if (header === undefined) return undefined
      const { size, ...rest } = decodeHeader(header)
      const payload = await this.#read(size, fds, true)
      if (payload === undefined) return undefined
      this.#options.onMessage?.('received', this.#options.nameOf(rest.request), size, fds.length)
      return { ...rest, payload, fds: fds.splice(0) }
    } finally {
      closeAll(fds)
      this.#watchIdle()
    }
  }

  /** Sends a message whole, with descriptors, which stay the caller's. @throws LinuxError such as EPIPE; VhostUserError when closed */
  async send (request: number, flags: number, payload: Uint8Array, fds: readonly number[] = []): Promise<void> {
    const bytes = encodeMessage(request, flags, payload)
    for (let sent = 0; sent < bytes.length;) {
      if (this.#closed) throw new VhostUserError('ERR_VHOST_USER_CLOSED', 'the connection is closed')
      const taken = sendMessage(this.#fd, bytes.subarray(sent), sent === 0 ? fds : [])
      if (taken === undefined) await this.#wait(watchWritable)
      else sent += taken
    }
    this.#options.onMessage?.('sent', this.#options.nameOf(request), payload.length, fds.length)
  }

  /** Hangs up. A `receive` that waits returns undefined, a `send` that waits throws. Closing twice does nothing. */
  close (): void {
    if (this.#closed) return
    this.#closed = true
    this.#stopIdle()
    this.#wake?.()
    close(this.#fd)
  }

  // Descriptors come with the first byte of the write that they were sent with: usually the header's.
  async #read (count: number, fds: number[], inMessage: boolean): Promise<Uint8Array | undefined> {
    const bytes = new Uint8Array(count)
    for (let filled = 0; filled < count;) {
      if (this.#closed) return undefined
      const part = this.#receivePart(bytes.subarray(filled))
      if (part === undefined) {
        await this.#wait(watchReadable)
        continue
      }
      fds.push(...part.fds)
      if (part.truncated) throw violation('descriptors were lost on their way: too many in one message, or open here (ulimit -n)')
      if (fds.length > MESSAGE_FDS_MAX) throw violation(`a message with more than ${MESSAGE_FDS_MAX} descriptors`)
      if (part.length === 0) {
        if (inMessage || filled > 0) throw violation('the peer hung up in the middle of a message')
        return undefined
      }
      filled += part.length
    }
    return bytes
  }

  #receivePart (bytes: Uint8Array): ReturnType<typeof receiveMessage> {
    try {
      return receiveMessage(this.#fd, bytes)
    } catch (error) {
      // A peer that closes with our replies unread resets the connection: it hung up, no more.
      if (isHangUp(error)) return { length: 0, fds: [], truncated: false }
      throw error
    }
  }

  async #nextTurn (): Promise<void> {
    this.#receivedThisTurn = 0
    await setImmediate()
  }

  #wait (watch: (fd: number, callback: () => void) => Watch): Promise<void> {
    this.#stopIdle()
    return new Promise((resolve) => {
      const handle = watch(this.#fd, () => this.#wake?.())
      this.#wake = () => {
        this.#wake = undefined
        handle.close()
        resolve()
      }
    })
  }

  // Looked at anew when it calls: what made the socket readable may have been received by now.
  #watchIdle (): void {
    const { onHangUp } = this.#options
    if (onHangUp === undefined || this.#closed || this.#idleWatch !== undefined) return
    this.#idleWatch = watchReadable(this.#fd, () => {
      const found = peek(this.#fd)
      if (found === 'nothing') return
      // Both stay there, and would call for ever. Bytes are for the next `receive`.
      this.#stopIdle()
      if (found === 'end') onHangUp()
    })
    this.#idleWatch.unref()
  }

  #stopIdle (): void {
    this.#idleWatch?.close()
    this.#idleWatch = undefined
  }
}

function peek (fd: number): 'nothing' | 'bytes' | 'end' {
  try {
    const message = receiveMessage(fd, new Uint8Array(1), 0, MSG_PEEK)
    if (message === undefined) return 'nothing'
    return message.length === 0 ? 'end' : 'bytes'
  } catch {
    // A connection that was reset.
    return 'end'
  }
}

/** Whether a call failed only because the peer is gone. */
export function isHangUp (error: unknown): boolean {
  return error instanceof LinuxError && (error.errno === errno.EPIPE || error.errno === errno.ECONNRESET)
}
