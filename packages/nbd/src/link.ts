import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ResolvedAddress } from './address.ts'
import { Connection } from './connection.ts'
import { NbdError } from './errors.ts'
import { type ExportInfo, openExport } from './handshake.ts'
import type { Request } from './request.ts'

/** What a link needs to know. */
export interface LinkOptions {
  readonly address: ResolvedAddress
  /** Milliseconds for a connection and its handshake. */
  readonly connectTimeout: number
  /** Milliseconds without a byte, with requests in flight. */
  readonly silence: number
  /** Milliseconds before the first attempt to connect again; doubled for each that follows. Undefined: no attempt. */
  readonly delay: number | undefined
  readonly maxDelay: number
}

/** Who owns a link. */
export interface LinkOwner {
  /** The server has done the request. */
  done (request: Request): void
  /** More requests can be taken. */
  ready (): void
  /** There is a connection again. */
  restored (): void
  /** The connection is gone; these were in flight. */
  lost (error: Error, requests: Request[]): void
  /** There will be no connection any more. */
  broken (error: Error): void
}

/** One connection to the server, and the next one when that is lost, and so on. */
export class Link {
  readonly #options: LinkOptions
  readonly #owner: LinkOwner
  readonly #closing = new AbortController()
  #connection: Connection | undefined
  #info: ExportInfo | undefined
  #closed: Promise<void> | undefined

  constructor (options: LinkOptions, owner: LinkOwner) {
    this.#options = options
    this.#owner = owner
  }

  /** Undefined while there is none. */
  get connection (): Connection | undefined {
    return this.#connection
  }

  /** What the server said of the export. After {@link Link.open}. */
  get info (): ExportInfo {
    return this.#info!
  }

  /**
   * Connects for the first time.
   *
   * @param expected what another link was told: the server must say the same again. @default anything
   * @throws NbdError
   */
  async open (expected?: ExportInfo, signal?: AbortSignal): Promise<void> {
    const late = new NbdError('ERR_NBD_CONNECT', `${this.#options.address.text} was not connected within ${this.#options.connectTimeout} ms`)
    const tooLong = new AbortController()
    const timer = setTimeout(() => tooLong.abort(late), this.#options.connectTimeout)
    try {
      const signals = [tooLong.signal, this.#closing.signal, ...(signal === undefined ? [] : [signal])]
      const agreed = await openExport(this.#options.address, AbortSignal.any(signals))
      const change = expected && difference(expected, agreed.info)
      if (change !== undefined) {
        const error = new NbdError('ERR_NBD_CHANGED', `${this.#options.address.text} serves another disk than before: ${change}`)
        agreed.transport.destroy(error)
        throw error
      }
      this.#info = agreed.info
      this.#connection = new Connection(agreed, {
        done: (request) => this.#owner.done(request),
        ready: () => this.#owner.ready(),
        lost: (error, requests) => this.#lost(error, requests)
      }, this.#options.silence)
    } finally {
      clearTimeout(timer)
    }
  }

  /** Says goodbye to the server, and connects no more. */
  async close (): Promise<void> {
    this.#closing.abort(new NbdError('ERR_NBD_CLOSED', 'closed'))
    await (this.#closed ??= this.#connection?.disconnect())
  }

  #lost (error: Error, requests: Request[]): void {
    this.#connection = undefined
    this.#owner.lost(error, requests)
    const isTrusted = !(error instanceof NbdError && error.code === 'ERR_NBD_PROTOCOL')
    if (this.#options.delay !== undefined && isTrusted && !this.#closing.signal.aborted) void this.#reopen(this.#options.delay)
    else this.#owner.broken(error)
  }

  async #reopen (delay: number): Promise<void> {
    for (; !this.#closing.signal.aborted; delay = Math.min(2 * delay, this.#options.maxDelay)) {
      // Not all clients of a server that comes back at the same moment.
      await sleep(delay / 2 + randomInt(Math.ceil(delay / 2) + 1), undefined, { signal: this.#closing.signal }).catch(() => {})
      try {
        await this.open(this.#info)
        return this.#owner.restored()
      } catch (error) {
        if (error instanceof NbdError && isFinal(error)) return this.#owner.broken(error)
      }
    }
  }
}

/** A server that starts may refuse for a while; one that lies or has another disk is not asked again. */
function isFinal (error: NbdError): boolean {
  return error.code === 'ERR_NBD_PROTOCOL' || error.code === 'ERR_NBD_CHANGED'
}

function difference (before: ExportInfo, after: ExportInfo): string | undefined {
  if (before.size !== after.size) return `${after.size} bytes, not ${before.size}`
  if (before.flags !== after.flags) return `flags 0x${after.flags.toString(16)}, not 0x${before.flags.toString(16)}`
  const sizes = ({ blockSize: { minimum, preferred, maximum } }: ExportInfo): string => `block sizes ${minimum}, ${preferred} and ${maximum}`
  if (sizes(before) !== sizes(after)) return `${sizes(after)}, not ${sizes(before)}`
  return undefined
}
