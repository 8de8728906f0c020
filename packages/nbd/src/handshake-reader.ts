import { violation } from './errors.ts'
import type { Receiver } from './transport.ts'

/** More than a server has to say during the handshake before it is listened to. */
const BACKLOG_MAX = 256 * 1024

/** The bytes of a handshake, to be waited for. */
export class HandshakeReader implements Receiver {
  #bytes = Buffer.alloc(0)
  #wanted = 0
  #resolve: (() => void) | undefined
  #reject: ((error: Error) => void) | undefined
  #failure: Error | undefined

  /** What has arrived and was not asked for. */
  get rest (): Uint8Array {
    return this.#bytes
  }

  target (): undefined {}

  filled (): void {}

  received (bytes: Uint8Array): void {
    if (this.#bytes.length + bytes.length > BACKLOG_MAX) throw violation('it sends without being asked')
    this.#bytes = Buffer.concat([this.#bytes, bytes])
    if (this.#bytes.length >= this.#wanted) this.#resolve?.()
  }

  /** No more will come. */
  fail (error: Error): void {
    this.#failure ??= error
    this.#reject?.(error)
  }

  /** Waits for so many bytes. @param length up to {@link BACKLOG_MAX} */
  async read (length: number): Promise<Buffer> {
    if (this.#bytes.length < length) {
      if (this.#failure !== undefined) throw this.#failure
      this.#wanted = length
      await new Promise<void>((resolve, reject) => {
        this.#resolve = resolve
        this.#reject = reject
      })
      this.#resolve = this.#reject = undefined
    }
    const bytes = this.#bytes.subarray(0, length)
    this.#bytes = this.#bytes.subarray(length)
    return bytes
  }
}
