/** A guest range in one region. */
export interface GuestRange {
  readonly address: number
  readonly length: number
}

interface ImageRegion {
  readonly start: number
  readonly bytes: Buffer
  readonly writable: boolean
}

/**
 * What guest memory should look like: plain bytes, found the slow way with bigints. The product's own lookups are not
 * used here, for they are what is judged.
 */
export class GuestImage {
  readonly regions: readonly ImageRegion[]

  constructor (regions: readonly ImageRegion[]) {
    this.regions = regions
  }

  get bytes (): Buffer[] {
    return this.regions.map(({ bytes }) => bytes)
  }

  /** The ranges that a guest range has in each region; undefined when a byte of it is nowhere, or may not be written. */
  ranges (address: bigint, length: number, write: boolean): GuestRange[] | undefined {
    const ranges: GuestRange[] = []
    let at = address
    for (let left = length; left > 0;) {
      const region = this.regions.find(({ start, bytes }) => at >= BigInt(start) && at < BigInt(start) + BigInt(bytes.length))
      if (region === undefined || (write && !region.writable)) return undefined
      const here = Math.min(left, region.start + region.bytes.length - Number(at))
      ranges.push({ address: Number(at), length: here })
      at += BigInt(here)
      left -= here
    }
    return ranges
  }

  /** Whether one region has all of a range. */
  holds (address: number, length: number, write: boolean): boolean {
    return this.ranges(BigInt(address), length, write)?.length === 1
  }

  read (address: number, length: number): Buffer {
    const ranges = this.ranges(BigInt(address), length, false)!
    return Buffer.concat(ranges.map((range) => this.#view(range)))
  }

  write (address: number, bytes: Uint8Array): void {
    let at = 0
    for (const range of this.ranges(BigInt(address), bytes.length, false)!) {
      this.#view(range).set(bytes.subarray(at, at + range.length))
      at += range.length
    }
  }

  get16 (address: number): number {
    return this.read(address, 2).readUInt16LE()
  }

  set16 (address: number, value: number): void {
    const bytes = Buffer.alloc(2)
    bytes.writeUInt16LE(value)
    this.write(address, bytes)
  }

  set32 (address: number, value: number): void {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(value)
    this.write(address, bytes)
  }

  #view ({ address, length }: GuestRange): Buffer {
    const { start, bytes } = this.regions.find(({ start, bytes }) => address >= start && address < start + bytes.length)!
    return bytes.subarray(address - start, address - start + length)
  }
}
