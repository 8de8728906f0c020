// An index in a packed ring, as it goes over the wire: a position, with the wrap counter of its lap as bit 15 (virtio
// 1.2, 2.8.1, 2.8.10). One number, so that a step yields one.

const POSITION_MASK = 0x7fff
const WRAP_BIT = 0x8000

/** @param wrap 0 or 1 */
export function indexOf (position: number, wrap: number): number {
  return position | wrap << 15
}

export function positionOf (index: number): number {
  return index & POSITION_MASK
}

/** 0 or 1. */
export function wrapOf (index: number): number {
  return index >>> 15
}

/** The index some descriptors on, a lap at most: the wrap counter turns at the end of the ring. */
export function advance (index: number, descriptors: number, size: number): number {
  const position = (index & POSITION_MASK) + descriptors
  const wrap = index & WRAP_BIT
  return position < size ? position | wrap : position - size | (wrap ^ WRAP_BIT)
}
