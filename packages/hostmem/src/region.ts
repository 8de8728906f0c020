import { GuestMemoryError } from './errors.ts'

/** A range of guest-physical memory and the file that backs it. */
export interface RegionInit {
  /** Guest-physical address of the first byte: an integer below 2^53, as all addresses here. */
  readonly guestAddress: number
  /** Bytes, at least 1. */
  readonly size: number
  /** The backing file, a regular one: a memfd mostly. Borrowed: it may be closed once the region is mapped. */
  readonly fd: number
  /** Where in the file the region begins, in bytes. @default 0 */
  readonly offset?: number
  /** Where the front-end has this memory in its own address space, for addresses that it sends as such. @default the guest address */
  readonly userAddress?: number
  /** Refuse writes, by lookup and by page protection. @default false */
  readonly readOnly?: boolean
}

/**
 * A range of guest-physical memory that the caller has in this process already: an emulator's, or what another library
 * mapped. It must stay where it is, and accessible, until the last map with it is released; nothing is mapped or unmapped.
 */
export interface HostRegionInit extends Omit<RegionInit, 'fd' | 'offset' | 'readOnly'> {
  /** Where the caller has it: an address of this process, not 0. */
  readonly hostAddress: number
  /** Refuse writes, by lookup alone: how the pages are protected is the caller's. @default false */
  readonly readOnly?: boolean
}

/** A mapped range of guest-physical memory. */
export interface GuestRegion {
  /** Guest-physical address of the first byte. */
  readonly guestAddress: number
  /** Bytes. */
  readonly size: number
  /** Where this process has it. Valid in every thread, until the map is released. */
  readonly hostAddress: number
  /** Where the front-end has it. */
  readonly userAddress: number
  /** Whether writes are refused. */
  readonly readOnly: boolean
}

/** A map of guest memory as plain data, for another thread of the process. */
export interface GuestMemoryData {
  /** By guest address, ascending. */
  readonly regions: readonly GuestRegion[]
}

/** @throws GuestMemoryError for numbers that are no addresses or sizes */
export function checkRegion (region: RegionInit | HostRegionInit): void {
  const { guestAddress, size, userAddress = guestAddress } = region
  if (!isAddress(size) || size === 0) throw invalid(`a region has 1 or more bytes: not ${size}`)
  const backing = 'hostAddress' in region ? { hostAddress: region.hostAddress } : { offset: region.offset ?? 0 }
  if (backing.hostAddress === 0) throw invalid('no memory is at host address 0')
  for (const [name, start] of Object.entries({ guestAddress, userAddress, ...backing })) {
    if (!isAddress(start) || !isAddress(start + size)) {
      throw invalid(`${name} ${start} of a region of ${size} bytes: an integer is wanted, with the end below 2^53`)
    }
  }
}

/** The regions by guest address. @throws GuestMemoryError for two that overlap, for the guest or for the front-end */
export function sortRegions<R extends GuestRegion> (regions: readonly R[]): R[] {
  checkOverlap(regions, (region) => region.userAddress, 'front-end user')
  return checkOverlap(regions, (region) => region.guestAddress, 'guest')
}

function checkOverlap<R extends GuestRegion> (regions: readonly R[], start: (region: R) => number, space: string): R[] {
  const sorted = [...regions].sort((one, other) => start(one) - start(other))
  for (let index = 1; index < sorted.length; index++) {
    const [lower, upper] = [sorted[index - 1]!, sorted[index]!]
    if (start(lower) + lower.size > start(upper)) {
      throw new GuestMemoryError('ERR_REGION_OVERLAP', `regions overlap at ${space} address 0x${start(upper).toString(16)}`)
    }
  }
  return sorted
}

function isAddress (value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0
}

function invalid (message: string): GuestMemoryError {
  return new GuestMemoryError('ERR_REGION_INVALID', message)
}
