import { addSeals, close, F_SEAL_GROW, F_SEAL_SHRINK, ftruncate, memfdCreate, viewMemory } from '@node-vmm/libc'
import { GuestMemoryError } from './errors.ts'
import { Mapping } from './mapping.ts'
import { checkRegion, type GuestMemoryData, type GuestRegion, type HostRegionInit, type RegionInit, sortRegions } from './region.ts'

/** A range of this process's memory. */
export interface HostSlice {
  /** Host address of the first byte. */
  readonly address: number
  /** Bytes. */
  readonly length: number
}

/**
 * A region may be larger than one `ArrayBuffer` can show (4 GiB on Node 20), and typed-array indices are fastest below
 * 2^31: a region is reached through windows of 1 GiB.
 */
export const WINDOW_BYTES = 0x40000000
/** Each window shows this much of the next one too, so that no scalar access meets a border. */
const WINDOW_OVERLAP = 0x10000

const NO_WINDOW = new DataView(new ArrayBuffer(0))

/** A region as hot paths look at it: a field takes a few instructions, an element of an array ten. */
export class RegionSpan {
  /** First guest address. */
  readonly start: number
  /** First guest address after it. */
  readonly end: number
  /** What to add to a guest address for the host address. */
  readonly hostOffset: number
  /** Whether it may not be written. */
  readonly readOnly: boolean
  /** The number of its first window, of all windows of a map. @internal */
  readonly firstWindow: number

  /** @internal */
  constructor ({ guestAddress, size, hostAddress, readOnly }: Pick<GuestRegion, 'guestAddress' | 'size' | 'hostAddress' | 'readOnly'>, firstWindow: number) {
    this.start = guestAddress
    this.end = guestAddress + size
    this.hostOffset = hostAddress - guestAddress
    this.readOnly = readOnly
    this.firstWindow = firstWindow
  }
}

/** It has no address. The first one made, it also has V8 take the numbers of all others for what may be no integer. */
const NOWHERE = new RegionSpan({ guestAddress: NaN, size: NaN, hostAddress: NaN, readOnly: true }, 0)

interface MappedRegion extends GuestRegion {
  readonly mapping: Mapping
}

/**
 * The guest's memory: an immutable map of guest-physical regions, sorted, free of overlaps. A change makes a new map
 * that shares the unchanged mappings; whoever works with a map holds it (`retain`), and the last holder's `release`
 * unmaps what no other map shares.
 *
 * Lookups take (address, length, access), never an address alone. All addresses are numbers, exact below 2^53.
 *
 * What is read here may change at any moment under the reader: read once, then decide on the copy.
 */
export class GuestMemory {
  /** By guest address, ascending. */
  readonly regions: readonly GuestRegion[]

  /** Of the window that `windowAt` returned last: where in it the address stands. */
  windowOffset = 0
  /** The bytes of that window. */
  windowBytes = 0

  readonly #mappings: readonly Mapping[]
  readonly #windows: (DataView | undefined)[] = []
  readonly #address = new Float64Array(1)
  /** By guest address, ascending. */
  readonly #spans: readonly RegionSpan[]
  // What was found last is tried first, for most of what is looked up lies side by side: the region, and another one, for
  // requests and their data take turns; and the window, with the guest address that it begins at, and its bytes.
  #lastSpan = NOWHERE
  #otherSpan = NOWHERE
  /** The other one was found since the last one became that: it stays, while data lie in many regions. */
  #otherIsUsed = false
  #lastWindow: DataView = NO_WINDOW
  readonly #windowSpan = Float64Array.of(0, 0)
  #holders = 1

