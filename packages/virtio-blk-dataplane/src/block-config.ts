// Virtio 1.2, 5.2.3 "Feature bits" and 5.2.4 "Device configuration layout". The names are the specification's.

export const VIRTIO_BLK_F_SEG_MAX = 2
export const VIRTIO_BLK_F_RO = 5
export const VIRTIO_BLK_F_BLK_SIZE = 6
export const VIRTIO_BLK_F_FLUSH = 9
export const VIRTIO_BLK_F_TOPOLOGY = 10
export const VIRTIO_BLK_F_MQ = 12
export const VIRTIO_F_INDIRECT_DESC = 28
export const VIRTIO_F_EVENT_IDX = 29
export const VIRTIO_F_VERSION_1 = 32

/** Bytes of `struct virtio_blk_config` with the fields that virtio 1.2 has. */
export const BLOCK_CONFIG_BYTES = 96
/** Data segments of one request, at most: as many as QEMU's devices say with a ring of 128. */
export const SEGMENTS_MAX = 126

/** What a guest may know of its disk. */
export interface BlockGeometry {
  /** Sectors of 512 bytes. */
  readonly sectors: number
  readonly readOnly: boolean
  /** Bytes of a logical block: smaller or unaligned requests are slow, but work. */
  readonly blockSize: number
  readonly queues: number
}

/** The feature bits that a disk offers: only what has an effect. CONFIG_WCE has none, and is not offered. */
export function blockFeatures ({ readOnly, queues }: BlockGeometry): bigint {
  const bits = [
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1
  ]
  if (readOnly) bits.push(VIRTIO_BLK_F_RO)
  if (queues > 1) bits.push(VIRTIO_BLK_F_MQ)
  return bits.reduce((features, bit) => features | 1n << BigInt(bit), 0n)
}

/** The configuration space of a disk, little-endian. */
export function blockConfig ({ sectors, blockSize, queues }: BlockGeometry): Uint8Array {
  const view = new DataView(new ArrayBuffer(BLOCK_CONFIG_BYTES))
  view.setBigUint64(0, BigInt(sectors), true) // capacity
  view.setUint32(12, SEGMENTS_MAX, true) // seg_max
  view.setUint32(20, blockSize, true) // blk_size
  view.setUint16(26, 1, true) // topology.min_io_size, in blocks
  view.setUint8(32, 1) // writeback: a flush is needed for durability
  view.setUint16(34, queues, true) // num_queues
  return new Uint8Array(view.buffer)
}
