import { dirtyLogBytes, type GuestMemory } from '@node-vmm/hostmem'
import { VhostUserError } from './errors.ts'
import type { DirtyLogSetup } from './device.ts'
import { type VringAddress, VRING_FLAG_LOG } from './payload.ts'
import type { SharedArea } from './shared-area.ts'

/** What a log's address is a multiple of, so that it can be written in larger pieces than bytes. */
export const LOG_ALIGNMENT = 8

/** @throws VhostUserError when a page of the memory has no bit in the log: writes to it would be lost in a migration */
export function checkLogCovers (log: SharedArea, memory: GuestMemory | undefined): void {
  const end = memory?.end ?? 0
  if (log.length >= dirtyLogBytes(end)) return
  throw new VhostUserError('ERR_VHOST_USER_REFUSED',
    `a log of ${log.length} bytes does not cover memory that ends at 0x${end.toString(16)}: ${dirtyLogBytes(end)} are needed`)
}

/**
 * The log as a queue gets it.
 *
 * @param usedBytes bytes of the ring's part that the device writes.
 * @throws VhostUserError when memory, or where the used ring is to be logged, is not covered
 */
export function dirtyLogSetup (log: SharedArea, memory: GuestMemory, addresses: Required<VringAddress>, usedBytes: number): DirtyLogSetup {
  checkLogCovers(log, memory)
  const { address, length } = log
  if ((addresses.flags & VRING_FLAG_LOG) === 0) return { address, length }
  // It need not be an address of the guest's memory, but must be one of the log's.
  const usedAddress = Number(addresses.log)
  if (dirtyLogBytes(usedAddress + usedBytes) > length) {
    throw new VhostUserError('ERR_VHOST_USER_RING', `the used ring is to be logged at 0x${addresses.log.toString(16)}, beyond a log of ${length} bytes`)
  }
  return { address, length, usedAddress }
}
