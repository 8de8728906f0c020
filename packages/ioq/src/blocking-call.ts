import { blockDiscard, fallocate, fdatasync } from '@node-vmm/libc'
import { BLOCK_DISCARD } from './request-table.ts'

/** What {@link blockingCall} does where it is no method of a request table: `fdatasync(2)`. */
export const DATA_SYNC = 0x81

/** Does what not every kernel interface can do without blocking. @returns 0 or a negative error number */
export function blockingCall (fd: number, method: number, offset: number, length: number): number {
  if (method === DATA_SYNC) return fdatasync(fd)
  if (method === BLOCK_DISCARD) return blockDiscard(fd, offset, length)
  return fallocate(fd, method, offset, length)
}
