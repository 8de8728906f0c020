import { viewMemory } from '@node-vmm/libc'

/** Bytes of guest memory that one bit of a log stands for. */
export const LOG_PAGE_BYTES = 4096

/** Bytes of a log for guest memory that ends at this address. */
export function dirtyLogBytes (end: number): number {
  return Math.ceil(Math.ceil(end / LOG_PAGE_BYTES) / 8)
}

/**
 * A bitmap of the pages of guest memory that were written, shared with whoever migrates the guest: vhost-user,
 * "Migration". A page is marked after it was written, so that a copy made before is made again.
 */
export class DirtyLog {
  readonly #bits: Uint8Array

  /** @param address host address of the bitmap. @param length its bytes. @throws RangeError for address 0, or a length of none or too many */
  constructor (address: number, length: number) {
    this.#bits = new Uint8Array(viewMemory(address, length))
  }

  /** Marks the pages of a guest range. Pages beyond the log, which nobody migrates, are left out. */
  mark (address: number, length: number): void {
    if (length === 0) return
    const last = Math.floor((address + length - 1) / LOG_PAGE_BYTES)
    for (let page = Math.floor(address / LOG_PAGE_BYTES); page <= last; page++) {
      const byte = Math.floor(page / 8)
      // The reader takes and clears bits meanwhile: only an atomic OR loses none.
      if (byte < this.#bits.length) Atomics.or(this.#bits, byte, 1 << (page % 8))
    }
  }
}
