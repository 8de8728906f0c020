import {
  CONFIG_BLK_SIZE, CONFIG_CAPACITY, CONFIG_MAX_DISCARD_SECTORS, CONFIG_MAX_WRITE_ZEROES_SECTORS, CONFIG_NUM_QUEUES,
  CONFIG_SEG_MAX, CONFIG_SIZE_MAX, SECTOR_BYTES, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES
} from '@node-vmm/virtio-blk'
import { hasFeature } from '@node-vmm/vring'

/** Bytes of the configuration that the driver reads: up to the limits of WRITE_ZEROES. */
export const BLOCK_CONFIG_BYTES = 60

/** What a disk says of itself: its configuration space, virtio 1.2, 5.2.4, and a few feature bits. */
export interface BlockConfig {
  /** Bytes. */
  readonly capacity: number
  /** Bytes of a block: the unit that the disk works best with. 512 when it does not say. */
  readonly blockSize: number
  /** Writes fail. */
  readonly readOnly: boolean
  /** The most bytes of one data segment. 2^32 - 1 when it does not say. */
  readonly sizeMax: number
  /** The most data segments of one request. 1 when it does not say. */
  readonly segmentsMax: number
  /** Request queues. */
  readonly queues: number
  /** The most bytes that one DISCARD takes; 0 when it takes none. */
  readonly discardMax: number
  /** The most bytes that one WRITE_ZEROES takes; 0 when it takes none. */
  readonly writeZeroesMax: number
}

/** Reads the configuration space: fields whose feature was not agreed are not looked at. */
export function parseBlockConfig (bytes: Uint8Array, features: bigint): BlockConfig {
  const space = new Uint8Array(BLOCK_CONFIG_BYTES)
  space.set(bytes.subarray(0, BLOCK_CONFIG_BYTES))
  const view = new DataView(space.buffer)
  const u32 = (bit: number, offset: number, otherwise: number): number =>
    (hasFeature(features, bit) ? view.getUint32(offset, true) : 0) || otherwise
  return {
    capacity: Number(view.getBigUint64(CONFIG_CAPACITY, true)) * SECTOR_BYTES,
    blockSize: u32(VIRTIO_BLK_F_BLK_SIZE, CONFIG_BLK_SIZE, SECTOR_BYTES),
    readOnly: hasFeature(features, VIRTIO_BLK_F_RO),
    sizeMax: u32(VIRTIO_BLK_F_SIZE_MAX, CONFIG_SIZE_MAX, 0xffffffff),
    segmentsMax: u32(VIRTIO_BLK_F_SEG_MAX, CONFIG_SEG_MAX, 1),
    queues: hasFeature(features, VIRTIO_BLK_F_MQ) ? view.getUint16(CONFIG_NUM_QUEUES, true) : 1,
    discardMax: u32(VIRTIO_BLK_F_DISCARD, CONFIG_MAX_DISCARD_SECTORS, 0) * SECTOR_BYTES,
    writeZeroesMax: u32(VIRTIO_BLK_F_WRITE_ZEROES, CONFIG_MAX_WRITE_ZEROES_SECTORS, 0) * SECTOR_BYTES
  }
}
