// Virtio 1.2, 5.2.3 "Feature bits" of the block device, and the bits of section 6 that concern a driver.
// All are bit numbers.

/** `sizeMax` in the configuration is valid. */
export const VIRTIO_BLK_F_SIZE_MAX = 1
/** `segmentsMax` in the configuration is valid. */
export const VIRTIO_BLK_F_SEG_MAX = 2
/** The disk is read-only. */
export const VIRTIO_BLK_F_RO = 5
/** `blockSize` in the configuration is valid. */
export const VIRTIO_BLK_F_BLK_SIZE = 6
/** The disk has a cache, and FLUSH empties it. */
export const VIRTIO_BLK_F_FLUSH = 9
/** The disk says how its blocks are aligned. */
export const VIRTIO_BLK_F_TOPOLOGY = 10
/** The disk's cache can be switched between write-back and write-through. */
export const VIRTIO_BLK_F_CONFIG_WCE = 11
/** `queues` in the configuration is valid: there may be several. */
export const VIRTIO_BLK_F_MQ = 12
/** The disk can be told what is no longer needed. */
export const VIRTIO_BLK_F_DISCARD = 13
/** The disk can write zeroes without being sent them. */
export const VIRTIO_BLK_F_WRITE_ZEROES = 14
/** Descriptors may hold tables of descriptors. */
export const VIRTIO_F_INDIRECT_DESC = 28
/** Kicks and interrupts are asked for at an index. */
export const VIRTIO_F_EVENT_IDX = 29
/** The device follows virtio 1.0 or later: without it there is nothing to talk about here. */
export const VIRTIO_F_VERSION_1 = 32
/** The rings are packed: descriptors, available and used ring in one. */
export const VIRTIO_F_RING_PACKED = 34
/** The device gives requests back in the order in which they were made available. */
export const VIRTIO_F_IN_ORDER = 35

/** A mask of feature bits by their numbers. */
export function featureMask (...bits: readonly number[]): bigint {
  return bits.reduce((mask, bit) => mask | 1n << BigInt(bit), 0n)
}

/** Whether a mask has a bit. */
export function hasFeature (mask: bigint, bit: number): boolean {
  return (mask >> BigInt(bit) & 1n) === 1n
}

/** What the driver agrees to when it is offered. The layout and the order of the rings are options of their own. */
export const DRIVER_FEATURES: bigint = featureMask(
  VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1)
