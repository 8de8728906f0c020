import {
  SECTOR_BYTES, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_RANGE_BYTES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
} from '@node-vmm/virtio-blk'
import { hasFeature } from '@node-vmm/vring'
import type { GuestMemory } from '@node-vmm/hostmem'
import { unlessAborted } from './aborts.ts'
import { Request, type RequestInit } from './block-request.ts'
import type { BufferPool, GuestBuffer } from './buffer-pool.ts'
import type { BlockConfig } from './config.ts'
import { DrivenQueue } from './driven-queue.ts'
import { BlockDriverError } from './errors.ts'
import type { QueueData } from './queue.ts'
import { type ConnectOptions, Session } from './session.ts'

/** The most bytes that one request of `read` and `write` moves: more would only make each take longer. */
const CHUNK_BYTES = 1 << 20

/** How long a call may take. */
export interface RequestOptions {
  /**
   * Gives the call up, with the signal's reason: `AbortSignal.timeout(ms)` is a time limit. The disk may do the
   * request all the same. @default never
   */
  readonly signal?: AbortSignal
}

/** How a range is filled with zeroes. */
export interface WriteZeroesOptions extends RequestOptions {
  /** Let the disk give the space back. @default false */
  readonly unmap?: boolean
}

/** How a driver is closed. */
export interface CloseOptions {
  /** Milliseconds to wait for what is in flight; what is not done then fails with ERR_BLOCK_CLOSED. @default 5000 */
  readonly timeout?: number
  /**
   * Ends that wait as if the time were over, and waits for no answer of the server's; once all is given back, the call
   * rejects with the signal's reason. @default never
   */
  readonly signal?: AbortSignal
}

/**
 * A disk, driven from user space: what a guest's kernel does with a virtio-blk device, done by this process. Any
 * number of calls may be in flight; they end in any order. A call waits where the rings or the memory are full.
 *
 * Offsets and lengths are bytes, multiples of 512. Every call rejects with BlockDriverError ERR_BLOCK_CLOSED,
 * ERR_BLOCK_DISCONNECTED, ERR_BLOCK_BROKEN or ERR_BLOCK_NO_QUEUE where the driver is of no use any more, and with the
 * reason of its signal.
 */
export class BlockDriver {
  readonly #session: Session
  readonly #queues: DrivenQueue[]
  readonly #pool: BufferPool
  readonly #waiting: Request[] = []
  #failure: BlockDriverError | undefined
  #idle: (() => void) | undefined
  /** Aborts when a close is not to wait any longer. */
  readonly #hurry = new AbortController()
  #closing: Promise<void> | undefined

  private constructor (session: Session) {
    this.#session = session
    this.#pool = session.pool
    this.#queues = session.queues.map((data) => new DrivenQueue(data, (error) => this.#progress(error)))
    session.onEnd = (error) => this.#break(error)
    session.onResume = (isRecorded) => this.#resume(isRecorded)
  }

  /**
   * Connects to a vhost-user-blk server, agrees on features and starts the rings.
   *
   * @throws LinuxError when nobody listens; VhostUserError where the server does not keep to the protocol, or does not answer;
   * BlockDriverError ERR_BLOCK_NEGOTIATION; RangeError for an option out of its range; the signal's reason. Nothing stays
   * open then
   */
  static async connect (options: ConnectOptions): Promise<BlockDriver> {
    return new BlockDriver(await Session.open(options))
  }

  /** What the disk says of itself, as last read. */
  get config (): BlockConfig {
    return this.#session.config
  }

  /** The virtio features agreed on: a mask. */
  get features (): bigint {
    return this.#session.features
  }

  /** The driver's memory, shared with the disk. Unmapped by `close`. */
  get memory (): GuestMemory {
    return this.#session.memory
  }

