/** Number of a feature bit, as are all of these (virtio 1.2, 5.2.3): `size_max` in the configuration is valid. */
export const VIRTIO_BLK_F_SIZE_MAX = 1
/** `seg_max` in the configuration is valid. */
export const VIRTIO_BLK_F_SEG_MAX = 2
/** The disk is read-only. */
export const VIRTIO_BLK_F_RO = 5
/** `blk_size` in the configuration is valid. */
export const VIRTIO_BLK_F_BLK_SIZE = 6
/** The disk has a cache, and FLUSH empties it. */
export const VIRTIO_BLK_F_FLUSH = 9
/** The disk says how its blocks are aligned. */
export const VIRTIO_BLK_F_TOPOLOGY = 10
/** The driver may switch the disk's cache between writeback and write-through. */
export const VIRTIO_BLK_F_CONFIG_WCE = 11
/** `num_queues` in the configuration is valid: there may be several. */
export const VIRTIO_BLK_F_MQ = 12
/** The disk can be told what is no longer needed. */
export const VIRTIO_BLK_F_DISCARD = 13
/** The disk can write zeroes without being sent them. */
export const VIRTIO_BLK_F_WRITE_ZEROES = 14
