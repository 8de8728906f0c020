import type { GuestMemory } from '@node-vmm/hostmem'
import { NativeMemory } from '@node-vmm/libc'
import {
  availableRingBytes, usedRingBytes, VIRTQ_AVAIL_ALIGNMENT, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_USED_ALIGNMENT
} from '@node-vmm/vring'

// A driver and a device share a ring's indices without a lock, and that takes fences: the driver stores its index, *then*
// looks whether the device wants a kick; the device stores its index, *then* looks whether the driver wants an interrupt.
// A processor that lets the look overtake the store loses a wake-up, and both sides sleep for ever. Guests have their
// fences, but v86 makes plain WebAssembly of them, whose loads and stores the host's processor may reorder.
//
// So the two sides do not share indices here. The device has rings of its own, beyond the end of the guest's memory, and
// this class brings over what is new, on the emulator's thread, between two instructions of the guest: the available ring
// when the guest kicks, the used ring when the device calls. What the device and this thread share, they access by
// Atomics. No wake-up can be lost, whatever the guest's fences are worth:
// - The guest never sees the device's wish for no kicks: it kicks for each batch, and each kick is brought over.
// - The device never sees the guest's wish for no interrupts: it calls for each batch, and the wish is looked at here,
//   where the guest stands still.
// Only the two rings have doubles. Descriptors and data are the guest's own, read and written in place.

/** Where the device's rings are, in guest addresses: no 32-bit PC has memory there. */
const BEYOND_MEMORY = 0x100000000

// Places in both rings, in 16-bit words; and in the used ring's elements, in 32-bit words.
const FLAGS = 0
const INDEX = 1
const AVAIL_RING = 2
const USED_RING = 1

/** Where a driver put a queue. */
export interface GuestRings {
  /** Descriptors. */
  readonly size: number
  readonly availableAddress: number
  readonly usedAddress: number
}

/** The available and the used ring of one queue as its device has them. */
export class RingMirror {
  /** The guest's memory with the device's rings in addition. */
  readonly memory: GuestMemory
  /** Guest address of the available ring, for the device. */
  readonly availableAddress = BEYOND_MEMORY
  /** Guest address of the used ring, for the device. */
  readonly usedAddress: number

  readonly #rings: NativeMemory
  readonly #guestAvailable: Uint16Array
  readonly #guestUsed: Uint16Array
  readonly #available: Uint16Array
  readonly #used: Uint16Array
  /** Each half of the used ring's elements, which are 32-bit words. */
  readonly #guestElements: Uint32Array
  readonly #elements: Uint32Array
  /** The used index that the guest was shown last. */
  #shown = 0

  /** @throws GuestMemoryError for a ring outside memory; RangeError for one that is misaligned, or too large */
  constructor (guest: GuestMemory, { size, availableAddress, usedAddress }: GuestRings) {
    if (availableAddress % VIRTQ_AVAIL_ALIGNMENT !== 0 || usedAddress % VIRTQ_USED_ALIGNMENT !== 0) {
      throw new RangeError('the driver put a ring at a misaligned address')
    }
    const availableBytes = availableRingBytes(size, false)
    const usedBytes = usedRingBytes(size, false)
    const guestUsed = guest.view(usedAddress, usedBytes)
    this.#guestAvailable = new Uint16Array(guest.view(availableAddress, availableBytes))
    this.#guestUsed = new Uint16Array(guestUsed, 0, 2)
    this.#guestElements = new Uint32Array(guestUsed).subarray(USED_RING)

    const usedOffset = Math.ceil(availableBytes / VIRTQ_USED_ALIGNMENT) * VIRTQ_USED_ALIGNMENT
    this.usedAddress = BEYOND_MEMORY + usedOffset
    const rings = this.#rings = new NativeMemory(usedOffset + usedBytes)
    this.#available = rings.u16.subarray(0, availableBytes / 2)
    this.#used = rings.u16.subarray(usedOffset / 2, (usedOffset + usedBytes) / 2)
    this.#elements = rings.u32.subarray(usedOffset / 4 + USED_RING, (usedOffset + usedBytes) / 4)
    this.memory = guest.with({ guestAddress: BEYOND_MEMORY, size: rings.length, hostAddress: rings.address })
  }

  /** Brings over what the guest has made available. */
  showDevice (): void {
    this.#available.set(this.#guestAvailable.subarray(AVAIL_RING), AVAIL_RING)
    Atomics.store(this.#available, INDEX, this.#guestAvailable[INDEX]!)
  }

  /**
   * Brings over what the device has used.
   *
   * @param before called before the guest sees it
   * @returns whether the guest wants to be interrupted for it
   */
  showGuest (before: () => void): boolean {
    const index = Atomics.load(this.#used, INDEX)
    if (index === this.#shown) return false
    before()
    this.#guestElements.set(this.#elements)
    this.#guestUsed[INDEX] = this.#shown = index
    return (this.#guestAvailable[FLAGS]! & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0
  }

  /** The device must have let go of the queue. */
  close (): void {
    this.memory.release()
    this.#rings.close()
  }
}
