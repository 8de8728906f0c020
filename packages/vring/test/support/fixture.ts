import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import { layOutRing, RawRing } from '../../src/driver/index.ts'
import {
  DescriptorChain, SplitVring, type VringInit, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_NOTIFY_ON_EMPTY
} from '../../src/index.ts'

/** Where rings of up to 256 entries are, at the start of the low region. */
export const RING = 0
/** Where the buffers of tests are: the rest of the low region. */
export const DATA = 0x8000
export const LOW_BYTES = 0x10000
/** Two regions above 4 GiB that touch each other, then a read-only one. */
export const HIGH = 0x1_8000_0000
export const HIGH_BYTES = 0x4000
export const BORDER = HIGH + HIGH_BYTES
export const READ_ONLY = HIGH + 2 * HIGH_BYTES
/** Nothing is here, nor behind. */
export const NOWHERE = READ_ONLY + HIGH_BYTES

/** A device's ring, and a driver that writes to it what it likes. */
export interface Fixture {
  /** Guest memory as the device has it. The driver's is `raw.memory`, where nothing is read-only. */
  readonly memory: GuestMemory
  readonly raw: RawRing
  readonly ring: SplitVring
  readonly chain: DescriptorChain
}

/** What a ring is made with. */
export interface FixtureOptions extends Partial<VringInit> {
  readonly indirect?: boolean
  readonly eventIdx?: boolean
  readonly notifyOnEmpty?: boolean
}

/** Fresh guest memory of several regions, with a ring in it. */
export function setUp (options: FixtureOptions = {}): Fixture {
  const { indirect = true, eventIdx = false, notifyOnEmpty = false, ...init } = options
  const { memory: driver, fd, regions } = GuestMemory.allocate([
    { guestAddress: RING, size: LOW_BYTES },
    { guestAddress: HIGH, size: HIGH_BYTES },
    { guestAddress: BORDER, size: HIGH_BYTES },
    { guestAddress: READ_ONLY, size: HIGH_BYTES }
  ])
  const memory = GuestMemory.map(regions.map((region) => ({ ...region, readOnly: region.guestAddress === READ_ONLY })))
  close(fd)
  const raw = new RawRing(driver, layOutRing(RING, init.size ?? 4))
  raw.availableIndex(init.availableIndex ?? 0)
  const features = BigInt(indirect) << BigInt(VIRTIO_F_INDIRECT_DESC) | BigInt(eventIdx) << BigInt(VIRTIO_F_EVENT_IDX) |
    BigInt(notifyOnEmpty) << BigInt(VIRTIO_F_NOTIFY_ON_EMPTY)
  return { memory, raw, ring: new SplitVring(memory, { ...raw.layout, features, ...init }), chain: new DescriptorChain(memory) }
}

/** A chain as plain data: guest address and bytes of each segment. */
export function segmentsOf (chain: DescriptorChain): { readable: [number, number][], writable: [number, number][] } {
  const all = Array.from({ length: chain.readableCount + chain.writableCount }, (_, index): [number, number] =>
    [chain.guestAddress[index]!, chain.length[index]!])
  return { readable: all.slice(0, chain.readableCount), writable: all.slice(chain.readableCount) }
}

/** All that the guest can see of its memory. */
export function snapshot (memory: GuestMemory): Buffer {
  return Buffer.concat(memory.regions.map(({ guestAddress, size }) => memory.read(guestAddress, size)))
}

/** Random integers below a bound, from a seed (mulberry32). */
export function randomIntegers (seed: number): (bound: number) => number {
  let state = seed
  return (bound) => {
    state = (state + 0x6d2b79f5) | 0
    let value = Math.imul(state ^ (state >>> 15), 1 | state)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) % bound
  }
}
