// The names are the specification's.

/** Number of a feature bit: the ring is packed. Virtio 1.2, 2.8, as are all of these. */
export const VIRTIO_F_RING_PACKED = 34

/** In a descriptor's flags: equals the driver's wrap counter when the descriptor is available. */
export const VIRTQ_DESC_F_AVAIL = 1 << 7
/** In a descriptor's flags: differs from AVAIL when the descriptor is available, equals it when used. */
export const VIRTQ_DESC_F_USED = 1 << 15

/** Where a fresh ring begins, on both sides: position 0, with its wrap counter, which is 1, as bit 15 (virtio 1.2, 2.8.1). */
export const PACKED_RING_START = 0x8000

/** Bytes of an event suppression structure: a position with its wrap counter as bit 15, and flags. */
export const EVENT_SUPPRESSION_BYTES = 4
/** What its address is a multiple of: virtio 1.2, 2.8.10.1. */
export const EVENT_SUPPRESSION_ALIGNMENT = 4
/** Events are wanted for every descriptor. */
export const EVENT_FLAGS_ENABLE = 0
/** No events are wanted. */
export const EVENT_FLAGS_DISABLE = 1
/** An event is wanted when the position is passed: with EVENT_IDX only. */
export const EVENT_FLAGS_DESC = 2