  private constructor (regions: readonly GuestRegion[], mappings: readonly Mapping[]) {
    this.regions = regions
    this.#mappings = mappings
    let windows = 0
    this.#spans = regions.map((region) => {
      const span = new RegionSpan(region, windows)
      windows += Math.ceil(region.size / WINDOW_BYTES)
      return span
    })
  }

  static #own (regions: readonly MappedRegion[]): GuestMemory {
    const sorted = sortRegions(regions)
    return new GuestMemory(
      sorted.map(({ mapping, ...region }) => Object.freeze(region)),
      sorted.map(({ mapping }) => mapping)
    )
  }

  /**
   * Maps regions of files, a guest's memory as its VMM or front-end passes it on; or takes over what the caller has in
   * this process already, by its address.
   *
   * @throws GuestMemoryError ERR_REGION_INVALID, ERR_REGION_OVERLAP, ERR_REGION_BEYOND_FILE, ERR_REGION_NO_FILE; LinuxError
   * when the kernel refuses. Nothing stays mapped then.
   */
  static map (regions: readonly (RegionInit | HostRegionInit)[]): GuestMemory {
    const mapped: MappedRegion[] = []
    try {
      for (const region of regions) mapped.push(mapRegion(region))
      return GuestMemory.#own(mapped)
    } catch (error) {
      for (const { mapping } of mapped) mapping.release()
      throw error
    }
  }

  /**
   * Makes fresh guest memory, zeroed, in one memfd that cannot shrink or grow.
   *
   * @returns the map and the file with each region's offset in it, to pass on. The file is the caller's to close.
   * @throws GuestMemoryError ERR_REGION_INVALID, ERR_REGION_OVERLAP; LinuxError. Nothing stays mapped or open then
   */
  static allocate (wanted: readonly Pick<RegionInit, 'guestAddress' | 'size'>[]): { memory: GuestMemory, fd: number, regions: RegionInit[] } {
    const fd = memfdCreate('guest-memory')
    try {
      let end = 0
      const regions = wanted.map(({ guestAddress, size }) => {
        const region = { guestAddress, size, fd, offset: end }
        checkRegion(region)
        end += Math.ceil(size / 4096) * 4096
        return region
      })
      ftruncate(fd, end)
      addSeals(fd, F_SEAL_SHRINK | F_SEAL_GROW)
      return { memory: GuestMemory.map(regions), fd, regions }
    } catch (error) {
      close(fd)
      throw error
    }
  }

  /** The map of another thread of this process, from its `toData()`. That thread's map must outlive it. */
  static attach (data: GuestMemoryData): GuestMemory {
    return new GuestMemory(data.regions, [])
  }

  /** This map as plain data, for `attach` in another thread. */
  toData (): GuestMemoryData {
    return { regions: this.regions }
  }

  /** A new map with one region more. This one stays as it is, and its holder's. @throws as {@link GuestMemory.map}; GuestMemoryError ERR_RELEASED */
  with (region: RegionInit | HostRegionInit): GuestMemory {
    const added = mapRegion(region)
    try {
      const memory = GuestMemory.#own([...this.#mapped(), added])
      for (const mapping of this.#mappings) mapping.retain()
      return memory
    } catch (error) {
      added.mapping.release()
      throw error
    }
  }

  /** A new map without one region, named by its addresses and size. @throws GuestMemoryError ERR_REGION_UNKNOWN, ERR_RELEASED */
  without ({ guestAddress, size, userAddress = guestAddress }: Pick<RegionInit, 'guestAddress' | 'size' | 'userAddress'>): GuestMemory {
    const kept = this.#mapped().filter((region) =>
      region.guestAddress !== guestAddress || region.size !== size || region.userAddress !== userAddress)
    if (kept.length === this.regions.length) {
      throw new GuestMemoryError('ERR_REGION_UNKNOWN', `no region of ${size} bytes is at guest address 0x${guestAddress.toString(16)}`)
    }
    for (const { mapping } of kept) mapping.retain()
    return GuestMemory.#own(kept)
  }

  /** One holder more. @throws GuestMemoryError ERR_RELEASED */
  retain (): this {
    if (this.#holders === 0) throw new GuestMemoryError('ERR_RELEASED', 'this map of guest memory was released')
    this.#holders++
    return this
  }

  /** One holder less; after the last one no address and no view of this map may be used, in any thread. @throws GuestMemoryError ERR_RELEASED */
  release (): void {
    if (this.#holders === 0) throw new GuestMemoryError('ERR_RELEASED', 'this map of guest memory was released already')
    if (--this.#holders > 0) return
    this.#windows.length = 0
    this.#windowSpan[1] = 0
    for (const mapping of this.#mappings) mapping.release()
  }

  /** The same as `release()`, for `using`. @throws GuestMemoryError ERR_RELEASED */
  [Symbol.dispose] (): void {
    this.release()
  }

  /** The first guest address after all regions; 0 where there are none. */
  get end (): number {
    return this.#spans.at(-1)?.end ?? 0
  }

  /** The region that has a guest address. By binary search. */
  find (address: number): RegionSpan | undefined {
    this.#address[0] = address
    return this.findAt(this.#address, 0)
  }

  /** `find` of `addresses[index]`, for hot paths: an address above 2^31 that is an argument may cost an object. */
  findAt (addresses: Float64Array, index: number): RegionSpan | undefined {
    const address = addresses[index]!
    const last = this.#lastSpan
    if (address >= last.start && address < last.end) return last
    const other = this.#otherSpan
    if (address >= other.start && address < other.end) {
      this.#otherIsUsed = true
      return other
    }
    return this.#findSpan(addresses, index)
  }

  #findSpan (addresses: Float64Array, index: number): RegionSpan | undefined {
    const spans = this.#spans
    const address = addresses[index]!
    let low = 0
    let high = spans.length - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const span = spans[middle]!
      if (address < span.start) {
        high = middle - 1
      } else if (address >= span.end) {
        low = middle + 1
      } else {
        if (!this.#otherIsUsed) this.#otherSpan = this.#lastSpan
        this.#otherIsUsed = false
        return (this.#lastSpan = span)
      }
    }
    return undefined
  }

  /**
   * The host address of a guest range that lies in one region.
   *
   * @returns 0 when any byte of it is outside the region that its first byte is in, or `write` meets a read-only one.
   */
  translate (address: number, length: number, write: boolean): number {
    const span = this.find(address)
    return span === undefined || length > span.end - address || (write && span.readOnly) ? 0 : address + span.hostOffset
  }

  /** The host ranges of a guest range, one for each region that it meets; undefined when any byte of it may not be accessed so. */
  slices (address: number, length: number, write: boolean): HostSlice[] | undefined {
    const slices: HostSlice[] = []
    for (let at = address, left = length; left > 0;) {
      const span = this.find(at)
      if (span === undefined || (write && span.readOnly)) return undefined
      const here = Math.min(left, span.end - at)
      slices.push({ address: at + span.hostOffset, length: here })
      at += here
      left -= here
    }
    return slices
  }

  /** The guest address of a range that the front-end names by its own user address, or -1 when no one region has all of it. */
  guestAddressOf (userAddress: number, length: number): number {
    const region = this.regions.find((each) => userAddress >= each.userAddress && userAddress < each.userAddress + each.size)
    if (region === undefined || length > region.userAddress + region.size - userAddress) return -1
    return region.guestAddress + (userAddress - region.userAddress)
  }

  /** `windowAt` of one address. */
  window (address: number): DataView | undefined {
    this.#address[0] = address
    return this.windowAt(this.#address, 0)
  }

  /**
   * The window on the guest address `addresses[index]`, which stands at `windowOffset` in it, with 64 KiB behind it where the
   * region has as much; undefined where no region has it. For hot paths: see `findAt`.
   */
  windowAt (addresses: Float64Array, index: number): DataView | undefined {
    const offset = addresses[index]! - this.#windowSpan[0]!
    if (!(offset >= 0 && offset < this.#windowSpan[1]!)) return this.#findWindow(addresses, index)
    this.windowOffset = offset | 0
    return this.#lastWindow
  }

  #findWindow (addresses: Float64Array, index: number): DataView | undefined {
    const span = this.findAt(addresses, index)
    if (span === undefined) return undefined
    const offset = addresses[index]! - span.start
    const number = offset / WINDOW_BYTES | 0
    const window = this.#windows[span.firstWindow + number] ?? this.#openWindow(span, number)
    this.#lastWindow = window
    this.windowBytes = window.byteLength
    this.#windowSpan[0] = span.start + number * WINDOW_BYTES
    this.#windowSpan[1] = Math.min(this.windowBytes, WINDOW_BYTES)
    this.windowOffset = offset & (WINDOW_BYTES - 1)
    return window
  }

  #openWindow (span: RegionSpan, number: number): DataView {
    const start = span.start + number * WINDOW_BYTES
    const length = Math.min(span.end - start, WINDOW_BYTES + WINDOW_OVERLAP)
    return (this.#windows[span.firstWindow + number] = new DataView(viewMemory(start + span.hostOffset, length)))
  }

  /** An `ArrayBuffer` straight over a guest range. @throws GuestMemoryError ERR_ACCESS when it is not writable memory in one region; RangeError for more than `VIEW_BYTES_MAX` bytes */
  view (address: number, length: number): ArrayBuffer {
    const host = this.translate(address, length, true)
    if (host === 0 || length === 0) throw outside('view', address, length)
    return viewMemory(host, length)
  }

  /** A copy of guest memory, across regions. @throws GuestMemoryError ERR_ACCESS where there is none */
  read (address: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    this.#each(address, length, false, (slice, at) => bytes.set(new Uint8Array(viewMemory(slice.address, slice.length)), at))
    return bytes
  }

  /** Copies bytes to guest memory, across regions. @throws GuestMemoryError ERR_ACCESS where there is none, or it is read-only: nothing is written then */
  write (address: number, bytes: Uint8Array): void {
    this.#each(address, bytes.length, true, (slice, at) =>
      new Uint8Array(viewMemory(slice.address, slice.length)).set(bytes.subarray(at, at + slice.length)))
  }

  #each (address: number, length: number, write: boolean, access: (slice: HostSlice, at: number) => void): void {
    const slices = this.slices(address, length, write)
    if (slices === undefined) throw outside(write ? 'write' : 'read', address, length)
    let at = 0
    for (const slice of slices) {
      access(slice, at)
      at += slice.length
    }
  }

  // Scalars are little-endian, as virtio 1.x is, and lie in one region.

  /** Reads a byte. @throws GuestMemoryError ERR_ACCESS */
  getUint8 (address: number): number { return this.#scalar(address, 1, false).getUint8(this.windowOffset) }
  /** Reads 16 bits, little-endian, in one region. @throws GuestMemoryError ERR_ACCESS */
  getUint16 (address: number): number { return this.#scalar(address, 2, false).getUint16(this.windowOffset, true) }
  /** Reads 32 bits, little-endian, in one region. @throws GuestMemoryError ERR_ACCESS */
  getUint32 (address: number): number { return this.#scalar(address, 4, false).getUint32(this.windowOffset, true) }
  /** Reads 64 bits, little-endian, in one region. @throws GuestMemoryError ERR_ACCESS */
  getUint64 (address: number): bigint { return this.#scalar(address, 8, false).getBigUint64(this.windowOffset, true) }
  /** Writes a byte. @throws GuestMemoryError ERR_ACCESS */
  setUint8 (address: number, value: number): void { this.#scalar(address, 1, true).setUint8(this.windowOffset, value) }
  /** Writes 16 bits, little-endian, in one region. @throws GuestMemoryError ERR_ACCESS */
  setUint16 (address: number, value: number): void { this.#scalar(address, 2, true).setUint16(this.windowOffset, value, true) }
  /** Writes 32 bits, little-endian, in one region. @throws GuestMemoryError ERR_ACCESS */
  setUint32 (address: number, value: number): void { this.#scalar(address, 4, true).setUint32(this.windowOffset, value, true) }
  /** Writes 64 bits, little-endian, in one region. @throws GuestMemoryError ERR_ACCESS */
  setUint64 (address: number, value: bigint): void { this.#scalar(address, 8, true).setBigUint64(this.windowOffset, value, true) }

  /** Reads 16 bits in one indivisible, sequentially consistent access. @throws GuestMemoryError ERR_ACCESS outside memory, or at an odd host address */
  loadUint16 (address: number): number {
    return Atomics.load(this.#word(address, false), 0)
  }

  /** Writes 16 bits in one indivisible, sequentially consistent access. @throws GuestMemoryError ERR_ACCESS outside memory, or at an odd host address */
  storeUint16 (address: number, value: number): void {
    Atomics.store(this.#word(address, true), 0, value)
  }

  #scalar (address: number, length: number, write: boolean): DataView {
    if (this.translate(address, length, write) === 0) throw outside(write ? 'write' : 'read', address, length)
    return this.windowAt(this.#address, 0)!
  }

  #word (address: number, write: boolean): Uint16Array {
    const view = this.#scalar(address, 2, write)
    if (this.windowOffset % 2 !== 0) throw new GuestMemoryError('ERR_ACCESS', `0x${address.toString(16)} is odd: 16-bit atomics are aligned`)
    return new Uint16Array(view.buffer, this.windowOffset, 1)
  }

  #mapped (): MappedRegion[] {
    if (this.#mappings.length !== this.regions.length || this.#holders === 0) {
      throw new GuestMemoryError('ERR_RELEASED', 'only a live map that owns its mappings can be changed: this one is attached or released')
    }
    return this.regions.map((region, index) => ({ ...region, mapping: this.#mappings[index]! }))
  }
}

function mapRegion (region: RegionInit | HostRegionInit): MappedRegion {
  checkRegion(region)
  const { guestAddress, size, userAddress = guestAddress, readOnly = false } = region
  const mapping = 'hostAddress' in region
    ? Mapping.borrow(region.hostAddress)
    : Mapping.create(region.fd, region.offset ?? 0, size, readOnly)
  return { guestAddress, size, hostAddress: mapping.address, userAddress, readOnly, mapping }
}

function outside (access: string, address: number, length: number): GuestMemoryError {
  return new GuestMemoryError('ERR_ACCESS', `${access} of ${length} bytes at guest address 0x${address.toString(16)}: no such memory`)
}
