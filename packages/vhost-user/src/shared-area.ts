import { GuestMemory } from '@node-vmm/hostmem'
import { refused } from './errors.ts'

/** Where in a file. */
interface Range {
  /** Bytes. */
  readonly size: number
  readonly offset: number
}

/**
 * A part of a front-end's file, mapped, that is not the guest's memory: the log of written pages, or the records of
 * what is in flight. Unmapped when its last holder lets go.
 */
export class SharedArea {
  /** Host address of the first byte. */
  readonly address: number
  /** Bytes. */
  readonly length: number
  // A map of one region: that checks where the file ends, knows its page size, and counts holders.
  readonly #mapping: GuestMemory

  /**
   * @param fd borrowed, as a region's.
   * @param alignment what the address is a multiple of, up to 4096.
   * @throws VhostUserError for an offset that is not aligned; GuestMemoryError past the file's end; LinuxError
   */
  constructor (fd: number, { size, offset }: Range, alignment: number) {
    if (offset % alignment !== 0) throw refused(`offset ${offset}: a multiple of ${alignment} is wanted`)
    this.#mapping = GuestMemory.map([{ guestAddress: 0, size, fd, offset }])
    this.address = this.#mapping.regions[0]!.hostAddress
    this.length = size
  }

  /** One holder more. */
  retain (): void {
    this.#mapping.retain()
  }

  /** One holder less. */
  release (): void {
    this.#mapping.release()
  }
}
