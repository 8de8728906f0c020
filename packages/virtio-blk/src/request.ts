/** Request type: read sectors. Virtio 1.2, 5.2.6, as are all of these. */
export const VIRTIO_BLK_T_IN = 0
/** Request type: write sectors. */
export const VIRTIO_BLK_T_OUT = 1
/** Linux once set this bit beside the type, though no device offered what it stands for: devices mask it. */
export const VIRTIO_BLK_T_BARRIER = 0x80000000
/** Request type: make all completed writes durable. */
export const VIRTIO_BLK_T_FLUSH = 4
/** Request type: read the disk's serial, 20 bytes. */
export const VIRTIO_BLK_T_GET_ID = 8
/** Request type: forget ranges. */
export const VIRTIO_BLK_T_DISCARD = 11
/** Request type: fill ranges with zeroes. */
export const VIRTIO_BLK_T_WRITE_ZEROES = 13

/** Status: done. */
export const VIRTIO_BLK_S_OK = 0
/** Status: failed. */
export const VIRTIO_BLK_S_IOERR = 1
/** Status: the disk does not do this. */
export const VIRTIO_BLK_S_UNSUPP = 2

/** Bytes of a request's header: type, a reserved word, and the first sector. */
export const VIRTIO_BLK_HEADER_BYTES = 16
/** Bytes of the serial, padded with zeroes. */
export const VIRTIO_BLK_ID_BYTES = 20
/** Bytes of a sector, whatever the disk's block size: the unit of offsets and lengths. */
export const SECTOR_BYTES = 512
/** Bytes of one range of a DISCARD or WRITE_ZEROES: first sector, count and flags. */
export const VIRTIO_BLK_RANGE_BYTES = 16
/** Flag of a range to zero: the disk may also give the space back. */
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1
