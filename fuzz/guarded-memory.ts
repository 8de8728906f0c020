import assert from 'node:assert/strict'
import { GuestMemory, type GuestRegion } from '@node-vmm/hostmem'
import { MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, mmap, munmap, PAGE_SIZE, PROT_NONE, viewMemory } from '@node-vmm/libc'

/** Bytes before and behind each region that nobody may write: what the kernel or the device writes there shows. */
const CANARY_BYTES = PAGE_SIZE
const CANARY = 0x5c
/** Bytes around those that cannot even be read: who goes that far ends the process. */
const ABYSS_BYTES = 16 * PAGE_SIZE

/** A region of guest memory. */
export interface GuardedRegion {
  readonly guestAddress: number
  /** Bytes, of whole pages or not. */
  readonly size: number
  /** For the device only. @default false */
  readonly readOnly?: boolean
}

/** Guest memory of which every region stands alone between canaries, and those between pages that nobody can touch. */
export class GuardedMemory {
  /** As the device has it. */
  readonly device: GuestMemory
  /** As the driver has it: nothing is read-only. */
  readonly driver: GuestMemory
  /** The bytes of each region. */
  readonly bytes: readonly Buffer[]
  readonly #canaries: readonly Buffer[]
  readonly #clean: Buffer
  readonly #start: number
  readonly #length: number

  /** @param wanted in the order of their addresses */
  constructor (wanted: readonly GuardedRegion[]) {
    const pages = wanted.map(({ size }) => Math.ceil(size / PAGE_SIZE) * PAGE_SIZE)
    this.#length = pages.reduce((sum, bytes) => sum + bytes + 2 * CANARY_BYTES + ABYSS_BYTES, ABYSS_BYTES)
    this.#start = mmap({ length: this.#length, protection: PROT_NONE, flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE })
    const regions: GuestRegion[] = []
    const canaries: Buffer[] = []
    let at = this.#start + ABYSS_BYTES
    wanted.forEach(({ guestAddress, size, readOnly = false }, index) => {
      const length = pages[index]! + 2 * CANARY_BYTES
      mmap({ address: at, length, flags: MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED })
      const hostAddress = at + CANARY_BYTES
      regions.push({ guestAddress, size, hostAddress, userAddress: guestAddress, readOnly })
      const end = hostAddress + size
      canaries.push(view(at, CANARY_BYTES), view(end, at + length - end))
      at += length + ABYSS_BYTES
    })
    this.device = GuestMemory.attach({ regions })
    this.driver = GuestMemory.attach({ regions: regions.map((region) => ({ ...region, readOnly: false })) })
    this.bytes = regions.map(({ hostAddress, size }) => view(hostAddress, size))
    this.#canaries = canaries
    for (const canary of canaries) canary.fill(CANARY)
    this.#clean = Buffer.alloc(2 * CANARY_BYTES, CANARY)
  }

  /** @throws AssertionError when a byte next to a region was written */
  checkCanaries (): void {
    this.#canaries.forEach((canary, index) => {
      if (canary.equals(this.#clean.subarray(0, canary.length))) return
      const at = canary.findIndex((byte) => byte !== CANARY)
      assert.fail(`byte ${at} ${index % 2 === 0 ? 'of the canary before' : 'behind'} region ${index >>> 1} was written`)
    })
  }

  /** All bytes of the guest, as they are now. */
  snapshot (): Buffer[] {
    return this.bytes.map((region) => Buffer.from(region))
  }

  /** Where the guest's bytes are not those, as guest addresses; at most a few. */
  differences (expected: readonly Buffer[]): string[] {
    return this.bytes.flatMap((region, index) => {
      if (region.equals(expected[index]!)) return []
      const places = [...region.keys()].filter((at) => region[at] !== expected[index]![at])
      const start = this.driver.regions[index]!.guestAddress
      return places.slice(0, 8).map((at) => `0x${(start + at).toString(16)} is ${region[at]}, not ${expected[index]![at]}`)
    })
  }

  close (): void {
    this.driver.release()
    this.device.release()
    munmap(this.#start, this.#length)
  }
}

function view (address: number, length: number): Buffer {
  return Buffer.from(viewMemory(address, length))
}
