import { EventNotifier } from '@node-vmm/event-poll'
import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import { DataPlane } from '@node-vmm/virtio-blk-dataplane'

/** What a guest's driver writes to the device's registers before it sets DRIVER_OK. */
export interface RingRegisters {
  readonly size: number
  readonly descriptorAddress: number
  readonly availableAddress: number
  readonly usedAddress: number
  readonly features: bigint
}

/**
 * A virtual machine monitor, reduced to its disk. It owns the guest's memory, and the two eventfds that a hypervisor
 * would tie to the guest: KVM_IOEVENTFD makes `kick` readable when the guest writes the notification register, and
 * KVM_IRQFD interrupts the guest when `call` is written. Neither the kick nor the interrupt passes this thread.
 */
export class Vmm {
  readonly memory: GuestMemory
  readonly kick = EventNotifier.create()
  readonly call = EventNotifier.create()
  readonly disk: DataPlane

  constructor (imagePath: string, memoryBytes: number) {
    const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: memoryBytes }])
    close(fd) // nobody else maps this memory; a VMM that passes it to other processes keeps the descriptor
    this.memory = memory
    this.disk = DataPlane.create({ path: imagePath, serial: 'in-process' })
  }

  /** The guest's driver is ready: its requests are served from here on, in a thread of their own. */
  async driverOk ({ features, ...ring }: RingRegisters): Promise<void> {
    if ((features & ~this.disk.features) !== 0n) throw new Error('the driver accepted a feature that was not offered')
    await this.disk.start([{ ...ring, features, memory: this.memory, kickFd: this.kick.fd, callFd: this.call.fd }])
  }

  /** Does something to the image that no request may see half-done. */
  async whilePaused<Result> (work: () => Promise<Result>): Promise<Result> {
    await this.disk.pause({ timeout: 5000 })
    try {
      return await work()
    } finally {
      this.disk.resume()
    }
  }

  async powerOff (): Promise<void> {
    await this.disk.close()
    this.kick.close()
    this.call.close()
    this.memory.release()
  }
}
