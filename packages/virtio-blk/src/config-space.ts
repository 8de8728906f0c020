// Virtio 1.2, 5.2.4 "Device configuration layout", `struct virtio_blk_config`: where each field stands, in bytes.

/** u64, sectors of 512 bytes. */
export const CONFIG_CAPACITY = 0
/** u32, bytes of a segment at most. */
export const CONFIG_SIZE_MAX = 8
/** u32, data segments of a request at most. */
export const CONFIG_SEG_MAX = 12
/** u32, bytes of a logical block. */
export const CONFIG_BLK_SIZE = 20
/** u8, logical blocks of a physical one, as a power of two. */
export const CONFIG_PHYSICAL_BLOCK_EXP = 24
/** u16, the smallest good request, in logical blocks. */
export const CONFIG_MIN_IO_SIZE = 26
/** u8, 1 for a cache that a flush writes back, 0 for write-through: the one field that a driver may write. */
export const CONFIG_WRITEBACK = 32
/** u16. */
export const CONFIG_NUM_QUEUES = 34
/** u32, sectors. */
export const CONFIG_MAX_DISCARD_SECTORS = 36
/** u32. */
export const CONFIG_MAX_DISCARD_SEG = 40
/** u32, sectors. */
export const CONFIG_DISCARD_SECTOR_ALIGNMENT = 44
/** u32, sectors. */
export const CONFIG_MAX_WRITE_ZEROES_SECTORS = 48
/** u32. */
export const CONFIG_MAX_WRITE_ZEROES_SEG = 52
/** u8, whether writing zeroes may give the space back. */
export const CONFIG_WRITE_ZEROES_MAY_UNMAP = 56
/** Bytes of the fields that virtio 1.2 has. */
export const CONFIG_BYTES = 96
