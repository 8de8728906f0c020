import type { GuestMemory } from '@node-vmm/hostmem'
import type { QueueSetup } from './device.ts'
import { VhostUserError } from './errors.ts'
import type { VringAddress } from './payload.ts'

/** The largest ring: see virtio 1.2, 2.7. */
export const RING_SIZE_MAX = 32768

/** What the front-end has said of one ring so far, and whether the device runs it. */
export interface Ring {
  /** Descriptors; 0 until SET_VRING_NUM. */
  size: number
  /** The next available index when the ring does not run. */
  base: number
  /** Undefined until SET_VRING_ADDR. */
  addresses: Required<VringAddress> | undefined
  /** Undefined until SET_VRING_KICK, and again after GET_VRING_BASE. */
  kick: number | undefined
  call: number | undefined
  error: number | undefined
  /** By SET_VRING_ENABLE. Does not count where PROTOCOL_FEATURES was not acknowledged. */
  enabled: boolean
  /** While the device runs it: the map it holds, and the index it started at. */
  running: { readonly memory: GuestMemory, readonly startedAt: number } | undefined
}

/** A ring of which nothing is known. */
export function newRing (): Ring {
  return { size: 0, base: 0, addresses: undefined, kick: undefined, call: undefined, error: undefined, enabled: false, running: undefined }
}

/** Whether all that a start needs was sent, in whatever order. */
export function isComplete (ring: Ring): boolean {
  return ring.size > 0 && ring.addresses !== undefined && ring.kick !== undefined
}

/**
 * A complete ring as the device wants it, with guest addresses.
 *
 * @throws VhostUserError when a part of it is not in the front-end's memory.
 */
export function queueSetup (ring: Ring, memory: GuestMemory, features: bigint): QueueSetup {
  const { size, base, call, error } = ring
  const { descriptor, available, used } = ring.addresses!
  const guestAddress = (part: string, userAddress: number, bytes: number): number => {
    const address = memory.guestAddressOf(userAddress, bytes)
    if (address >= 0) return address
    throw new VhostUserError('ERR_VHOST_USER_RING',
      `the ${part} of a ring of ${size} (${bytes} bytes at user address 0x${userAddress.toString(16)}) is in no memory region`)
  }
  return {
    memory,
    size,
    descriptorAddress: guestAddress('descriptor table', descriptor, 16 * size),
    availableAddress: guestAddress('available ring', available, 4 + 2 * size),
    usedAddress: guestAddress('used ring', used, 4 + 8 * size),
    index: base,
    features,
    kickFd: ring.kick!,
    ...(call === undefined ? {} : { callFd: call }),
    ...(error === undefined ? {} : { errorFd: error })
  }
}
