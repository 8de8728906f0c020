import { availableRingBytes, descriptorTableBytes, usedRingBytes, VIRTQ_SIZE_MAX } from '../layout.ts'
import { EVENT_SUPPRESSION_BYTES } from '../packed-layout.ts'

// What the driver writes and what the device writes are kept on cache lines of their own.
const CACHE_LINE_BYTES = 64

/**
 * Where a ring's three parts are in guest memory: see virtio 1.2, 2.7 and, where it is packed, 2.8. The names are those of
 * a split ring, which every transport has for both. The device side takes the same names.
 */
export interface RingLayout {
  /** Descriptors: 1 to 32768, a power of two where the ring is split. */
  readonly size: number
  /** Guest address of the descriptors, a multiple of 16. */
  readonly descriptorAddress: number
  /**
   * Guest address of what the driver writes beside: the available ring, a multiple of 2. Packed: its event suppression
   * structure, a multiple of 4.
   */
  readonly availableAddress: number
  /** Guest address of what the device writes beside, a multiple of 4: the used ring. Packed: its event suppression structure. */
  readonly usedAddress: number
}

/** Bytes that `layOutRing` needs for a ring, event words included. */
export function ringBytes (size: number): number {
  return align(usedOffset(size) + usedRingBytes(size, true))
}

/**
 * Puts the three parts of a ring one after the other, with room for the event words.
 *
 * @param address guest address, a multiple of 64.
 * @param size descriptors: a power of two, 1 to 32768.
 * @throws RangeError
 */
export function layOutRing (address: number, size: number): RingLayout {
  if (!Number.isInteger(Math.log2(size)) || size < 1 || size > VIRTQ_SIZE_MAX) {
    throw new RangeError(`a split ring has a power of two of descriptors, up to ${VIRTQ_SIZE_MAX}: not ${size}`)
  }
  checkAddress(address)
  return {
    size,
    descriptorAddress: address,
    availableAddress: address + descriptorTableBytes(size),
    usedAddress: address + usedOffset(size)
  }
}

/** Bytes that `layOutPackedRing` needs for a ring. */
export function packedRingBytes (size: number): number {
  return align(descriptorTableBytes(size)) + 2 * align(EVENT_SUPPRESSION_BYTES)
}

/**
 * Puts the descriptors of a packed ring and the two event suppression structures one after the other.
 *
 * @param address guest address, a multiple of 64.
 * @param size descriptors: 1 to 32768, no power of two needed.
 * @throws RangeError
 */
export function layOutPackedRing (address: number, size: number): RingLayout {
  if (!Number.isInteger(size) || size < 1 || size > VIRTQ_SIZE_MAX) {
    throw new RangeError(`a packed ring has 1 to ${VIRTQ_SIZE_MAX} descriptors: not ${size}`)
  }
  checkAddress(address)
  const availableAddress = address + align(descriptorTableBytes(size))
  return { size, descriptorAddress: address, availableAddress, usedAddress: availableAddress + align(EVENT_SUPPRESSION_BYTES) }
}

function checkAddress (address: number): void {
  if (!Number.isSafeInteger(address) || address < 0 || address % CACHE_LINE_BYTES !== 0) {
    throw new RangeError(`a ring is laid out from a multiple of ${CACHE_LINE_BYTES}: not from ${address}`)
  }
}

function usedOffset (size: number): number {
  return align(descriptorTableBytes(size) + availableRingBytes(size, true))
}

function align (bytes: number): number {
  return Math.ceil(bytes / CACHE_LINE_BYTES) * CACHE_LINE_BYTES
}
