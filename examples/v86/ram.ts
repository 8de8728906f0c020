import { dirtyLogBytes, GuestMemory, LOG_PAGE_BYTES } from '@node-vmm/hostmem'
import { addressOf, NativeMemory } from '@node-vmm/libc'
import type { Cpu } from './emulator.ts'

/** The screen's window: what is written there does not reach memory. */
const VGA_WINDOW = { start: 0xa0000, end: 0xc0000 }

/**
 * The emulated PC's memory as `hostmem` regions. v86 has it inside its WebAssembly memory, which is ordinary memory of
 * this process: what is needed is the address.
 */
export class Ram {
  readonly memory: GuestMemory
  /** A bit for each page that the device has written since `forgetStaleCode`: for the data plane's `log`. */
  readonly writtenPages: NativeMemory
  readonly #cpu: Cpu
  readonly #address: number
  #buffer: ArrayBufferLike

  constructor (cpu: Cpu) {
    const { mem8: { byteOffset, length }, wasm_memory: { buffer } } = cpu
    this.#cpu = cpu
    this.#buffer = buffer
    this.#address = addressOf(new Uint8Array(buffer))
    const hostAddress = this.#address + byteOffset
    this.memory = GuestMemory.map([
      { guestAddress: 0, size: VGA_WINDOW.start, hostAddress },
      { guestAddress: VGA_WINDOW.end, size: length - VGA_WINDOW.end, hostAddress: hostAddress + VGA_WINDOW.end }
    ])
    this.writtenPages = new NativeMemory(dirtyLogBytes(length))
  }

  /**
   * A WebAssembly memory that grows, which v86's does as it compiles, may move. V8 on 64-bit reserves the address space
   * for all 4 GiB beforehand, so that it stays; should it ever move, then nobody may use the old address any longer.
   *
   * @throws Error when it has moved: this process must end, requests in flight have addresses of memory that is gone
   */
  checkPlace (): void {
    const { buffer } = this.#cpu.wasm_memory
    if (buffer === this.#buffer) return
    if (addressOf(new Uint8Array(buffer)) !== this.#address) throw new Error("the emulator's memory has moved while a device uses it")
    this.#buffer = buffer
  }

  /**
   * v86 compiles the guest's code to WebAssembly, page by page, and compiles a page again when the guest writes to it. A
   * write of ours it does not see: it is told, before the guest can know that a request is done.
   */
  forgetStaleCode (): void {
    const { u8, u32 } = this.writtenPages
    for (let word = 0; word < u32.length; word++) {
      if (u32[word] === 0) continue
      for (let byte = word * 4; byte < word * 4 + 4; byte++) this.#forget(byte * 8, Atomics.exchange(u8, byte, 0))
    }
  }

  #forget (firstPage: number, bits: number): void {
    for (let bit = 0; bit < 8; bit++) {
      const start = (firstPage + bit) * LOG_PAGE_BYTES
      if ((bits & 1 << bit) !== 0) this.#cpu.jit_dirty_cache(start, start + LOG_PAGE_BYTES)
    }
  }

  /** The devices must have let go of it. */
  close (): void {
    this.memory.release()
    this.writtenPages.close()
  }
}
