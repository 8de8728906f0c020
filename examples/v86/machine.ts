import type { DataPlaneOptions } from '@node-vmm/virtio-blk-dataplane'
import type { V86 } from 'v86'
import { type Cpu, createEmulator, type PcFiles } from './emulator.ts'
import { BAR_BYTES, configurationSpace } from './pci-configuration.ts'
import { Ram } from './ram.ts'
import { VIRTIO_ID_BLOCK, VirtioBlkPci } from './virtio-blk-pci.ts'

/** Where in the PC the disk is: a free slot of v86's PCI bus, and free I/O ports to begin with. */
const PCI_ID = 13 << 3
const PORT = 0xc000

/** What a machine is made of. */
export interface MachineOptions {
  readonly files: PcFiles
  readonly memoryBytes: number
  readonly disk: Omit<DataPlaneOptions, 'onFault'>
  /** Receives what the guest writes to its first serial port, byte by byte. */
  readonly onSerial: (byte: number) => void
  readonly onFault: (message: string) => void
}

/** A PC with a virtio disk. */
export class Machine {
  readonly #emulator: V86
  readonly #ram: Ram
  readonly disk: VirtioBlkPci
  /** The guest has switched itself off: its processor is halted for good. */
  readonly halted: Promise<void>

  private constructor (emulator: V86, cpu: Cpu, { disk, onSerial, onFault }: MachineOptions) {
    const { pci } = cpu.devices
    const ram = new Ram(cpu)
    this.#emulator = emulator
    this.#ram = ram
    this.disk = new VirtioBlkPci(disk, {
      ram,
      raiseInterrupt: () => pci.raise_irq(PCI_ID),
      lowerInterrupt: () => pci.lower_irq(PCI_ID),
      onFault
    })
    plugIn(cpu, this.disk)
    emulator.add_listener('serial0-output-byte', onSerial)
    this.halted = new Promise((resolve) => emulator.add_listener('cpu-event-halt', () => resolve()))
  }

  /** @throws DataPlaneError or LinuxError for an image that cannot be served */
  static async create (options: MachineOptions): Promise<Machine> {
    const { emulator, cpu } = await createEmulator(options.files, options.memoryBytes)
    return new Machine(emulator, cpu, options)
  }

  /** Presses the button. */
  async run (): Promise<void> {
    await this.#emulator.run()
  }

  /** Types on the guest's first serial port. */
  type (text: string): void {
    this.#emulator.serial0_send(text)
  }

  /** Pulls the plug, after what the disk has in flight is complete. */
  async powerOff (): Promise<void> {
    await this.#emulator.stop()
    await this.disk.close()
    this.#ram.close()
    await this.#emulator.destroy()
  }
}

/** Puts the device's registers at its I/O ports, and the device on the PCI bus. */
function plugIn (cpu: Cpu, device: VirtioBlkPci): void {
  for (let offset = 0; offset < BAR_BYTES; offset++) {
    const [read8, read16, read32] = [1, 2, 4].map((width) => () => device.read(offset, width) | 0)
    const write = (value: number): void => device.write(offset, value >>> 0)
    cpu.io.register_read(PORT + offset, device, read8!, read16!, read32!)
    cpu.io.register_write(PORT + offset, device, write, write, write)
  }
  cpu.devices.pci.register_device({
    name: 'virtio-blk',
    pci_id: PCI_ID,
    pci_space: [...configurationSpace(VIRTIO_ID_BLOCK, PORT)],
    pci_bars: [{ size: BAR_BYTES }]
  })
}
