import {
  CONFIG_BLK_SIZE, CONFIG_BYTES, CONFIG_CAPACITY, CONFIG_DISCARD_SECTOR_ALIGNMENT, CONFIG_MAX_DISCARD_SECTORS,
  CONFIG_MAX_DISCARD_SEG, CONFIG_MAX_WRITE_ZEROES_SECTORS, CONFIG_MAX_WRITE_ZEROES_SEG, CONFIG_MIN_IO_SIZE, CONFIG_NUM_QUEUES,
  CONFIG_PHYSICAL_BLOCK_EXP, CONFIG_SEG_MAX, CONFIG_WRITE_ZEROES_MAY_UNMAP, CONFIG_WRITEBACK, SECTOR_BYTES, VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES
} from '@node-vmm/virtio-blk'
import {
  featureMask, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1
} from '@node-vmm/vring'

/** Data segments of one request, at most: as many as QEMU's devices say with a ring of 128. */
export const SEGMENTS_MAX = 126
/** Sectors of one discard or write-zeroes segment, at most: 1 GiB. */
export const RANGE_SECTORS_MAX = 0x200000

/** What a guest may know of its disk: virtio 1.2, 5.2.4. */
export interface BlockGeometry {
  /** Sectors of 512 bytes. */
  readonly sectors: number
  /** Writes fail (VIRTIO_BLK_F_RO). */
  readonly readOnly: boolean
  /** Bytes of a logical block: requests are multiples of it. */
  readonly blockSize: number
  /** Bytes that are best read and written as a whole, a multiple of `blockSize`. */
  readonly physicalBlockSize: number
  /** Request queues, 1 or more (VIRTIO_BLK_F_MQ). */
  readonly queues: number
  /** The cache is written back at a flush; otherwise every write is stable when it completes. */
  readonly writeback: boolean
  /** Segments of one discard or write-zeroes request, at most; 0 offers neither. */
  readonly discardSegments: number
  /** The disk can flush: without, every write is stable when it completes, always. @default true */
  readonly flushes?: boolean
  /** The disk can discard. @default true */
  readonly discards?: boolean
  /** Packed rings are offered (VIRTIO_F_RING_PACKED). */
  readonly packed: boolean
  /** Requests are given back in order where the driver wants it (VIRTIO_F_IN_ORDER). */
  readonly inOrder: boolean
}

/** The feature bits that a disk offers: only what has an effect. */
export function blockFeatures (geometry: BlockGeometry): bigint {
  const { readOnly, queues, discardSegments, flushes = true, discards = true, packed, inOrder } = geometry
  const bits = [
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1
  ]
  if (flushes) bits.push(VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE)
  if (readOnly) bits.push(VIRTIO_BLK_F_RO)
  else if (discardSegments > 0) bits.push(VIRTIO_BLK_F_WRITE_ZEROES)
  if (!readOnly && discardSegments > 0 && discards) bits.push(VIRTIO_BLK_F_DISCARD)
  if (queues > 1) bits.push(VIRTIO_BLK_F_MQ)
  if (packed) bits.push(VIRTIO_F_RING_PACKED)
  if (inOrder) bits.push(VIRTIO_F_IN_ORDER)
  return featureMask(...bits)
}

/** The configuration space of a disk, little-endian. */
export function blockConfig ({ sectors, blockSize, physicalBlockSize, queues, writeback, discardSegments }: BlockGeometry): Uint8Array {
  const view = new DataView(new ArrayBuffer(CONFIG_BYTES))
  view.setBigUint64(CONFIG_CAPACITY, BigInt(sectors), true)
  view.setUint32(CONFIG_SEG_MAX, SEGMENTS_MAX, true)
  view.setUint32(CONFIG_BLK_SIZE, blockSize, true)
  view.setUint8(CONFIG_PHYSICAL_BLOCK_EXP, Math.log2(physicalBlockSize / blockSize))
  view.setUint16(CONFIG_MIN_IO_SIZE, physicalBlockSize / blockSize, true)
  view.setUint8(CONFIG_WRITEBACK, Number(writeback))
  view.setUint16(CONFIG_NUM_QUEUES, queues, true)
  // Never 0, not even where the feature is not offered: some drivers divide by these without looking at it.
  const segments = Math.max(1, discardSegments)
  view.setUint32(CONFIG_MAX_DISCARD_SECTORS, RANGE_SECTORS_MAX, true)
  view.setUint32(CONFIG_MAX_DISCARD_SEG, segments, true)
  view.setUint32(CONFIG_DISCARD_SECTOR_ALIGNMENT, physicalBlockSize / SECTOR_BYTES, true)
  view.setUint32(CONFIG_MAX_WRITE_ZEROES_SECTORS, RANGE_SECTORS_MAX, true)
  view.setUint32(CONFIG_MAX_WRITE_ZEROES_SEG, segments, true)
  view.setUint8(CONFIG_WRITE_ZEROES_MAY_UNMAP, 1)
  return new Uint8Array(view.buffer)
}
