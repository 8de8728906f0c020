/** Why a ring cannot be set up, or was misused by the device that serves it. Stable: programs may switch on it. */
export type VringErrorCode =
  /** The size is no power of two between 1 and 32768. */
  | 'ERR_RING_SIZE'
  /** A part of the ring is not aligned: 16 bytes for the descriptor table, 2 for the available ring, 4 for the used ring. */
  | 'ERR_RING_ALIGNMENT'
  /** A part of the ring is not in guest memory, or the used ring is in memory that cannot be written. */
  | 'ERR_RING_MEMORY'
  /** Two parts of the ring share bytes. */
  | 'ERR_RING_OVERLAP'
  /** An index is no integer between 0 and 65535. */
  | 'ERR_RING_INDEX'
  /** A head was completed that is not in flight. */
  | 'ERR_NOT_IN_FLIGHT'

/** A ring that cannot be set up, or a device's own mistake with it. What a guest does wrong is a `VringFault`, never thrown. */
export class VringError extends Error {
  static override readonly name = 'VringError'
  override readonly name = 'VringError'
  /** Stable: programs may switch on it. */
  readonly code: VringErrorCode

  constructor (code: VringErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

/** What a guest did to its ring (virtio 1.2, 2.7 and 2.8, say what a driver may). Stable: programs may switch on it. */
export type VringFaultCode =
  /** The available index is more than the ring's size ahead. */
  | 'available-index-jump'
  /** The head is no descriptor of the ring. */
  | 'head-out-of-range'
  /** The head, or the buffer id, is in flight already. */
  | 'head-in-flight'
  /** A descriptor's `next` is outside its table. */
  | 'next-out-of-range'
  /** A chain has more descriptors than its table; packed: than the ring has that are not in flight. */
  | 'descriptor-loop'
  /** An indirect descriptor without VIRTIO_F_INDIRECT_DESC. */
  | 'indirect-not-negotiated'
  /** An indirect descriptor that is linked to another one. */
  | 'indirect-with-next'
  /** An indirect descriptor in an indirect table. */
  | 'indirect-nested'
  /** An indirect table of no descriptors, of a part of one, or of more than `CHAIN_DESCRIPTORS_MAX`. */
  | 'indirect-length'
  /** A buffer that the device reads comes after one that it writes. */
  | 'readable-after-writable'
  /** A buffer, or a table, is not in guest memory; or a buffer is to be written where that is read-only. */
  | 'address-unmapped'
  /** More pieces of memory than a chain has room for, or 2^32 bytes in all. */
  | 'chain-too-long'
  /** The device broke it off for a reason of its own: see the message. */
  | 'device-refused'

/** Why a ring is broken: it stays so, without pops and pushes, until its reset. */
export interface VringFault {
  /** Stable: programs may switch on it. */
  readonly code: VringFaultCode
  /** A sentence for the log. */
  readonly message: string
  /** The head of the chain that broke it; undefined when no chain did. */
  readonly head: number | undefined
}
