import { type NbdAddress, resolveAddress } from './address.ts'
import { Aborts } from './aborts.ts'
import { NbdError } from './errors.ts'
import { type ExportInfo, listExports, type NbdExport } from './handshake.ts'
import { Link } from './link.ts'
import {
  DEFAULT_MAXIMUM, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_TRIM,
  NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES, NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_READ_ONLY, NBD_FLAG_SEND_FAST_ZERO, NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA, NBD_FLAG_SEND_TRIM, NBD_FLAG_SEND_WRITE_ZEROES
} from './protocol.ts'
import { lengthOf, Request, type RequestInit, type Segments, slice } from './request.ts'

/** What happens when the connection to the server is lost. */
export interface ReconnectOptions {
  /** Milliseconds before the first attempt; doubled for each that follows. @default 100 */
  readonly delay?: number
  /** The longest delay between two attempts, in milliseconds. @default 5000 */
  readonly maxDelay?: number
  /**
   * Milliseconds that requests wait for a connection; then they fail, as do new ones at once, until there is one
   * again. @default 60000
   */
  readonly patience?: number
  /**
   * What becomes of writes that were answered but not flushed, which a server that was restarted may have lost:
   * `'fail'` has the next flush fail with ERR_NBD_WRITES_LOST, `'trust'` takes them as kept: for servers whose cache
   * outlives them, such as one that writes a file through the page cache of a machine that stays up. @default 'fail'
   */
  readonly unflushed?: 'fail' | 'trust'
}

/** Where an export is, and how the connection to it is kept. */
export interface NbdOptions extends NbdAddress {
  /** Connections to spread requests over, 1 to 16; 1 where the server cannot do more (`NBD_FLAG_CAN_MULTI_CONN`). @default 1 */
  readonly connections?: number
  /** Milliseconds for a connection and its handshake. @default 10000 */
  readonly connectTimeout?: number
  /** Milliseconds without a byte from the server, with requests in flight, after which the connection counts as lost; 0 for never. @default 60000 */
  readonly timeout?: number
  /** Connect again, and send again what was in flight. @default {} */
  readonly reconnect?: false | ReconnectOptions
  /** Gives up the attempt to connect, with the signal's reason. @default never */
  readonly signal?: AbortSignal
}

/** How long a call may take. */
export interface NbdRequestOptions {
  /**
   * Gives the call up, with the signal's reason: `AbortSignal.timeout(ms)` is a time limit. The server may do the
   * request all the same. @default never
   */
  readonly signal?: AbortSignal
}

/** How a write is done. */
export interface NbdWriteOptions extends NbdRequestOptions {
  /** Durable when it is done, without a flush (which is what it becomes where the server knows no FUA). @default false */
  readonly fua?: boolean
}

/** How a range is filled with zeroes. */
export interface NbdWriteZeroesOptions extends NbdWriteOptions {
  /** Keep the space allocated, so that later writes do not fail for lack of it. @default false */
  readonly noHole?: boolean
  /** Fail with ENOTSUP, quickly, where it is not faster than writing. @default false */
  readonly fast?: boolean
}

/** How a client is closed. */
export interface NbdCloseOptions {
  /** Milliseconds to wait for what is in flight; what is not done then fails with ERR_NBD_CLOSED. @default 5000 */
  readonly timeout?: number
  /** Ends that wait as if the time were over; once all is given back, the call rejects with the signal's reason. @default never */
  readonly signal?: AbortSignal
}

/** Pieces of a large read or write: smaller than servers allow, so that others get their turn between them. */
const TRANSFER_BYTES = 4 << 20
/** Pieces of a trim: it has no data, but takes its time. */
const TRIM_BYTES = 1 << 30
/** A request that was in flight when this many connections were lost is what they are lost of. */
const LOSSES_MAX = 5
const CONNECTIONS_MAX = 16

/**
 * A network block device. Any number of calls may be in flight; they end in any order.
 *
 * Offsets and lengths are bytes, multiples of `info.blockSize.minimum`. Every call rejects with {@link NbdError}
 * ERR_NBD_CLOSED, ERR_NBD_DISCONNECTED, ERR_NBD_PROTOCOL or ERR_NBD_CHANGED where the client is of no use any more, with
 * the protocol's error where the server fails the request, and with the reason of its signal. Memory that is handed over
 * is the caller's again when the promise settles.
 */
