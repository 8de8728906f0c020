import type { IoQueue } from '@node-vmm/ioq'
import type { DescriptorChain } from '@node-vmm/vring'
import { RANGE_SECTORS_MAX } from './block-config.ts'
import type { ServedDisk } from './disk.ts'
import {
  SECTOR_BYTES, VIRTIO_BLK_HEADER_BYTES, VIRTIO_BLK_RANGE_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
} from '@node-vmm/virtio-blk'

/** What `take` answers when the request is in flight. */
export const IN_FLIGHT = -1

interface Range {
  /** Bytes. */
  readonly offset: number
  readonly length: number
  readonly unmap: boolean
}

interface RangeRequest {
  readonly discard: boolean
  /** What is left to be done, the next one at the end. */
  readonly ranges: Range[]
  /** A flush is to follow: the guest wants writes to be stable when they complete. */
  flush: boolean
}

/** Discard and write-zeroes requests: ranges of the disk instead of data. One range after the other. */
export class RangeRequests {
  readonly #disk: ServedDisk
  readonly #ioq: IoQueue
  readonly #payload: Uint8Array
  /** By head: looked at for each completion. */
  readonly #requests: (RangeRequest | undefined)[]

  constructor (disk: ServedDisk, ioq: IoQueue) {
    this.#disk = disk
    this.#ioq = ioq
    this.#requests = new Array(ioq.depth).fill(undefined)
    this.#payload = new Uint8Array(VIRTIO_BLK_HEADER_BYTES + VIRTIO_BLK_RANGE_BYTES * disk.discardSegments)
  }

  /** Checks a request as a whole (virtio 1.2, 5.2.6.2) and queues its first range. @returns a status, or IN_FLIGHT */
  take (chain: DescriptorChain, type: number, durable: boolean): number {
    const { discardSegments, readOnly } = this.#disk
    const bytes = chain.readableBytes - VIRTIO_BLK_HEADER_BYTES
    if (discardSegments === 0) return VIRTIO_BLK_S_UNSUPP
    if (readOnly || bytes === 0 || bytes % VIRTIO_BLK_RANGE_BYTES !== 0) return VIRTIO_BLK_S_IOERR
    if (bytes > VIRTIO_BLK_RANGE_BYTES * discardSegments) return VIRTIO_BLK_S_UNSUPP
    const copied = chain.copyReadable(this.#payload)
    const view = new DataView(this.#payload.buffer, 0, copied)
    const ranges: Range[] = []
    const discard = type === VIRTIO_BLK_T_DISCARD
    for (let at = VIRTIO_BLK_HEADER_BYTES; at < copied; at += VIRTIO_BLK_RANGE_BYTES) {
      const flags = view.getUint32(at + 12, true)
      if ((flags & ~VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) !== 0 || (discard && flags !== 0)) return VIRTIO_BLK_S_UNSUPP
      const sector = Number(view.getBigUint64(at, true))
      const sectors = view.getUint32(at + 8, true)
      if (sectors > RANGE_SECTORS_MAX || sector > this.#disk.sectors || sectors > this.#disk.sectors - sector) return VIRTIO_BLK_S_IOERR
      if (sectors > 0) ranges.push({ offset: sector * SECTOR_BYTES, length: sectors * SECTOR_BYTES, unmap: flags !== 0 })
    }
    if (ranges.length === 0) return VIRTIO_BLK_S_OK
    const request: RangeRequest = { discard, ranges: ranges.reverse(), flush: durable }
    this.#requests[chain.head] = request
    this.#queueNext(chain.head, request)
    return IN_FLIGHT
  }

  /** Goes on with a request of which a part is complete. @returns whether another part is queued now */
  next (head: number, result: number): boolean {
    const request = this.#requests[head]
    if (request === undefined) return false
    if (result >= 0 && this.#queueNext(head, request)) return true
    this.#requests[head] = undefined
    return false
  }

  #queueNext (head: number, request: RangeRequest): boolean {
    const range = request.ranges.pop()
    if (range !== undefined) {
      this.#ioq.offset[head] = range.offset
      this.#ioq.length[head] = range.length
      if (request.discard) this.#ioq.discard(head)
      else this.#ioq.writeZeroes(head, range.unmap)
      return true
    }
    if (!request.flush) return false
    request.flush = false
    this.#ioq.flush(head)
    return true
  }
}
