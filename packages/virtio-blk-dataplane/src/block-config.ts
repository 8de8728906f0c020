// Virtio 1.2, 5.2.3 "Feature bits" and 5.2.4 "Device configuration layout". The names are the specification's.

export const VIRTIO_BLK_F_SEG_MAX = 2
export const VIRTIO_BLK_F_RO = 5
export const VIRTIO_BLK_F_BLK_SIZE = 6
export const VIRTIO_BLK_F_FLUSH = 9
export const VIRTIO_BLK_F_TOPOLOGY = 10
export const VIRTIO_BLK_F_CONFIG_WCE = 11
export const VIRTIO_BLK_F_MQ = 12
export const VIRTIO_BLK_F_DISCARD = 13
export const VIRTIO_BLK_F_WRITE_ZEROES = 14
export const VIRTIO_F_INDIRECT_DESC = 28
export const VIRTIO_F_EVENT_IDX = 29
export const VIRTIO_F_VERSION_1 = 32
export const VIRTIO_F_RING_PACKED = 34
export const VIRTIO_F_IN_ORDER = 35

/** Bytes of `struct virtio_blk_config` with the fields that virtio 1.2 has. */
export const BLOCK_CONFIG_BYTES = 96
/** Where the write cache's mode stands, the one field that a driver may write: 1 writeback, 0 write-through. */
export const WRITEBACK_OFFSET = 32
/** Data segments of one request, at most: as many as QEMU's devices say with a ring of 128. */
export const SEGMENTS_MAX = 126
/** Sectors of one discard or write-zeroes segment, at most: 1 GiB. */
export const RANGE_SECTORS_MAX = 0x200000

/** What a guest may know of its disk. */
export interface BlockGeometry {
  /** Sectors of 512 bytes. */
  readonly sectors: number
  readonly readOnly: boolean
  /** Bytes of a logical block: requests are multiples of it. */
  readonly blockSize: number
  /** Bytes that are best read and written as a whole, a multiple of `blockSize`. */
  readonly physicalBlockSize: number
  readonly queues: number
  /** The cache is written back at a flush; otherwise every write is stable when it completes. */
  readonly writeback: boolean
  /** Segments of one discard or write-zeroes request, at most; 0 offers neither. */
  readonly discardSegments: number
  readonly packed: boolean
  readonly inOrder: boolean
}

/** The feature bits that a disk offers: only what has an effect. */
export function blockFeatures ({ readOnly, queues, discardSegments, packed, inOrder }: BlockGeometry): bigint {
  const bits = [
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_CONFIG_WCE,
    VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1
  ]
  if (readOnly) bits.push(VIRTIO_BLK_F_RO)
  else if (discardSegments > 0) bits.push(VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES)
  if (queues > 1) bits.push(VIRTIO_BLK_F_MQ)
  if (packed) bits.push(VIRTIO_F_RING_PACKED)
  if (inOrder) bits.push(VIRTIO_F_IN_ORDER)
  return bits.reduce((features, bit) => features | 1n << BigInt(bit), 0n)
}

/** The configuration space of a disk, little-endian. */
export function blockConfig ({ sectors, blockSize, physicalBlockSize, queues, writeback, discardSegments }: BlockGeometry): Uint8Array {
  const view = new DataView(new ArrayBuffer(BLOCK_CONFIG_BYTES))
  view.setBigUint64(0, BigInt(sectors), true) // capacity
  view.setUint32(12, SEGMENTS_MAX, true) // seg_max
  view.setUint32(20, blockSize, true) // blk_size
  view.setUint8(24, Math.log2(physicalBlockSize / blockSize)) // topology.physical_block_exp
  view.setUint16(26, physicalBlockSize / blockSize, true) // topology.min_io_size, in blocks
  view.setUint8(WRITEBACK_OFFSET, Number(writeback)) // writeback
  view.setUint16(34, queues, true) // num_queues
  // Never 0, not even where the feature is not offered: some drivers divide by these without looking at it.
  const segments = Math.max(1, discardSegments)
  view.setUint32(36, RANGE_SECTORS_MAX, true) // max_discard_sectors
  view.setUint32(40, segments, true) // max_discard_seg
  view.setUint32(44, physicalBlockSize / 512, true) // discard_sector_alignment
  view.setUint32(48, RANGE_SECTORS_MAX, true) // max_write_zeroes_sectors
  view.setUint32(52, segments, true) // max_write_zeroes_seg
  view.setUint8(56, 1) // write_zeroes_may_unmap
  return new Uint8Array(view.buffer)
}
