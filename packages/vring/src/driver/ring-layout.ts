import { availableRingBytes, descriptorTableBytes, usedRingBytes, VIRTQ_SIZE_MAX } from '../layout.ts'

// What the driver writes and what the device writes are kept on cache lines of their own.
const CACHE_LINE_BYTES = 64

/** Where a ring's three parts are in guest memory: see virtio 1.2, 2.7. The device side takes the same names. */
export interface RingLayout {
  /** Descriptors: a power of two, 1 to 32768. */
  readonly size: number
  /** Guest address of the descriptor table, a multiple of 16. */
  readonly descriptorAddress: number
  /** Guest address of the available ring, which the driver writes: a multiple of 2. */
  readonly availableAddress: number
  /** Guest address of the used ring, which the device writes: a multiple of 4. */
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
  if (!Number.isSafeInteger(address) || address < 0 || address % CACHE_LINE_BYTES !== 0) {
    throw new RangeError(`a ring is laid out from a multiple of ${CACHE_LINE_BYTES}: not from ${address}`)
  }
  return {
    size,
    descriptorAddress: address,
    availableAddress: address + descriptorTableBytes(size),
    usedAddress: address + usedOffset(size)
  }
}

function usedOffset (size: number): number {
  return align(descriptorTableBytes(size) + availableRingBytes(size, true))
}

function align (bytes: number): number {
  return Math.ceil(bytes / CACHE_LINE_BYTES) * CACHE_LINE_BYTES
}
