import {
  SECTOR_BYTES, VIRTIO_BLK_HEADER_BYTES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_RANGE_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_BARRIER, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES
} from '@node-vmm/virtio-blk'

/** Sectors of one segment of a discard or write-zeroes request: what the configuration space says. */
const RANGE_SECTORS_MAX = 0x200000n

/** Sectors that a request works on: bytes of the disk. */
export interface Touched {
  readonly from: number
  readonly to: number
  readonly effect: 'read' | 'write' | 'zero' | 'discard'
}

/** What is to come of a request. */
export interface Verdict {
  readonly status: number
  /** What is written to the guest before the status. */
  readonly data: Uint8Array
  readonly touched: readonly Touched[]
}

/** A disk as the specification has it (virtio 1.2, 5.2.6): bytes in memory, one request after the other. */
export class DiskModel {
  readonly bytes: Buffer
  readonly readOnly: boolean
  readonly discardSegments: number
  readonly id: Buffer

  /** @param bytes of the disk alone */
  constructor (bytes: Buffer, { readOnly, discardSegments, serial }: { readOnly: boolean, discardSegments: number, serial: string }) {
    this.bytes = bytes
    this.readOnly = readOnly
    this.discardSegments = discardSegments
    this.id = Buffer.alloc(VIRTIO_BLK_ID_BYTES)
    this.id.write(serial)
  }

  /**
   * What a request is answered, of which the driver sent these bytes and offers so much room.
   *
   * @param sent the header and what is behind it
   * @param room bytes that the device may write, the status byte included
   * @returns undefined where there is no header, or no room to answer
   */
  judge (sent: Buffer, room: number): Verdict | undefined {
    if (sent.length < VIRTIO_BLK_HEADER_BYTES || room < 1) return undefined
    const type = (sent.readUInt32LE(0) & ~VIRTIO_BLK_T_BARRIER) >>> 0
    const sector = sent.readBigUInt64LE(8)
    const payload = sent.subarray(VIRTIO_BLK_HEADER_BYTES)
    switch (type) {
      case VIRTIO_BLK_T_IN: return this.#transfer(sector, room - 1, 'read')
      case VIRTIO_BLK_T_OUT: return this.readOnly ? answer(VIRTIO_BLK_S_IOERR) : this.#transfer(sector, payload.length, 'write')
      case VIRTIO_BLK_T_FLUSH: return answer(VIRTIO_BLK_S_OK)
      case VIRTIO_BLK_T_GET_ID: return answer(VIRTIO_BLK_S_OK, [], this.id.subarray(0, room - 1))
      case VIRTIO_BLK_T_DISCARD: return this.#ranges(payload, true)
      case VIRTIO_BLK_T_WRITE_ZEROES: return this.#ranges(payload, false)
      default: return answer(VIRTIO_BLK_S_UNSUPP)
    }
  }

  /** Has the disk change as the request does. */
  apply ({ touched }: Verdict, payload: Buffer): void {
    for (const { from, to, effect } of touched) {
      if (effect === 'write') payload.copy(this.bytes, from, 0, to - from)
      else if (effect !== 'read') this.bytes.fill(0, from, to)
    }
  }

  #transfer (sector: bigint, length: number, effect: 'read' | 'write'): Verdict {
    const from = this.#offset(sector, BigInt(length) / 512n)
    if (from === undefined || length % SECTOR_BYTES !== 0) return answer(VIRTIO_BLK_S_IOERR)
    if (length === 0) return answer(VIRTIO_BLK_S_OK)
    const touched = [{ from, to: from + length, effect }]
    return answer(VIRTIO_BLK_S_OK, touched, effect === 'read' ? Buffer.from(this.bytes.subarray(from, from + length)) : undefined)
  }

  #offset (sector: bigint, sectors: bigint): number | undefined {
    return (sector + sectors) * BigInt(SECTOR_BYTES) <= BigInt(this.bytes.length) ? Number(sector) * SECTOR_BYTES : undefined
  }

  #ranges (payload: Buffer, discard: boolean): Verdict {
    if (this.discardSegments === 0) return answer(VIRTIO_BLK_S_UNSUPP)
    const count = payload.length / VIRTIO_BLK_RANGE_BYTES
    if (this.readOnly || count === 0 || !Number.isInteger(count)) return answer(VIRTIO_BLK_S_IOERR)
    if (count > this.discardSegments) return answer(VIRTIO_BLK_S_UNSUPP)
    const touched: Touched[] = []
    for (let at = 0; at < payload.length; at += VIRTIO_BLK_RANGE_BYTES) {
      const [sectors, flags] = [payload.readUInt32LE(at + 8), payload.readUInt32LE(at + 12)]
      if (flags > (discard ? 0 : 1)) return answer(VIRTIO_BLK_S_UNSUPP)
      const from = this.#offset(payload.readBigUInt64LE(at), BigInt(sectors))
      if (from === undefined || BigInt(sectors) > RANGE_SECTORS_MAX) return answer(VIRTIO_BLK_S_IOERR)
      if (sectors > 0) touched.push({ from, to: from + sectors * SECTOR_BYTES, effect: discard ? 'discard' : 'zero' })
    }
    return answer(VIRTIO_BLK_S_OK, touched)
  }
}

function answer (status: number, touched: readonly Touched[] = [], data: Uint8Array = new Uint8Array(0)): Verdict {
  return { status, data, touched }
}
