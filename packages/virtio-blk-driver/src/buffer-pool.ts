import type { GuestMemory } from '@node-vmm/hostmem'

/** The unit of allocation: what back-ends with O_DIRECT want their memory aligned to. */
const UNIT_BYTES = 4096

/** A piece of guest memory: the disk reads and writes it in place. */
export interface GuestBuffer {
  /** Guest address, a multiple of 4096. */
  readonly address: number
  /** The memory itself, as long as asked for. Not to be touched after `free`, nor after the driver is closed: that ends the process. */
  readonly bytes: Uint8Array
  /** Gives the memory back. Once, and not while a request uses it. */
  free (): void
  /** The same as `free()`, for `using`. */
  [Symbol.dispose] (): void
}

/** Hands out contiguous pieces of a range of guest memory: first fit, neighbours joined. */
export class BufferPool {
  readonly #base: number
  readonly #bytes: Uint8Array
  /** Free ranges by offset, never touching each other. */
  readonly #free: { start: number, end: number }[]

  constructor (memory: GuestMemory, address: number, length: number) {
    this.#base = address
    this.#bytes = new Uint8Array(memory.view(address, length))
    this.#free = [{ start: 0, end: length }]
  }

  /** Bytes in all. */
  get capacity (): number {
    return this.#bytes.length
  }

  /** @returns undefined when no contiguous range of this length is free. The contents are what was there. */
  allocate (length: number): GuestBuffer | undefined {
    const size = Math.ceil(length / UNIT_BYTES) * UNIT_BYTES
    const index = this.#free.findIndex(({ start, end }) => end - start >= size)
    if (index < 0 || size === 0) return undefined
    const range = this.#free[index]
    const start = range.start
    range.start += size
    if (range.start === range.end) this.#free.splice(index, 1)

    let held = true
    const free = (): void => {
      if (held) this.#release(start, start + size)
      held = false
    }
    return { address: this.#base + start, bytes: this.#bytes.subarray(start, start + length), free, [Symbol.dispose]: free }
  }

  #release (start: number, end: number): void {
    const after = this.#free.findIndex((range) => range.start >= end)
    const index = after < 0 ? this.#free.length : after
    this.#free.splice(index, 0, { start, end })
    this.#join(index)
    this.#join(index - 1)
  }

  #join (index: number): void {
    const range = this.#free[index]
    const next = this.#free[index + 1]
    if (range === undefined || next === undefined || range.end !== next.start) return
    range.end = next.end
    this.#free.splice(index + 1, 1)
  }
}
