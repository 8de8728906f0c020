import type { GuestMemory, HostSlice } from '@node-vmm/hostmem'
import type { QueueSetup } from './device.ts'
import { dirtyLogSetup } from './dirty-log.ts'
import { VhostUserError } from './errors.ts'
import type { VringAddress } from './payload.ts'
import type { SharedArea } from './shared-area.ts'

/** The largest ring: see virtio 1.2, 2.7. */
export const RING_SIZE_MAX = 32768
/** The feature by which rings are packed: virtio 1.2, 2.8. */
const VIRTIO_F_RING_PACKED = 1n << 34n
/** Index 0 and wrap counter 1, of both sides: where a packed ring begins. */
const PACKED_BASE = 0x80008000
/** Bytes of the driver area and of the device area of a packed ring. */
const PACKED_EVENT_BYTES = 4

/** What the front-end has said of one ring so far, and whether the device runs it. */
export interface Ring {
  /** Descriptors; 0 until SET_VRING_NUM. */
  size: number
  /** Where the ring stands when it does not run; undefined until SET_VRING_BASE or its first stop: at its beginning. */
  base: number | undefined
  /** Undefined until SET_VRING_ADDR. */
  addresses: Required<VringAddress> | undefined
  /** Undefined until SET_VRING_KICK, and again after GET_VRING_BASE. */
  kick: number | undefined
  call: number | undefined
  error: number | undefined
  /** By SET_VRING_ENABLE. Does not count where PROTOCOL_FEATURES was not acknowledged. */
  enabled: boolean
  /** While the device runs it. */
  running: RunningRing | undefined
}

/** A ring that the device runs. */
export interface RunningRing {
  /** Where it began. */
  readonly startedAt: number
  /** Whether it logs what it writes. */
  readonly isLogged: boolean
  /** Lets go of the memory, the log and the record that it uses. */
  readonly release: () => void
}

/** What a ring uses that is not its own. */
export interface RingSurroundings {
  readonly memory: GuestMemory
  /** The device's, without the transport's. */
  readonly features: bigint
  /** Undefined while nothing is logged. */
  readonly log: SharedArea | undefined
  /** The ring's record of what is in flight. */
  readonly inflight: HostSlice | undefined
}

/** A ring of which nothing is known. */
export function newRing (): Ring {
  return { size: 0, base: undefined, addresses: undefined, kick: undefined, call: undefined, error: undefined, enabled: false, running: undefined }
}

/** Whether all that a start needs was sent, in whatever order. */
export function isComplete (ring: Ring): boolean {
  return ring.size > 0 && ring.addresses !== undefined && ring.kick !== undefined
}

/** Whether rings are packed, with these features. */
export function isPacked (features: bigint): boolean {
  return (features & VIRTIO_F_RING_PACKED) !== 0n
}

/** Where a ring stands: as QueueSetup.base. */
export function baseOf (ring: Ring, features: bigint): number {
  return ring.base ?? (isPacked(features) ? PACKED_BASE : 0)
}

/**
 * A complete ring as the device wants it, with guest addresses.
 *
 * @throws VhostUserError when a part of it is not in the front-end's memory, or not covered by the log.
 */
export function queueSetup (ring: Ring, { memory, features, log, inflight }: RingSurroundings): QueueSetup {
  const { size, call, error } = ring
  const addresses = ring.addresses!
  const packed = isPacked(features)
  const base = baseOf(ring, features)
  if (!packed && base > 0xffff) throw broken(`base 0x${base.toString(16)} is one of a packed ring: a split ring's has 16 bits`)
  const availableBytes = packed ? PACKED_EVENT_BYTES : 4 + 2 * size
  const usedBytes = packed ? PACKED_EVENT_BYTES : 4 + 8 * size
  const guestAddress = (part: string, userAddress: number, bytes: number): number => {
    const address = memory.guestAddressOf(userAddress, bytes)
    if (address >= 0) return address
    throw broken(`the ${part} of a ring of ${size} (${bytes} bytes at user address 0x${userAddress.toString(16)}) is in no memory region`)
  }
  return {
    memory,
    size,
    descriptorAddress: guestAddress(packed ? 'descriptor ring' : 'descriptor table', addresses.descriptor, 16 * size),
    availableAddress: guestAddress(packed ? 'driver area' : 'available ring', addresses.available, availableBytes),
    usedAddress: guestAddress(packed ? 'device area' : 'used ring', addresses.used, usedBytes),
    base,
    features,
    kickFd: ring.kick!,
    ...(call !== undefined && { callFd: call }),
    ...(error !== undefined && { errorFd: error }),
    ...(inflight !== undefined && { inflight }),
    ...(log !== undefined && { log: dirtyLogSetup(log, memory, addresses, usedBytes) })
  }
}

function broken (reason: string): VhostUserError {
  return new VhostUserError('ERR_VHOST_USER_RING', reason)
}
