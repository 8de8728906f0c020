// Virtio 1.2, 5.2.6 "Device Operation". The names are the specification's.

export const VIRTIO_BLK_T_IN = 0
export const VIRTIO_BLK_T_OUT = 1
export const VIRTIO_BLK_T_FLUSH = 4
export const VIRTIO_BLK_T_GET_ID = 8
/** Linux once set this bit, though no device offered what it stands for: it is masked. */
export const VIRTIO_BLK_T_BARRIER = 0x80000000

export const VIRTIO_BLK_S_OK = 0
export const VIRTIO_BLK_S_IOERR = 1
export const VIRTIO_BLK_S_UNSUPP = 2

/** Bytes of a request's header: type, reserved, sector. */
export const VIRTIO_BLK_HEADER_BYTES = 16
/** Bytes of the device's id, padded with zeros. */
export const VIRTIO_BLK_ID_BYTES = 20
/** Bytes of a sector: the unit of capacity and of addresses, whatever the block size. */
export const SECTOR_BYTES = 512

export const VIRTIO_BLK_T_DISCARD = 11
export const VIRTIO_BLK_T_WRITE_ZEROES = 13
/** In a write-zeroes segment's flags: the device may give the space back. */
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1
/** Bytes of a discard or write-zeroes segment: sector, number of sectors, flags. */
export const VIRTIO_BLK_RANGE_BYTES = 16
