import type { GuestMemory } from '@node-vmm/hostmem'
import { addressOf } from './address.ts'
import { CHAIN_DESCRIPTORS_MAX, type DescriptorChain } from './descriptor-chain.ts'
import type { VringFault, VringFaultCode } from './errors.ts'
import { VIRTQ_DESC_BYTES, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from './layout.ts'

/**
 * Makes chains of the descriptors that a driver wrote, in either layout, and keeps the first fault. Part of the hot
 * path: its invariants are those of the rings.
 */
export class ChainBuilder {
  /** Why the ring is broken; undefined while it is well. */
  fault: VringFault | undefined
  readonly #indirect: boolean
  readonly #tableAddress = new Float64Array(1)
  /** Means nothing: a read whose value goes nowhere would not be compiled. */
  touched = 0

  /** @param indirect whether INDIRECT_DESC was negotiated */
  constructor (indirect: boolean) {
    this.#indirect = indirect
  }

  /** Adds one descriptor's buffer; address and length as signed 32-bit words. @returns false when it broke the ring */
  append (chain: DescriptorChain, low: number, high: number, length: number, flags: number): boolean {
    const failure = chain.append(low, high, length, (flags & VIRTQ_DESC_F_WRITE) !== 0)
    if (failure === undefined) return true
    const { head } = chain
    return this.refuse(failure, `the chain of head ${head}: ${failure.replaceAll('-', ' ')}, ${length >>> 0} bytes at 0x${addressOf(low, high).toString(16)}`, head)
  }

  /**
   * Adds the buffers of a table in guest memory. The WRITE flag of the descriptor that names it means nothing
   * (2.7.5.3.2, 2.8.7).
   *
   * @param linked whether NEXT links the table's descriptors (split); else they follow each other (packed)
   * @returns false when it broke the ring
   */
  appendTable (chain: DescriptorChain, low: number, high: number, length: number, flags: number, linked: boolean): boolean {
    const { head, memory } = chain
    if (!this.#indirect) return this.refuse('indirect-not-negotiated', 'an indirect descriptor without the feature', head)
    if ((flags & VIRTQ_DESC_F_NEXT) !== 0) return this.refuse('indirect-with-next', 'an indirect descriptor with a next one (2.7.5.3.1)', head)
    const bytes = length >>> 0
    if (bytes === 0 || bytes % VIRTQ_DESC_BYTES !== 0 || bytes > CHAIN_DESCRIPTORS_MAX * VIRTQ_DESC_BYTES) {
      return this.refuse('indirect-length', `an indirect table of ${bytes} bytes: wanted are 1 to ${CHAIN_DESCRIPTORS_MAX} descriptors of 16`, head)
    }
    const count = bytes / VIRTQ_DESC_BYTES
    this.#tableAddress[0] = addressOf(low, high)
    const window = memory.windowAt(this.#tableAddress, 0)
    if (window === undefined) return this.refuse('address-unmapped', 'an indirect table outside guest memory', head)
    // The window shows all of a table that lies in one region, since it overlaps the next by more than the longest one.
    if (memory.windowOffset + bytes <= memory.windowBytes) return this.#walkTable(chain, window, memory.windowOffset, count, linked)
    const address = this.#tableAddress[0]!
    if (memory.slices(address, bytes, false) === undefined) return this.refuse('address-unmapped', 'an indirect table outside guest memory', head)
    return this.#walkTable(chain, new DataView(memory.read(address, bytes).buffer), 0, count, linked)
  }

  /** Has the processor fetch where a table begins; one that is nowhere is for `appendTable` to refuse. */
  touchTable (memory: GuestMemory, low: number, high: number): void {
    this.#tableAddress[0] = addressOf(low, high)
    const window = memory.windowAt(this.#tableAddress, 0)
    if (window !== undefined) this.touched |= window.getInt8(memory.windowOffset)
  }

  #walkTable (chain: DescriptorChain, table: DataView, start: number, count: number, linked: boolean): boolean {
    const { head } = chain
    let at = start | 0
    for (let budget = count | 0; budget > 0; budget--) {
      const low = table.getInt32(at, true)
      const high = table.getInt32((at + 4) | 0, true)
      const length = table.getInt32((at + 8) | 0, true)
      const word = table.getInt32((at + 12) | 0, true)
      const flags = linked ? word : word >>> 16
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) return this.refuse('indirect-nested', 'an indirect descriptor in an indirect table', head)
      if (!this.append(chain, low, high, length, flags)) return false
      if (!linked) {
        at = (at + VIRTQ_DESC_BYTES) | 0
        continue
      }
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return true
      const next = word >>> 16
      if (next >= count) return this.refuse('next-out-of-range', `next descriptor ${next} in an indirect table of ${count}`, head)
      at = (start + next * VIRTQ_DESC_BYTES) | 0
    }
    return !linked || this.refuse('descriptor-loop', `the indirect table of head ${head} loops`, head)
  }

  refuse (code: VringFaultCode, message: string, head: number): false {
    this.break(code, message, head)
    return false
  }

  /** The first fault stays. */
  break (code: VringFaultCode, message: string, head?: number): 'broken' {
    this.fault ??= { code, message, head }
    return 'broken'
  }
}
