import { createRequire } from 'node:module'
import { V86 } from 'v86'

declare module 'v86' {
  interface Event {
    /** The processor was halted with its interrupts off. */
    'cpu-event-halt': void
  }
}

/** What v86's processor has for devices: none of it is in v86's type declarations. */
export interface Cpu {
  /** The guest's memory: a part of `wasm_memory`. */
  readonly mem8: Uint8Array
  /** Its buffer is another one whenever it has grown. */
  readonly wasm_memory: { readonly buffer: ArrayBuffer }
  /** Forgets what was compiled from the guest's code in a range of its memory. */
  jit_dirty_cache (start: number, end: number): void
  readonly io: {
    register_read (port: number, device: object, read8: () => number, read16: () => number, read32: () => number): void
    register_write (port: number, device: object, write8: PortWrite, write16: PortWrite, write32: PortWrite): void
  }
  readonly devices: { readonly pci: Pci }
}

export type PortWrite = (value: number) => void

export interface Pci {
  /** Plugs in a device. Its ports are registered before; v86 moves them when the guest writes the base address. */
  register_device (device: PciFunction): void
  /** Asserts a device's interrupt pin. */
  raise_irq (pciId: number): void
  lower_irq (pciId: number): void
}

/** A device in a slot. */
export interface PciFunction {
  readonly name: string
  /** Slot × 8. */
  readonly pci_id: number
  /** The 256 bytes of its configuration space. */
  readonly pci_space: readonly number[]
  readonly pci_bars: readonly { readonly size: number }[]
}

/** What a PC boots from. */
export interface PcFiles {
  readonly bios: Buffer
  readonly vgaBios: Buffer
  readonly kernel: Buffer
  readonly initramfs: Buffer
  readonly commandLine: string
}

/** A PC that is switched on but does not run yet: the time to plug in devices. */
export async function createEmulator (files: PcFiles, memoryBytes: number): Promise<{ emulator: V86, cpu: Cpu }> {
  const emulator = new V86({
    wasm_path: createRequire(import.meta.url).resolve('v86/build/v86.wasm'),
    memory_size: memoryBytes,
    vga_memory_size: 2 << 20,
    bios: { buffer: bytesOf(files.bios) },
    vga_bios: { buffer: bytesOf(files.vgaBios) },
    bzimage: { buffer: bytesOf(files.kernel) },
    initrd: { buffer: bytesOf(files.initramfs) },
    cmdline: files.commandLine,
    disable_speaker: true,
    autostart: false
  })
  await new Promise((resolve) => emulator.add_listener('emulator-ready', () => resolve(undefined)))
  return { emulator, cpu: (emulator as unknown as { v86: { cpu: Cpu } }).v86.cpu }
}

/** v86 takes an `ArrayBuffer` with nothing else in it. */
function bytesOf (buffer: Buffer): ArrayBuffer {
  return new Uint8Array(buffer).buffer
}
