import { VIRTQ_DESC_BYTES } from '../layout.ts'

/** What `addChain` returns when too few descriptors are free: poll for used chains first. */
export const RING_FULL = -1
/** What `pollUsed` returns when the device has not finished anything more. */
export const NOTHING_USED = -1
/** What `pollUsed` returns, from then on, after the device wrote what cannot be: only a reset helps. */
export const USED_RING_BROKEN = -2

/** A range of guest memory that a chain offers. */
export interface Segment {
  /** Guest address. */
  readonly address: number
  /** Bytes, below 2^32. */
  readonly length: number
}

/** Where the tables of indirect chains are. */
export interface IndirectTables {
  /** Guest address, a multiple of 16, of `indirectTableBytes(ring size, segments)` bytes. */
  readonly address: number
  /** Segments that one table has room for, at least 2. A longer chain takes descriptors of the ring itself. */
  readonly segments: number
}

/** Bytes of guest memory for one indirect table per descriptor of a ring. */
export function indirectTableBytes (size: number, segments: number): number {
  return size * segments * VIRTQ_DESC_BYTES
}

/** What driver and device agreed on, and where they begin. */
export interface DriverRingOptions {
  /** VIRTIO_F_EVENT_IDX was agreed: kicks and interrupts are asked for by index. @default false */
  readonly eventIdx?: boolean
  /** VIRTIO_F_IN_ORDER was agreed: the device gives chains back in order, and a batch of them at once. @default false */
  readonly inOrder?: boolean
  /** Put chains of more than one segment in tables outside the ring (VIRTIO_F_INDIRECT_DESC). @default not */
  readonly indirect?: IndirectTables
  /**
   * Where both sides begin. Split: the index of both rings, 0 to 65535. Packed: a position, 0 to size - 1, with its wrap
   * counter as bit 15. @default 0; packed: `PACKED_RING_START`
   */
  readonly index?: number
}

/**
 * The driver side of a virtqueue, whatever its layout in memory: `DriverRing` where it is split, `PackedDriverRing` where
 * it is packed. One thread uses it; nothing allocates but `add`.
 */
export interface DriverQueue {
  /** Descriptors. */
  readonly size: number
  /** The chain to add: guest addresses of its readable segments, then of its writable ones. Fill before `addChain`. */
  readonly segmentAddress: Float64Array
  /** The chain to add: bytes of each segment. */
  readonly segmentLength: Uint32Array
  /**
   * Of the chain that `pollUsed` last returned: how many bytes the device says that it wrote. Where the device gave
   * back several at once (IN_ORDER) it says so of the last one only: the others count as written in full.
   */
  readonly usedLength: number
  /** Of the chain that `pollUsed` last returned: what `addChain` was given. */
  readonly usedToken: number
  /** Descriptors that are not part of a chain in flight. */
  readonly freeDescriptors: number
  /** Chains that the device has not given back. */
  readonly inFlight: number
  /** The number that the next `addChain` will use, for what is kept per chain; any value when the ring is full. */
  readonly nextHead: number
  /** Where the next used chain is looked for: what `DriverRingOptions.index` says, of now. */
  readonly usedIndex: number
  /** The device broke the ring: nothing more can be had from it. */
  readonly broken: boolean

  /**
   * Adds the chain that `segmentAddress` and `segmentLength` describe. The device sees it after `publish`.
   *
   * @param readable how many segments the device reads: the first ones.
   * @param writable how many segments follow that the device writes.
   * @param token given back with the used chain: any number. @default 0
   * @returns the chain's number while in flight, 0 to size - 1, or `RING_FULL`. Split: its head. Packed: its buffer id.
   * @throws RangeError for a chain that could not even go into an empty ring
   */
  addChain (readable: number, writable: number, token?: number): number
  /**
   * Adds a chain of these segments. Easier to read than `addChain`, for where speed is no matter.
   *
   * @param token as for `addChain`. @default 0
   * @returns as `addChain`
   * @throws as `addChain`
   */
  add (readable: readonly Segment[], writable: readonly Segment[], token?: number): number
  /** Shows the device every chain added so far, with one store. */
  publish (): void
  /**
   * Whether the device wants to be kicked for what was published since this was last asked. Ask once after each
   * `publish`: the answer speaks of that batch only.
   */
  needsKick (): boolean
  /**
   * Takes the next chain that the device finished; `usedLength` and `usedToken` then speak of it, and its descriptors
   * are free again.
   *
   * @returns its number, `NOTHING_USED`, or `USED_RING_BROKEN`.
   */
  pollUsed (): number
  /**
   * Asks for an interrupt at the next used chain, then looks once more: what was finished before the device saw the
   * wish raises none.
   *
   * @returns `'more'`: poll on. `'empty'`: nothing is there, and an interrupt will tell when it is (never, when broken).
   */
  enableInterrupts (): 'empty' | 'more'
  /** Asks for no interrupts. A hint: one may still come. */
  disableInterrupts (): void
}

/** What `add` does, for every layout. @internal */
export function addSegments (queue: DriverQueue, readable: readonly Segment[], writable: readonly Segment[], token: number): number {
  const segments = [...readable, ...writable]
  if (segments.length > queue.segmentAddress.length) throw badChain(queue, segments.length)
  segments.forEach(({ address, length }, index) => {
    queue.segmentAddress[index] = address
    queue.segmentLength[index] = length
  })
  return queue.addChain(readable.length, writable.length, token)
}

/** The error for a chain that no ring of this size could hold. @internal */
export function badChain (queue: DriverQueue, segments: number): RangeError {
  return new RangeError(`a chain has 1 to ${queue.segmentAddress.length} segments: not ${segments}`)
}

/** Writes a descriptor: the last word is `flags` and `next` where the ring is split, the id and `flags` where it is packed. @internal */
export function describe (table: Uint32Array, index: number, address: number, length: number, lastWord: number): void {
  const word = index * 4
  table[word] = address
  table[word + 1] = address / 0x100000000
  table[word + 2] = length
  table[word + 3] = lastWord
}
