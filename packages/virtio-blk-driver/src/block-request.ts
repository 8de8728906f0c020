import { STATUS_PENDING, readsFromDisk } from './request.ts'
import { SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP } from '@node-vmm/virtio-blk'
import type { BufferPool, GuestBuffer } from './buffer-pool.ts'
import { BlockDriverError } from './errors.ts'

/** What a request is about. */
export interface RequestInit {
  /** `VIRTIO_BLK_T_*`. */
  readonly type: number
  /** The first sector. @default 0 */
  readonly sector?: number
  /** Data in guest memory, used in place. @default none */
  readonly guest?: { readonly address: number, readonly length: number }
  /** Data in the caller's memory, copied through guest memory. @default none */
  readonly bytes?: Uint8Array
  /** Gives the caller up, whatever the disk does. @default never */
  readonly signal?: AbortSignal | undefined
}

/**
 * One request and the promise of its end. A request that was given up while the disk has it goes on by itself: its
 * bounce buffer is freed when the disk is done, and the caller's memory is not touched any more.
 */
export class Request {
  readonly type: number
  readonly sector: number
  readonly promise: Promise<void>
  #address: number
  #length: number
  #bytes: Uint8Array | undefined
  #bounce: GuestBuffer | undefined
  #settled = false
  #resolve!: () => void
  #reject!: (error: unknown) => void
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = (): void => this.#settle(() => this.#reject(this.#signal!.reason))

  constructor ({ type, sector = 0, guest, bytes, signal }: RequestInit) {
    this.type = type
    this.sector = sector
    this.#address = guest?.address ?? 0
    this.#length = guest?.length ?? bytes?.length ?? 0
    this.#bytes = bytes
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.#signal = signal
    if (signal?.aborted === true) this.#onAbort()
    else signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  /** Guest address of the data. */
  get address (): number {
    return this.#address
  }

  /** Bytes of the data. */
  get length (): number {
    return this.#length
  }

  /** Failed or given up already: not to be started. */
  get settled (): boolean {
    return this.#settled
  }

  /** Finds guest memory for the caller's data, once. @returns false when none is free */
  prepare (pool: BufferPool): boolean {
    if (this.#bytes === undefined || this.#bounce !== undefined) return true
    this.#bounce = pool.allocate(this.#length)
    if (this.#bounce === undefined) return false
    this.#address = this.#bounce.address
    if (!readsFromDisk(this.type)) this.#bounce.bytes.set(this.#bytes)
    return true
  }

  /** The disk is done. */
  finish (status: number): void {
    if (status !== VIRTIO_BLK_S_OK) return this.fail(statusError(this.type, this.sector, status))
    if (this.#bounce !== undefined && readsFromDisk(this.type)) this.#bytes?.set(this.#bounce.bytes)
    this.#free()
    this.#settle(() => this.#resolve())
  }

  /** It ends without success; the disk does not have it, or is done with it. */
  fail (error: Error): void {
    this.#free()
    this.#settle(() => this.#reject(error))
  }

  #free (): void {
    this.#bounce?.free()
    this.#bounce = undefined
  }

  #settle (settle: () => void): void {
    if (this.#settled) return
    this.#settled = true
    this.#bytes = undefined
    this.#signal?.removeEventListener('abort', this.#onAbort)
    settle()
  }
}

function statusError (type: number, sector: number, status: number): BlockDriverError {
  const what = `request of type ${type} at offset ${sector * SECTOR_BYTES}`
  if (status === VIRTIO_BLK_S_IOERR) return new BlockDriverError('ERR_BLOCK_IO', `${what}: the disk reports an I/O error`, { status })
  if (status === VIRTIO_BLK_S_UNSUPP) return new BlockDriverError('ERR_BLOCK_UNSUPPORTED', `${what}: the disk does not support it`, { status })
  if (status === STATUS_PENDING) return new BlockDriverError('ERR_BLOCK_BROKEN', `${what}: the server gave it back without a status`)
  return new BlockDriverError('ERR_BLOCK_IO', `${what}: the disk reports status ${status}`, { status })
}