  /**
   * Reads the disk's configuration (virtio 1.2, 5.2.4) anew: its capacity may have changed. While the driver looks for the
   * next server, it waits for that.
   *
   * @throws BlockDriverError ERR_BLOCK_CLOSED, ERR_BLOCK_DISCONNECTED, ERR_BLOCK_BROKEN, ERR_BLOCK_NO_QUEUE; VhostUserError
   * where the server does not answer; the signal's reason
   */
  async refreshConfig ({ signal }: RequestOptions = {}): Promise<BlockConfig> {
    this.#checkUsable()
    return await unlessAborted(() => this.#session.refreshConfig(), signal)
  }

  /**
   * Takes memory that the disk reads and writes in place, for `readTo` and `writeFrom`.
   *
   * @param bytes 1 or more; the memory is taken in pieces of 4096.
   * @throws BlockDriverError ERR_BLOCK_MEMORY when there is no contiguous piece of this length
   */
  allocate (bytes: number): GuestBuffer {
    this.#checkUsable()
    const buffer = this.#pool.allocate(bytes)
    if (buffer === undefined) throw noMemory(bytes)
    return buffer
  }

  /**
   * Reads. Large ranges become several requests (VIRTIO_BLK_T_IN).
   *
   * @param target how many bytes, or where to put them.
   * @throws BlockDriverError ERR_BLOCK_RANGE, ERR_BLOCK_MEMORY, ERR_BLOCK_IO
   */
  async read (offset: number, target: number | Uint8Array, options: RequestOptions = {}): Promise<Uint8Array> {
    const bytes = typeof target === 'number' ? new Uint8Array(this.#checkRange(offset, target)) : target
    this.#checkRange(offset, bytes.length)
    await this.#transfer(VIRTIO_BLK_T_IN, offset, bytes, options)
    return bytes
  }

  /**
   * Writes. Large ranges become several requests (VIRTIO_BLK_T_OUT). The bytes must stay as they are until it is done.
   *
   * @throws BlockDriverError ERR_BLOCK_READ_ONLY, ERR_BLOCK_RANGE, ERR_BLOCK_MEMORY, ERR_BLOCK_IO: a part may be written
   */
  async write (offset: number, bytes: Uint8Array, options: RequestOptions = {}): Promise<void> {
    this.#checkWritable()
    this.#checkRange(offset, bytes.length)
    await this.#transfer(VIRTIO_BLK_T_OUT, offset, bytes, options)
  }

  /**
   * Reads to guest memory, nothing copied: one request.
   *
   * @param address guest address, of {@link BlockDriver.allocate}.
   * @throws BlockDriverError ERR_BLOCK_RANGE, for an address that is none of the driver's too, ERR_BLOCK_IO
   */
  async readTo (address: number, offset: number, length: number, options: RequestOptions = {}): Promise<void> {
    await this.#inPlace(VIRTIO_BLK_T_IN, address, offset, length, options)
  }

  /** Writes from guest memory, nothing copied: one request. @throws as {@link BlockDriver.readTo}; BlockDriverError ERR_BLOCK_READ_ONLY */
  async writeFrom (address: number, offset: number, length: number, options: RequestOptions = {}): Promise<void> {
    this.#checkWritable()
    await this.#inPlace(VIRTIO_BLK_T_OUT, address, offset, length, options)
  }

  /** Makes all writes that were done before durable (VIRTIO_BLK_T_FLUSH). Done at once where the disk has no cache. @throws BlockDriverError ERR_BLOCK_IO */
  async flush (options: RequestOptions = {}): Promise<void> {
    if (!hasFeature(this.features, VIRTIO_BLK_F_FLUSH)) return this.#checkUsable()
    await this.#start({ type: VIRTIO_BLK_T_FLUSH, ...options })
  }

  /** The disk's serial, up to 20 characters (VIRTIO_BLK_T_GET_ID). @throws BlockDriverError ERR_BLOCK_UNSUPPORTED, ERR_BLOCK_IO */
  async getId (options: RequestOptions = {}): Promise<string> {
    const bytes = new Uint8Array(VIRTIO_BLK_ID_BYTES)
    await this.#start({ type: VIRTIO_BLK_T_GET_ID, bytes, ...options })
    const end = bytes.indexOf(0)
    return Buffer.from(bytes.subarray(0, end < 0 ? bytes.length : end)).toString()
  }

  /**
   * Tells the disk that a range is no longer needed: what it reads as then is anything. VIRTIO_BLK_T_DISCARD.
   *
   * @throws BlockDriverError ERR_BLOCK_UNSUPPORTED, ERR_BLOCK_READ_ONLY, ERR_BLOCK_RANGE, ERR_BLOCK_IO
   */
  async discard (offset: number, length: number, options: RequestOptions = {}): Promise<void> {
    if (!hasFeature(this.features, VIRTIO_BLK_F_DISCARD)) throw unsupported('DISCARD')
    await this.#ranges(VIRTIO_BLK_T_DISCARD, offset, length, this.config.discardMax, 0, options)
  }

  /** Fills a range with zeroes, without sending them. VIRTIO_BLK_T_WRITE_ZEROES. @throws as {@link BlockDriver.discard} */
  async writeZeroes (offset: number, length: number, { unmap = false, ...options }: WriteZeroesOptions = {}): Promise<void> {
    if (!hasFeature(this.features, VIRTIO_BLK_F_WRITE_ZEROES)) throw unsupported('WRITE_ZEROES')
    const flags = unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0
    await this.#ranges(VIRTIO_BLK_T_WRITE_ZEROES, offset, length, this.config.writeZeroesMax, flags, options)
  }

  /**
   * Hands the last queue out of this driver's hands: to `Queue.attach` in any thread. Nobody may use it any more by
   * the time of `close`.
   *
   * @throws BlockDriverError ERR_BLOCK_BUSY while it has requests in flight; ERR_BLOCK_NO_QUEUE
   */
  detachQueue (): QueueData {
    this.#checkUsable()
    const queue = this.#queues.at(-1)!
    if (queue.inFlight > 0) throw new BlockDriverError('ERR_BLOCK_BUSY', 'the queue has requests in flight: wait for them first')
    this.#queues.pop()
    queue.close(closed())
    return { ...queue.data, index: queue.index }
  }

  /**
   * Waits for what is in flight, stops the rings and gives everything back. No effect when closed; while it closes, a
   * second call waits for the first.
   *
   * @throws the signal's reason
   */
  async close ({ timeout = 5000, signal }: CloseOptions = {}): Promise<void> {
    const hurry = (): void => {
      this.#hurry.abort()
      this.#idle?.()
    }
    if (signal?.aborted === true) hurry()
    signal?.addEventListener('abort', hurry)
    try {
      await (this.#closing ??= this.#close(timeout))
    } finally {
      signal?.removeEventListener('abort', hurry)
    }
    signal?.throwIfAborted()
  }

  /** The same as `close()`, for `await using`. */
  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  async #close (timeout: number): Promise<void> {
    if (!this.#isIdle() && !this.#hurry.signal.aborted) {
      let timer: NodeJS.Timeout | undefined
      await new Promise<void>((resolve) => {
        this.#idle = resolve
        timer = setTimeout(resolve, timeout)
      })
      clearTimeout(timer)
    }
    this.#release(closed())
    await this.#session.close(this.#hurry.signal)
  }

  #isIdle (): boolean {
    return this.#waiting.length === 0 && this.#queues.every((queue) => queue.inFlight === 0)
  }

  async #transfer (type: number, offset: number, bytes: Uint8Array, options: RequestOptions): Promise<void> {
    const chunk = Math.min(CHUNK_BYTES, this.#transferMax())
    const parts: Promise<void>[] = []
    for (let at = 0; at < bytes.length; at += chunk) {
      parts.push(this.#start({ type, sector: (offset + at) / SECTOR_BYTES, bytes: bytes.subarray(at, at + chunk), ...options }))
    }
    await allDone(parts)
  }

  async #inPlace (type: number, address: number, offset: number, length: number, options: RequestOptions): Promise<void> {
    this.#checkRange(offset, length)
    if (length > this.#transferMax()) throw range(`one request moves up to ${this.#transferMax()} bytes: not ${length}`)
    if (this.memory.translate(address, length, true) === 0) throw range(`guest address ${address} is none of this driver's memory`)
    await this.#start({ type, sector: offset / SECTOR_BYTES, guest: { address, length }, ...options })
  }

  async #ranges (type: number, offset: number, length: number, most: number, flags: number, options: RequestOptions): Promise<void> {
    this.#checkWritable()
    this.#checkRange(offset, length)
    const parts: Promise<void>[] = []
    for (let at = 0; at < length; at += most) {
      const bytes = new Uint8Array(VIRTIO_BLK_RANGE_BYTES)
      const view = new DataView(bytes.buffer)
      view.setBigUint64(0, BigInt((offset + at) / SECTOR_BYTES), true)
      view.setUint32(8, Math.min(most, length - at) / SECTOR_BYTES, true)
      view.setUint32(12, flags, true)
      parts.push(this.#start({ type, bytes, ...options }))
    }
    await allDone(parts)
  }

  /** The most bytes of one request, in whole sectors. */
  #transferMax (): number {
    this.#checkUsable()
    return Math.floor(Math.min(this.#queues[0].transferMax, this.#pool.capacity) / SECTOR_BYTES) * SECTOR_BYTES
  }

  #start (init: RequestInit): Promise<void> {
    this.#checkUsable()
    const request = new Request(init)
    if (!request.settled) {
      this.#waiting.push(request)
      // Behind others, its turn comes when they end.
      if (this.#waiting.length === 1) this.#startWaiting()
    }
    return request.promise
  }

  #startWaiting (): void {
    while (this.#waiting.length > 0) {
      const request = this.#waiting[0]
      if (request.settled) request.fail(closed())
      else if (!this.#submit(request)) break
      this.#waiting.shift()
    }
    // Nothing will end that could make room: the memory is in the hands of `allocate`.
    if (this.#waiting.length > 0 && this.#queues.every((queue) => queue.inFlight === 0)) {
      const request = this.#waiting.shift()!
      request.fail(noMemory(request.length))
      this.#startWaiting()
    }
  }

  #submit (request: Request): boolean {
    const queue = this.#queues.reduce((least, other) => other.inFlight < least.inFlight ? other : least)
    return request.prepare(this.#pool) && queue.submit(request)
  }

  #progress (failure: Error | undefined): void {
    if (failure !== undefined) this.#break(failure as BlockDriverError)
    else this.#startWaiting()
    if (this.#isIdle()) this.#idle?.()
  }

  /** The server is another one. @returns where each queue stands */
  #resume (isRecorded: boolean): number[] {
    if (this.#queues.length < this.#session.queues.length) {
      throw new BlockDriverError('ERR_BLOCK_DISCONNECTED', 'the server went away: with a detached queue there is no going on with another')
    }
    const lost = new BlockDriverError('ERR_BLOCK_DISCONNECTED', 'the server went away, without a record of what was in flight: it may have been done or not')
    for (const queue of [...this.#queues]) {
      if (isRecorded) queue.collect()
      else queue.restart(lost)
    }
    if (this.#failure !== undefined) throw this.#failure
    return this.#queues.map((queue) => queue.index)
  }

  /** Nothing more can be had from the server: all calls, now and later, fail with this. */
  #break (error: BlockDriverError): void {
    this.#failure ??= error
    this.#release(error)
    this.#idle?.()
  }

  #release (error: BlockDriverError): void {
    for (const queue of this.#queues) queue.close(error)
    this.#queues.length = 0
    for (const request of this.#waiting.splice(0)) request.fail(error)
  }

  #checkUsable (): void {
    if (this.#closing !== undefined) throw closed()
    if (this.#failure !== undefined) throw this.#failure
    if (this.#queues.length === 0) throw new BlockDriverError('ERR_BLOCK_NO_QUEUE', 'all queues of this driver were detached: connect with one more')
  }

  #checkWritable (): void {
    if (this.config.readOnly) throw new BlockDriverError('ERR_BLOCK_READ_ONLY', 'the disk is read-only')
  }

  #checkRange (offset: number, length: number): number {
    for (const [name, value] of Object.entries({ offset, length })) {
      if (!Number.isSafeInteger(value) || value < 0 || value % SECTOR_BYTES !== 0) {
        throw range(`${name} ${value}: a multiple of ${SECTOR_BYTES} is wanted`)
      }
    }
    if (offset + length > this.config.capacity) {
      throw range(`${length} bytes at offset ${offset} reach past the end of the disk, which has ${this.config.capacity} bytes`)
    }
    return length
  }
}

/** Waits for all, so that none is on its way any more when one has failed. */
async function allDone (parts: Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(parts)) {
    if (result.status === 'rejected') throw result.reason
  }
}

function closed (): BlockDriverError {
  return new BlockDriverError('ERR_BLOCK_CLOSED', 'the driver is closed')
}

function range (message: string): BlockDriverError {
  return new BlockDriverError('ERR_BLOCK_RANGE', message)
}

function unsupported (feature: string): BlockDriverError {
  return new BlockDriverError('ERR_BLOCK_UNSUPPORTED', `the disk did not offer ${feature}`)
}

function noMemory (bytes: number): BlockDriverError {
  return new BlockDriverError('ERR_BLOCK_MEMORY', `no ${bytes} contiguous bytes are free in the driver's memory: free buffers, or connect with more memoryBytes`)
}
