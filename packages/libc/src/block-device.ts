import { native, orErrno } from './library.ts'

// linux/fs.h: _IO(0x12, 119).
const BLKDISCARD = 0x1277

const ioctlRangeC = native('int ioctl(int fd, unsigned long request, void *range)')

/**
 * Gives a range of a block device's space back, blocking; what is read there afterwards is the device's choice. Offset
 * and length are multiples of its logical block size. See `blkdiscard(8)` and the kernel's `block/ioctl.c`.
 *
 * @returns 0 or a negative error number: EOPNOTSUPP where the device has no discard, ENOTTY for what is no block device.
 */
export function blockDiscard (fd: number, offset: number, length: number): number {
  return orErrno(ioctlRangeC()(fd, BLKDISCARD, BigUint64Array.of(BigInt(offset), BigInt(length))))
}
