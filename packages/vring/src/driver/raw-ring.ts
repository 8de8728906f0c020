import type { GuestMemory } from '@node-vmm/hostmem'
import { VIRTQ_DESC_BYTES, VIRTQ_DESC_F_NEXT } from '../layout.ts'
import type { RingLayout } from './ring-layout.ts'

/** A descriptor as it stands in memory: see virtio 1.2, 2.7.5. */
export interface RawDescriptor {
  /** Guest address: anything up to 2^64 - 1. @default 0 */
  readonly address?: number | bigint
  /** Bytes. @default 0 */
  readonly length?: number
  /** `VIRTQ_DESC_F_*` bits, or anything else. @default 0 */
  readonly flags?: number
  /** The descriptor behind it, where `flags` says so. @default 0 */
  readonly next?: number
}

/** An element of the used ring. */
export interface UsedElement {
  /** The head of a finished chain. */
  readonly id: number
  /** Bytes that the device says that it wrote. */
  readonly length: number
}

/**
 * A ring written word by word, well-formed or malformed on demand: for tests of the device side. It keeps no state
 * but the memory and checks nothing. Not for speed. Every method throws GuestMemoryError ERR_ACCESS where the ring is not
 * in guest memory.
 */
export class RawRing {
  /** Where the ring is. */
  readonly memory: GuestMemory
  /** Where in it. */
  readonly layout: RingLayout

  /** Touches nothing. */
  constructor (memory: GuestMemory, layout: RingLayout) {
    this.memory = memory
    this.layout = layout
  }

  /** Writes one descriptor. @param table guest address of its table. @default the ring's own */
  descriptor (index: number, descriptor: RawDescriptor, table: number = this.layout.descriptorAddress): void {
    const at = table + index * VIRTQ_DESC_BYTES
    this.memory.setUint64(at, BigInt(descriptor.address ?? 0))
    this.memory.setUint32(at + 8, descriptor.length ?? 0)
    this.memory.setUint16(at + 12, descriptor.flags ?? 0)
    this.memory.setUint16(at + 14, descriptor.next ?? 0)
  }

  /**
   * Writes descriptors, each linked to the next one.
   *
   * @param index of the first one. @default 0
   * @param table guest address of their table. @default the ring's own
   * @returns `index`: the head.
   */
  chain (descriptors: readonly RawDescriptor[], index = 0, table: number = this.layout.descriptorAddress): number {
    descriptors.forEach((descriptor, offset) => {
      const link = offset + 1 < descriptors.length ? { flags: (descriptor.flags ?? 0) | VIRTQ_DESC_F_NEXT, next: index + offset + 1 } : {}
      this.descriptor(index + offset, { ...descriptor, ...link }, table)
    })
    return index
  }

  /** Appends heads to the available ring and publishes them. */
  available (...heads: number[]): void {
    for (const head of heads) {
      const index = this.getAvailableIndex()
      this.availableEntry(index % this.layout.size, head)
      this.availableIndex(index + 1)
    }
  }

  /** Writes one entry of the available ring. */
  availableEntry (slot: number, head: number): void {
    this.memory.setUint16(this.layout.availableAddress + 4 + slot * 2, head)
  }

  /** Writes the available ring's index, modulo 65536. */
  availableIndex (index: number): void {
    this.memory.storeUint16(this.layout.availableAddress + 2, index & 0xffff)
  }

  /** The available ring's index. */
  getAvailableIndex (): number {
    return this.memory.loadUint16(this.layout.availableAddress + 2)
  }

  /** Writes the available ring's flags. */
  availableFlags (flags: number): void {
    this.memory.storeUint16(this.layout.availableAddress, flags)
  }

  /** Writes `used_event`: the driver wants an interrupt once the used index has passed it. */
  usedEvent (index: number): void {
    this.memory.storeUint16(this.layout.availableAddress + 4 + this.layout.size * 2, index & 0xffff)
  }

  /** Writes one element of the used ring, as only the device may. */
  usedElement (slot: number, { id, length }: UsedElement): void {
    const at = this.layout.usedAddress + 4 + slot * 8
    this.memory.setUint32(at, id)
    this.memory.setUint32(at + 4, length)
  }

  /** Writes the used ring's index, modulo 65536, as only the device may. */
  usedIndex (index: number): void {
    this.memory.storeUint16(this.layout.usedAddress + 2, index & 0xffff)
  }

  /** Writes the used ring's flags, as only the device may. */
  usedFlags (flags: number): void {
    this.memory.storeUint16(this.layout.usedAddress, flags)
  }

  /** Writes `avail_event`, as only the device may. */
  availableEvent (index: number): void {
    this.memory.storeUint16(this.layout.usedAddress + 4 + this.layout.size * 8, index & 0xffff)
  }

  /** The used ring's index. */
  getUsedIndex (): number {
    return this.memory.loadUint16(this.layout.usedAddress + 2)
  }

  /** The used ring's flags. */
  getUsedFlags (): number {
    return this.memory.loadUint16(this.layout.usedAddress)
  }

  /** `avail_event`: the device wants a kick once the available index has passed it. */
  getAvailableEvent (): number {
    return this.memory.loadUint16(this.layout.usedAddress + 4 + this.layout.size * 8)
  }

  /** The used elements between two indices. @param from @default 0 @param to the index behind the last one. @default the used ring's */
  used (from = 0, to: number = this.getUsedIndex()): UsedElement[] {
    const count = (to - from) & 0xffff
    return Array.from({ length: count }, (_, offset) => {
      const at = this.layout.usedAddress + 4 + ((from + offset) & 0xffff) % this.layout.size * 8
      return { id: this.memory.getUint32(at), length: this.memory.getUint32(at + 4) }
    })
  }
}
