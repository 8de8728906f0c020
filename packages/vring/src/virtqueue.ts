import type { GuestMemory } from '@node-vmm/hostmem'
import type { DescriptorChain } from './descriptor-chain.ts'
import type { VringFault } from './errors.ts'

/** `'chain'`: one was popped. `'empty'`: none is there. `'broken'`: the ring is malformed, see `fault`. */
export type PopResult = 'chain' | 'empty' | 'broken'

/**
 * Where a ring is and how it works: what the driver told the device at set-up. Both layouts have three parts, which
 * every transport calls by the names of the split one's.
 */
export interface VringInit {
  /** Descriptors, 1 to 32768; a power of two in a split ring. */
  readonly size: number
  /** Guest address of the descriptor table, or of the packed ring: a multiple of 16. */
  readonly descriptorAddress: number
  /** Guest address of the available ring, a multiple of 2; or of the driver's event structure, a multiple of 4. */
  readonly availableAddress: number
  /** Guest address of the used ring, or of the device's event structure: a multiple of 4. */
  readonly usedAddress: number
  /** Negotiated feature bits; INDIRECT_DESC, EVENT_IDX, IN_ORDER and (split) NOTIFY_ON_EMPTY matter here. @default 0n */
  readonly features?: bigint | undefined
  /**
   * Where to begin to pop: the available index; packed: the position with its wrap counter as bit 15. @default 0, or
   * `PACKED_RING_START`: a fresh ring
   */
  readonly availableIndex?: number | undefined
  /** Where to begin to push, likewise. @default what the used ring says; packed: the same as `availableIndex` */
  readonly usedIndex?: number | undefined
}

/** What is needed to go on with a queue elsewhere. Packed: positions, with their wrap counters as bit 15. */
export interface VirtqueueState {
  /** The next available-ring index to pop: what vhost-user calls the vring base. */
  readonly availableIndex: number
  /** The next used-ring index to push. */
  readonly usedIndex: number
}

/** The device's side of a virtqueue, whatever its layout in memory. */
export interface Virtqueue {
  /** Entries. */
  readonly size: number
  /** Chains popped and not yet pushed back. */
  readonly inFlight: number
  /** Why the queue is broken; undefined while it is well. */
  readonly fault: VringFault | undefined

  /** Takes the next chain off the queue, checked as a whole. */
  pop (chain: DescriptorChain): PopResult
  /**
   * Gives a chain back, with the number of bytes written to it. The driver sees it after `publish`: a batch of
   * completions is one index store and one decision to interrupt.
   *
   * @throws VringError ERR_NOT_IN_FLIGHT for a head that was not popped
   */
  push (head: number, written: number): void
  /** Shows the driver all that was pushed. */
  publish (): void
  /** Whether the driver has made chains available that were not popped. */
  moreAvailable (): boolean
  /** How many chains those are, as far as the driver is to be believed; counting ends at `max`. */
  countAvailable (max: number): number
  /**
   * Has the processor fetch the indirect tables of the next `max` chains at once. The driver's processor has written them:
   * waiting for them one after the other, in `pop`, takes longer. A hint before a batch of pops; nothing is judged.
   *
   * @param memory the map that the chains are in.
   */
  prefetch (memory: GuestMemory, max: number): void
  /** Asks the driver not to kick: while the device is looking anyway. A hint, the driver may kick all the same. */
  disableNotification (): void
  /**
   * Asks the driver to kick, then looks once more: what became available just before would not be kicked for.
   *
   * @returns `'empty'`: nothing is there, and a kick will tell when it is. `'more'`: pop on.
   */
  enableNotification (): 'empty' | 'more'
  /** Whether the driver wants to be interrupted for what was published since this was asked last. */
  shouldNotify (): boolean
  /**
   * Declares the queue broken for a reason of the device's own. The first reason stays.
   *
   * @param message a sentence for the log.
   * @param head of the chain that is to blame. @default none is
   */
  break (message: string, head?: number): void
  /** The state to go on from, elsewhere. Chains in flight are not part of it: complete them first. */
  save (): VirtqueueState
  /** Back to the state of a fresh queue: all indices 0, nothing in flight, not broken. */
  reset (): void
}
