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
  readonly code: VringErrorCode

  constructor (code: VringErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

/** What a guest did to its ring. Stable: programs may switch on it. */
export type VringFaultCode =
  | 'available-index-jump'
  | 'head-out-of-range'
  | 'head-in-flight'
  | 'next-out-of-range'
  | 'descriptor-loop'
  | 'indirect-not-negotiated'
  | 'indirect-with-next'
  | 'indirect-nested'
  | 'indirect-length'
  | 'readable-after-writable'
  | 'address-unmapped'
  | 'chain-too-long'
  | 'device-refused'

/** Why a ring is broken: it stays so, without pops and pushes, until its reset. */
export interface VringFault {
  readonly code: VringFaultCode
  /** A sentence for the log. */
  readonly message: string
  /** The head of the chain that broke it; undefined when no chain did. */
  readonly head: number | undefined
}
