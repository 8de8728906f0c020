// The names are the specification's.

/** The buffer continues in the descriptor that `next` names. Virtio 1.2, 2.7, as are all of these. */
export const VIRTQ_DESC_F_NEXT = 1
/** The device writes this buffer; without it, it reads. */
export const VIRTQ_DESC_F_WRITE = 2
/** The buffer holds a table of descriptors. */
export const VIRTQ_DESC_F_INDIRECT = 4
/** In the used ring's flags: the device asks not to be kicked. */
export const VIRTQ_USED_F_NO_NOTIFY = 1
/** In the available ring's flags: the driver asks not to be interrupted. */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1

/** Number of a feature bit, as are the next ones (virtio 1.2, 6; this one is legacy, 6.3): an interrupt when the ring runs empty, whatever was suppressed. */
export const VIRTIO_F_NOTIFY_ON_EMPTY = 24
/** Feature bit: descriptors may hold tables of descriptors. */
export const VIRTIO_F_INDIRECT_DESC = 28
/** Feature bit: kicks and interrupts are asked for at an index. */
export const VIRTIO_F_EVENT_IDX = 29

/** Feature bit: the device uses buffers in the order in which they were made available. */
export const VIRTIO_F_IN_ORDER = 35

/** Feature bit: virtio 1.0 or later. */
export const VIRTIO_F_VERSION_1 = 32

/** A mask of feature bits by their numbers, 0 to 127. */
export function featureMask (...bits: readonly number[]): bigint {
  return bits.reduce((mask, bit) => mask | 1n << BigInt(bit), 0n)
}

/** Whether a mask of feature bits has one of them. */
export function hasFeature (features: bigint, bit: number): boolean {
  return (features >> BigInt(bit) & 1n) === 1n
}

/** Bytes of a descriptor. */
export const VIRTQ_DESC_BYTES = 16
/** Bytes of a used ring's element. */
export const VIRTQ_USED_ELEM_BYTES = 8
/** What the address of a descriptor table is a multiple of: virtio 1.2, 2.7. */
export const VIRTQ_DESC_ALIGNMENT = 16
/** An available ring's. */
export const VIRTQ_AVAIL_ALIGNMENT = 2
/** A used ring's. */
export const VIRTQ_USED_ALIGNMENT = 4
/** Entries of the largest ring. */
export const VIRTQ_SIZE_MAX = 32768

/** Bytes of the descriptor table. */
export function descriptorTableBytes (size: number): number {
  return VIRTQ_DESC_BYTES * size
}

/** Bytes of the available ring: flags, index, the ring, and with EVENT_IDX the used event. */
export function availableRingBytes (size: number, eventIdx: boolean): number {
  return 4 + 2 * size + (eventIdx ? 2 : 0)
}

/** Bytes of the used ring: flags, index, the ring, and with EVENT_IDX the available event. */
export function usedRingBytes (size: number, eventIdx: boolean): number {
  return 4 + VIRTQ_USED_ELEM_BYTES * size + (eventIdx ? 2 : 0)
}

/**
 * Whether moving an index from `old` to `now` passed the event that the other side waits for (`vring_need_event`,
 * virtio 1.2, 2.7.7.1). All are 16-bit indices that wrap.
 */
export function needsEvent (event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff)
}
