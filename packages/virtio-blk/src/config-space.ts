/** Where `capacity` stands in `struct virtio_blk_config`, in bytes, as with all of these: u64, sectors of 512 bytes. Virtio 1.2, 5.2.4. */
export const CONFIG_CAPACITY = 0
/** `size_max`, u32: bytes of a segment at most. */
export const CONFIG_SIZE_MAX = 8
/** `seg_max`, u32: data segments of a request at most. */
export const CONFIG_SEG_MAX = 12
/** `blk_size`, u32: bytes of a logical block. */
export const CONFIG_BLK_SIZE = 20
/** `physical_block_exp`, u8: logical blocks of a physical one, as a power of two. */
export const CONFIG_PHYSICAL_BLOCK_EXP = 24
/** `min_io_size`, u16: the smallest good request, in logical blocks. */
export const CONFIG_MIN_IO_SIZE = 26
/** `writeback`, u8: 1 for a cache that a flush writes back, 0 for write-through: the one field that a driver may write. */
export const CONFIG_WRITEBACK = 32
/** `num_queues`, u16. */
export const CONFIG_NUM_QUEUES = 34
/** `max_discard_sectors`, u32: sectors of one range to discard at most. */
export const CONFIG_MAX_DISCARD_SECTORS = 36
/** `max_discard_seg`, u32: ranges of one DISCARD at most. */
export const CONFIG_MAX_DISCARD_SEG = 40
/** `discard_sector_alignment`, u32: sectors. */
export const CONFIG_DISCARD_SECTOR_ALIGNMENT = 44
/** `max_write_zeroes_sectors`, u32: sectors of one range to zero at most. */
export const CONFIG_MAX_WRITE_ZEROES_SECTORS = 48
/** `max_write_zeroes_seg`, u32: ranges of one WRITE_ZEROES at most. */
export const CONFIG_MAX_WRITE_ZEROES_SEG = 52
/** `write_zeroes_may_unmap`, u8: whether writing zeroes may give the space back. */
export const CONFIG_WRITE_ZEROES_MAY_UNMAP = 56
/** Bytes of the fields that virtio 1.2 has. */
export const CONFIG_BYTES = 96