export class NbdClient {
  readonly #links: Link[] = []
  readonly #name: string
  readonly #reconnect: Required<ReconnectOptions> | undefined
  /** Waiting for room, or for a connection; oldest first. */
  readonly #queue: Request[] = []
  readonly #aborts = new Aborts((request, reason) => this.#abandon(request, reason))
  #outstanding = 0
  #isPumping = false
  #failure: NbdError | undefined
  #patience: NodeJS.Timeout | undefined
  #outOfPatience = false
  /** Writes that were answered: they need a flush, unless they were FUA. */
  #written = 0
  /** How many of these a flush has covered. */
  #flushed = 0
  /** Writes may have been lost, and nobody was told yet. */
  #writesLost = false
  #idle: (() => void) | undefined
  #closing: Promise<void> | undefined

  private constructor (options: NbdOptions) {
    const { connections = 1, connectTimeout = 10_000, timeout = 60_000, reconnect = {} } = options
    if (!Number.isInteger(connections) || connections < 1 || connections > CONNECTIONS_MAX) {
      throw new NbdError('ERR_NBD_OPTIONS', `connections: 1 to ${CONNECTIONS_MAX}, not ${connections}`)
    }
    const { unflushed = 'fail' } = reconnect === false ? {} : reconnect
    if (unflushed !== 'fail' && unflushed !== 'trust') throw new NbdError('ERR_NBD_OPTIONS', `reconnect.unflushed: fail or trust, not ${String(unflushed)}`)
    const address = resolveAddress(options)
    this.#name = address.text
    this.#reconnect = reconnect === false ? undefined : { delay: 100, maxDelay: 5000, patience: 60_000, unflushed: 'fail', ...reconnect }
    const linkOptions = {
      address, connectTimeout, silence: timeout, delay: this.#reconnect?.delay, maxDelay: this.#reconnect?.maxDelay ?? 0
    }
    for (let index = 0; index < connections; index++) {
      this.#links.push(new Link(linkOptions, {
        done: (request) => this.#done(request),
        ready: () => this.#pumpSoon(),
        restored: () => this.#restored(),
        lost: (error, requests) => this.#lost(error, requests),
        broken: (error) => this.#fail(error)
      }))
    }
  }

  /**
   * Connects to an export.
   *
   * @param target a URI, or options
   * @throws NbdError ERR_NBD_OPTIONS, ERR_NBD_CONNECT, ERR_NBD_REFUSED, ERR_NBD_PROTOCOL; the signal's reason
   */
  static async connect (target: string | NbdOptions): Promise<NbdClient> {
    const options = typeof target === 'string' ? { uri: target } : target
    const client = new NbdClient(options)
    const [first, ...others] = client.#links
    await first.open(undefined, options.signal)
    if ((first.info.flags & NBD_FLAG_CAN_MULTI_CONN) === 0) client.#links.length = 1
    try {
      for (const link of client.#links.length > 1 ? others : []) await link.open(first.info, options.signal)
    } catch (error) {
      await client.close()
      throw error
    }
    return client
  }

  /**
   * Asks a server for its exports. Servers may keep the list to themselves, or leave some out.
   *
   * @throws as {@link NbdClient.connect}; ERR_NBD_REFUSED where it does not tell
   */
  static async list (target: string | Pick<NbdOptions, keyof NbdAddress | 'connectTimeout' | 'signal'>): Promise<NbdExport[]> {
    const options = typeof target === 'string' ? { uri: target } : target
    const limit = AbortSignal.timeout(options.connectTimeout ?? 10_000)
    return await listExports(resolveAddress(options), options.signal === undefined ? limit : AbortSignal.any([limit, options.signal]))
  }

  /** What the server says of the export. */
  get info (): ExportInfo {
    return this.#links[0].info
  }

  /** Bytes. */
  get size (): number {
    return this.info.size
  }

  /** Transmission flags: a mask of `NBD_FLAG_*`. */
  get flags (): number {
    return this.info.flags
  }

  /** Writes fail. */
  get readOnly (): boolean {
    return this.#has(NBD_FLAG_READ_ONLY)
  }

  /** Connections that are up at this moment. */
  get connections (): number {
    return this.#links.filter(({ connection }) => connection !== undefined).length
  }

  /** Reads. Large ranges become several requests (NBD_CMD_READ). @throws NbdError ERR_NBD_RANGE */
  async read (offset: number, length: number, options: NbdRequestOptions = {}): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.#checkRange(offset, length))
    await this.readInto(offset, bytes, options)
    return bytes
  }

  /** Reads to the caller's memory, which the kernel writes itself where a piece has 4096 bytes or more. @throws NbdError ERR_NBD_RANGE */
  async readInto (offset: number, memory: Uint8Array | Segments, { signal }: NbdRequestOptions = {}): Promise<void> {
    await this.#transfer({ type: NBD_CMD_READ, offset, segments: toSegments(memory) }, signal)
  }

  /**
   * Writes, without a copy. Large ranges become several requests (NBD_CMD_WRITE). The bytes must stay as they are until it
   * is done.
   *
   * @throws NbdError ERR_NBD_READ_ONLY, ERR_NBD_RANGE
   */
  async write (offset: number, bytes: Uint8Array | Segments, { fua = false, signal }: NbdWriteOptions = {}): Promise<void> {
    this.#checkWritable()
    await this.#transfer({ type: NBD_CMD_WRITE, flags: this.#fuaFlag(fua), offset, segments: toSegments(bytes) }, signal)
    await this.#flushInstead(fua, signal)
  }

  /**
   * Makes durable all writes that were done before. Done at once where the server has no cache (no
   * `NBD_FLAG_SEND_FLUSH`).
   *
   * @throws NbdError ERR_NBD_WRITES_LOST where the server that had them is gone, see {@link ReconnectOptions.unflushed}
   */
  async flush ({ signal }: NbdRequestOptions = {}): Promise<void> {
    this.#checkUsable()
    if (!this.#has(NBD_FLAG_SEND_FLUSH)) return
    if (this.#writesLost) {
      this.#writesLost = false
      throw writesLost()
    }
    const written = this.#written
    await this.#start({ type: NBD_CMD_FLUSH }, signal)
    this.#flushed = Math.max(this.#flushed, written)
  }

  /** Tells the server that a range is no longer needed: what it reads as then is anything. NBD_CMD_TRIM. @throws NbdError ENOTSUP, ERR_NBD_READ_ONLY, ERR_NBD_RANGE */
  async trim (offset: number, length: number, { fua = false, signal }: NbdWriteOptions = {}): Promise<void> {
    this.#checkOffered(NBD_FLAG_SEND_TRIM, 'TRIM')
    await this.#ranges({ type: NBD_CMD_TRIM, flags: this.#fuaFlag(fua), offset, length }, TRIM_BYTES, signal)
    await this.#flushInstead(fua, signal)
  }

  /** Fills a range with zeroes, without sending them. NBD_CMD_WRITE_ZEROES. @throws NbdError ENOTSUP, ERR_NBD_READ_ONLY, ERR_NBD_RANGE */
  async writeZeroes (offset: number, length: number, options: NbdWriteZeroesOptions = {}): Promise<void> {
    const { fua = false, noHole = false, fast = false, signal } = options
    this.#checkOffered(NBD_FLAG_SEND_WRITE_ZEROES, 'WRITE_ZEROES')
    if (fast) this.#checkOffered(NBD_FLAG_SEND_FAST_ZERO, 'FAST_ZERO')
    const flags = this.#fuaFlag(fua) | (noHole ? NBD_CMD_FLAG_NO_HOLE : 0) | (fast ? NBD_CMD_FLAG_FAST_ZERO : 0)
    await this.#ranges({ type: NBD_CMD_WRITE_ZEROES, flags, offset, length }, DEFAULT_MAXIMUM, signal)
    await this.#flushInstead(fua, signal)
  }

  /**
   * Waits for what is in flight, says goodbye to the server and disconnects. Flushes nothing. No effect when closed; while
   * it closes, a second call waits for the first.
   *
   * @throws the signal's reason
   */
  async close ({ timeout = 5000, signal }: NbdCloseOptions = {}): Promise<void> {
    const endWait = (): void => this.#idle?.()
    const closing = this.#closing ??= this.#close(signal?.aborted === true ? 0 : timeout)
    signal?.addEventListener('abort', endWait)
    try {
      await closing
    } finally {
      signal?.removeEventListener('abort', endWait)
    }
    signal?.throwIfAborted()
  }

  /** The same as `close()`, for `await using`. */
  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  async #close (timeout: number): Promise<void> {
    if (this.#outstanding > 0) {
      let timer: NodeJS.Timeout | undefined
      await new Promise<void>((resolve) => {
        this.#idle = resolve
        timer = setTimeout(resolve, timeout)
      })
      clearTimeout(timer)
    }
    this.#failure ??= closed()
    await Promise.all(this.#links.map(async (link) => await link.close()))
    this.#fail(closed())
  }

  async #transfer ({ segments = [], ...init }: RequestInit, signal: AbortSignal | undefined): Promise<void> {
    const length = this.#checkRange(init.offset!, lengthOf(segments))
    const most = this.#most(TRANSFER_BYTES)
    if (length === 0) return
    if (length <= most) return await this.#start({ ...init, length, segments }, signal)
    const parts: Promise<void>[] = []
    for (let at = 0; at < length; at += most) {
      const part = Math.min(most, length - at)
      parts.push(this.#start({ ...init, offset: init.offset! + at, length: part, segments: slice(segments, at, part) }, signal))
    }
    await allSettled(parts)
  }

  async #ranges (init: RequestInit, limit: number, signal: AbortSignal | undefined): Promise<void> {
    this.#checkWritable()
    const offset = init.offset!
    const length = this.#checkRange(offset, init.length!)
    const most = init.type === NBD_CMD_TRIM ? limit : this.#most(limit)
    for (let at = 0; at < length; at += most) {
      await this.#start({ ...init, offset: offset + at, length: Math.min(most, length - at) }, signal)
    }
  }

  /** The longest request, in whole blocks. */
  #most (limit: number): number {
    const { minimum, maximum } = this.info.blockSize
    const most = Math.min(limit, maximum)
    return most - most % minimum
  }

  async #start (init: RequestInit, signal: AbortSignal | undefined): Promise<void> {
    this.#checkUsable()
    signal?.throwIfAborted()
    const request = new Request(init)
    if (signal !== undefined) this.#aborts.watch(signal, request)
    this.#outstanding++
    this.#queue.push(request)
    this.#pumpSoon()
    try {
      await request.promise
    } finally {
      if (signal !== undefined) this.#aborts.unwatch(signal, request)
      if (--this.#outstanding === 0) this.#idle?.()
    }
  }

  #abandon (request: Request, reason: unknown): void {
    const index = this.#queue.indexOf(request)
    if (index >= 0) {
      this.#queue.splice(index, 1)
      request.fail(reason)
    } else {
      for (const { connection } of this.#links) connection?.abandon(request, reason)
    }
  }

  /** In a microtask, so that all that one turn of the event loop asks for goes out with one system call. */
  #pumpSoon (): void {
    if (this.#isPumping || this.#queue.length === 0) return
    this.#isPumping = true
    queueMicrotask(() => {
      this.#isPumping = false
      this.#pump()
    })
  }

  #pump (): void {
    const connections = this.#links.flatMap(({ connection }) => connection ?? [])
    let taken = 0
    while (taken < this.#queue.length) {
      const free = connections.filter(({ hasRoom }) => hasRoom)
      if (free.length === 0) break
      free.reduce((best, other) => other.inFlight < best.inFlight ? other : best).add(this.#queue[taken++])
    }
    this.#queue.splice(0, taken)
    for (const connection of connections) connection.send()
  }

  #done ({ type, flags }: Request): void {
    const needsFlush = type === NBD_CMD_WRITE || type === NBD_CMD_TRIM || type === NBD_CMD_WRITE_ZEROES
    if (needsFlush && (flags & NBD_CMD_FLAG_FUA) === 0) this.#written++
  }

  /**
   * All requests of the protocol say what is to be where, not what is to change: doing one twice is as good as once,
   * and as long as its caller waits, nobody relies on either. So what was in flight is sent again.
   */
  #lost (error: Error, requests: Request[]): void {
    if (this.#failure !== undefined || this.#reconnect === undefined) {
      // With the link's word that there will be no other connection, these fail as well.
      this.#queue.unshift(...requests)
      return
    }
    for (const request of requests) request.losses++
    const hopeless = requests.filter(({ losses }) => losses >= LOSSES_MAX)
    for (const request of hopeless) {
      request.fail(new NbdError('ERR_NBD_DISCONNECTED', `${LOSSES_MAX} connections to ${this.#name} were lost with this request in flight`, { cause: error }))
    }
    this.#queue.unshift(...requests.filter(({ settled }) => !settled))
    if (this.#has(NBD_FLAG_SEND_FLUSH) && this.#reconnect.unflushed === 'fail' && this.#written > this.#flushed) this.#loseWrites()
    if (this.connections === 0) this.#losePatience()
    this.#pumpSoon()
  }

  #loseWrites (): void {
    this.#flushed = this.#written
    const flushes = this.#queue.filter(({ type }) => type === NBD_CMD_FLUSH)
    // Those that wait for a flush are told; where nobody does, the next one is.
    this.#writesLost = flushes.length === 0
    this.#reject(flushes, writesLost())
  }

  #losePatience (): void {
    clearTimeout(this.#patience)
    this.#patience = setTimeout(() => {
      this.#outOfPatience = true
      this.#reject([...this.#queue], this.#unreachable())
    }, this.#reconnect!.patience)
  }

  #restored (): void {
    clearTimeout(this.#patience)
    this.#outOfPatience = false
    this.#pumpSoon()
  }

  /** For good. */
  #fail (error: Error): void {
    this.#failure ??= error instanceof NbdError
      ? error
      : new NbdError('ERR_NBD_DISCONNECTED', `the connection to ${this.#name} is lost: ${error.message}`, { cause: error })
    clearTimeout(this.#patience)
    this.#reject([...this.#queue], this.#failure)
    for (const link of this.#links) void link.close()
  }

  #reject (requests: readonly Request[], error: NbdError): void {
    for (const request of requests) {
      this.#queue.splice(this.#queue.indexOf(request), 1)
      request.fail(error)
    }
  }

  /** Where the server knows no FUA, a flush after the write does the same. */
  async #flushInstead (fua: boolean, signal: AbortSignal | undefined): Promise<void> {
    if (fua && !this.#has(NBD_FLAG_SEND_FUA)) await this.flush(signal === undefined ? {} : { signal })
  }

  #fuaFlag (fua: boolean): number {
    return fua && this.#has(NBD_FLAG_SEND_FUA) ? NBD_CMD_FLAG_FUA : 0
  }

  #has (flag: number): boolean {
    return (this.flags & flag) !== 0
  }

  #checkUsable (): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#closing !== undefined) throw closed()
    if (this.#outOfPatience) throw this.#unreachable()
  }

  #checkWritable (): void {
    this.#checkUsable()
    if (this.readOnly) throw new NbdError('ERR_NBD_READ_ONLY', `the export is read-only: ${this.#name}`)
  }

  #checkOffered (flag: number, name: string): void {
    if (!this.#has(flag)) throw new NbdError('ENOTSUP', `the server does not offer ${name}`)
  }

  #checkRange (offset: number, length: number): number {
    const { minimum } = this.info.blockSize
    const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0 && offset + length <= this.size
    if (!valid) throw new NbdError('ERR_NBD_RANGE', `${length} bytes at ${offset} are not all inside of ${this.size} bytes`)
    if (offset % minimum !== 0 || length % minimum !== 0) {
      throw new NbdError('ERR_NBD_RANGE', `${length} bytes at ${offset} are not whole blocks of ${minimum}`)
    }
    return length
  }

  #unreachable (): NbdError {
    return new NbdError('ERR_NBD_DISCONNECTED', `${this.#name} has not been reachable for ${this.#reconnect!.patience} ms; attempts go on`)
  }
}

function toSegments (memory: Uint8Array | Segments): Segments {
  return memory instanceof Uint8Array ? [memory] : memory
}

/** Waits for all, so that no memory is in use any more; then fails with the first. */
async function allSettled (parts: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(parts)) if (result.status === 'rejected') throw result.reason
}

function closed (): NbdError {
  return new NbdError('ERR_NBD_CLOSED', 'this client is closed: connect a new one')
}

function writesLost (): NbdError {
  return new NbdError('ERR_NBD_WRITES_LOST', 'the connection was lost, and writes since the last flush perhaps with it: write them again. ' +
    'Where the server is known to keep them, use the option reconnect: { unflushed: \'trust\' }')
}
