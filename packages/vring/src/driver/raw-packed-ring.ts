import type { GuestMemory } from '@node-vmm/hostmem'
import { VIRTQ_DESC_BYTES, VIRTQ_DESC_F_NEXT } from '../layout.ts'
import { indexOf, positionOf, wrapOf } from '../packed-index.ts'
import { PACKED_RING_START, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED } from '../packed-layout.ts'
import type { UsedElement } from './raw-ring.ts'
import type { RingLayout } from './ring-layout.ts'

/** A packed ring's descriptor as it stands in memory: see virtio 1.2, 2.8.13. */
export interface RawPackedDescriptor {
  /** Guest address: anything up to 2^64 - 1. @default 0 */
  readonly address?: number | bigint
  /** Bytes. @default 0 */
  readonly length?: number
  /** Buffer id. @default 0 */
  readonly id?: number
  /** `VIRTQ_DESC_F_*` bits, or anything else. @default 0 */
  readonly flags?: number
}

/** An event suppression structure: see virtio 1.2, 2.8.14. */
export interface EventSuppression {
  /** A position, with its wrap counter as bit 15. */
  readonly index: number
  /** `EVENT_FLAGS_*`, or any 16 bits. */
  readonly flags: number
}

/**
 * A packed ring written word by word, well-formed or malformed on demand: for tests of the device side. It keeps no state
 * but the memory and checks nothing. Not for speed. Every method throws GuestMemoryError ERR_ACCESS where the ring is not
 * in guest memory.
 *
 * An *index* is a position with its wrap counter as bit 15, as on the wire: a fresh ring begins at `PACKED_RING_START`.
 */
export class RawPackedRing {
  /** Where the ring is. */
  readonly memory: GuestMemory
  /** Where in it. */
  readonly layout: RingLayout

  /** Touches nothing. */
  constructor (memory: GuestMemory, layout: RingLayout) {
    this.memory = memory
    this.layout = layout
  }

  /** Writes one descriptor: its flags last, atomically. @param table guest address of its table. @default the ring's own */
  descriptor (position: number, descriptor: RawPackedDescriptor, table: number = this.layout.descriptorAddress): void {
    const at = table + position * VIRTQ_DESC_BYTES
    this.memory.setUint64(at, BigInt(descriptor.address ?? 0))
    this.memory.setUint32(at + 8, descriptor.length ?? 0)
    this.memory.setUint16(at + 12, descriptor.id ?? 0)
    this.memory.storeUint16(at + 14, descriptor.flags ?? 0)
  }

  /** Reads one descriptor of the ring. */
  getDescriptor (position: number): Required<RawPackedDescriptor> & { readonly address: bigint } {
    const at = this.layout.descriptorAddress + position * VIRTQ_DESC_BYTES
    const flags = this.memory.loadUint16(at + 14)
    return { address: this.memory.getUint64(at), length: this.memory.getUint32(at + 8), id: this.memory.getUint16(at + 12), flags }
  }

  /**
   * Makes a chain available: descriptors from an index on, each linked to the next and marked as available, the first one
   * last. They all get the id, unless they say another.
   *
   * @param index of the first one. @default `PACKED_RING_START`: a fresh ring's
   * @returns the index behind it.
   */
  chain (descriptors: readonly RawPackedDescriptor[], id: number, index = PACKED_RING_START): number {
    const places = [index]
    for (const _ of descriptors) places.push(this.after(places.at(-1)!))
    for (let nth = descriptors.length - 1; nth >= 0; nth--) {
      const link = nth + 1 < descriptors.length ? VIRTQ_DESC_F_NEXT : 0
      const flags = (descriptors[nth]!.flags ?? 0) | link | availableMarks(places[nth]!)
      this.descriptor(positionOf(places[nth]!), { id, ...descriptors[nth], flags })
    }
    return places.at(-1)!
  }

  /** The index some descriptors behind another: the wrap counter turns at the end of the ring. @param descriptors @default 1 */
  after (index: number, descriptors = 1): number {
    const { size } = this.layout
    const place = positionOf(index) + descriptors
    return indexOf(place % size, (wrapOf(index) + Math.floor(place / size)) % 2)
  }

  /** Whether the descriptor at an index is marked as available. */
  isAvailable (index: number): boolean {
    return (this.getDescriptor(positionOf(index)).flags & MARKS) === availableMarks(index)
  }

  /** Whether the descriptor at an index is marked as used. */
  isUsed (index: number): boolean {
    return (this.getDescriptor(positionOf(index)).flags & MARKS) === usedMarks(index)
  }

  /** What the device wrote at an index; undefined where it wrote nothing. */
  getUsed (index: number): UsedElement | undefined {
    if (!this.isUsed(index)) return undefined
    const { id, length } = this.getDescriptor(positionOf(index))
    return { id, length }
  }

  /** Marks a descriptor as used, as only the device may. @param flags beside the marks. @default 0 */
  use (index: number, { id, length }: UsedElement, flags = 0): void {
    const { address } = this.getDescriptor(positionOf(index))
    this.descriptor(positionOf(index), { address, length, id, flags: flags | usedMarks(index) })
  }

  /** Writes the driver's event structure: when it wants to be interrupted. */
  driverEvent (event: EventSuppression): void {
    this.#setEvent(this.layout.availableAddress, event)
  }

  /** The driver's event structure. */
  getDriverEvent (): EventSuppression {
    return this.#getEvent(this.layout.availableAddress)
  }

  /** Writes the device's event structure, as only the device may: when it wants to be kicked. */
  deviceEvent (event: EventSuppression): void {
    this.#setEvent(this.layout.usedAddress, event)
  }

  /** The device's event structure. */
  getDeviceEvent (): EventSuppression {
    return this.#getEvent(this.layout.usedAddress)
  }

  #setEvent (address: number, { index, flags }: EventSuppression): void {
    this.memory.storeUint16(address, index)
    this.memory.storeUint16(address + 2, flags)
  }

  #getEvent (address: number): EventSuppression {
    const flags = this.memory.loadUint16(address + 2)
    return { index: this.memory.loadUint16(address), flags }
  }
}

const MARKS = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED

function availableMarks (index: number): number {
  return wrapOf(index) === 1 ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED
}

function usedMarks (index: number): number {
  return wrapOf(index) === 1 ? MARKS : 0
}
