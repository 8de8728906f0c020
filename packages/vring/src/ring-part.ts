import type { GuestMemory } from '@node-vmm/hostmem'
import { viewMemory } from '@node-vmm/libc'
import { VringError } from './errors.ts'

/** One of the areas that a ring is made of. */
export interface RingPart {
  readonly name: string
  /** Guest address. */
  readonly address: number
  /** Bytes. */
  readonly length: number
  /** Bytes. */
  readonly alignment: number
}

/** @throws VringError ERR_RING_OVERLAP */
export function checkDisjoint (parts: readonly RingPart[]): void {
  const sorted = [...parts].sort((one, other) => one.address - other.address)
  for (let index = 1; index < sorted.length; index++) {
    const [lower, upper] = [sorted[index - 1]!, sorted[index]!]
    if (lower.address + lower.length > upper.address) {
      throw new VringError('ERR_RING_OVERLAP', `the ${lower.name} reaches into the ${upper.name} at 0x${upper.address.toString(16)}`)
    }
  }
}

/** A view over exactly one part of the ring. @throws VringError ERR_RING_MEMORY, ERR_RING_ALIGNMENT */
export function openPart (memory: GuestMemory, { name, address, length, alignment }: RingPart, write: boolean): ArrayBuffer {
  const host = memory.translate(address, length, write)
  const where = `the ${name} of ${length} bytes at guest address 0x${address.toString(16)}`
  if (host === 0) throw new VringError('ERR_RING_MEMORY', `${where} is not in one region of ${write ? 'writable ' : ''}guest memory`)
  // The host address too: a region whose file offset is odd shifts what is aligned for the guest.
  if (address % alignment !== 0 || host % alignment !== 0) {
    throw new VringError('ERR_RING_ALIGNMENT', `${where} is not a multiple of ${alignment}`)
  }
  return viewMemory(host, length)
}
