import { EventNotifier, EventPoll, serveFromNode } from '@node-vmm/event-poll'
import { VIRTIO_BLK_F_CONFIG_WCE } from '@node-vmm/virtio-blk'
import { DataPlane, type DataPlaneOptions } from '@node-vmm/virtio-blk-dataplane'
import { featureMask, hasFeature, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1 } from '@node-vmm/vring'
import { COMMON, DEVICE, ISR, NOTIFY } from './pci-configuration.ts'
import type { Ram } from './ram.ts'
import { RingMirror } from './ring-mirror.ts'

/** virtio's number for a block device. */
export const VIRTIO_ID_BLOCK = 2
const QUEUE_SIZE_MAX = 128

// Registers of the common structure: virtio 1.2, 4.1.4.3.
const DEVICE_FEATURE_SELECT = COMMON + 0x00
const DEVICE_FEATURE = COMMON + 0x04
const DRIVER_FEATURE_SELECT = COMMON + 0x08
const DRIVER_FEATURE = COMMON + 0x0c
const CONFIG_MSIX_VECTOR = COMMON + 0x10
const NUM_QUEUES = COMMON + 0x12
const DEVICE_STATUS = COMMON + 0x14
const QUEUE_SELECT = COMMON + 0x16
const QUEUE_SIZE = COMMON + 0x18
const QUEUE_MSIX_VECTOR = COMMON + 0x1a
const QUEUE_ENABLE = COMMON + 0x1c
const QUEUE_DESC = COMMON + 0x20
const QUEUE_END = COMMON + 0x38

// Places in the six 32-bit registers of the queue's addresses from QUEUE_DESC on.
const DESCRIPTORS = 0
const AVAILABLE = 2
const USED = 4

// Bits of the device status: virtio 1.2, 2.1.
const ACKNOWLEDGE = 1
const DRIVER_OK = 4
const FEATURES_OK = 8
const NEEDS_RESET = 0x40

// Bits of the ISR: virtio 1.2, 4.1.4.5.
const ISR_QUEUE = 1
const ISR_CONFIG = 2

/** There are no message-signalled interrupts. */
const NO_VECTOR = 0xffff

/**
 * Features of the disk that this device does not offer. EVENT_IDX: whether to kick and to interrupt is not decided by
 * what driver and device write for each other, see `ring-mirror.ts`. CONFIG_WCE: the configuration cannot be written.
 */
const WITHHELD = featureMask(VIRTIO_F_EVENT_IDX, VIRTIO_BLK_F_CONFIG_WCE)

/** What the device has of its machine. */
export interface Slot {
  readonly ram: Pick<Ram, 'memory' | 'writtenPages' | 'checkPlace' | 'forgetStaleCode'>
  /** Asserts the interrupt pin. */
  raiseInterrupt (): void
  lowerInterrupt (): void
  /** The guest's driver did what it must not. The device does nothing more until its reset. */
  onFault (message: string): void
}

/**
 * The registers of a virtio block device on a PCI bus; its requests are the data plane's. The two know of each other by
 * two eventfds, as a hypervisor's ioeventfd and irqfd would tie them together.
 */
export class VirtioBlkPci {
  readonly disk: DataPlane
  readonly #slot: Slot
  readonly #kick = EventNotifier.create()
  readonly #call = EventNotifier.create()
  readonly #poll = new EventPoll()

  // What the driver writes before it sets DRIVER_OK.
  #status = 0
  #deviceFeatureSelect = 0
  #driverFeatureSelect = 0
  readonly #driverFeatures = new Uint32Array(2)
  #queueSelect = 0
  #queueSize = QUEUE_SIZE_MAX
  #queueEnabled = 0
  readonly #queueAddresses = new Uint32Array(6)

  #isr = 0
  /** Of the queue that is served. */
  #mirror: RingMirror | undefined
  /** Queues of before a reset that are not quite let go of. */
  #stopping = 0

  constructor (disk: Omit<DataPlaneOptions, 'onFault'>, slot: Slot) {
    this.disk = DataPlane.create({ ...disk, onFault: (_, { message }) => this.#fail(message) })
    this.#slot = slot
    this.#poll.add(this.#call, () => this.#onCall())
    serveFromNode(this.#poll)
  }

  /** The guest reads from an I/O port. @param width in bytes */
  read (port: number, width: number): number {
    if (port >= DEVICE) return this.#readConfiguration(port - DEVICE, width)
    if (port === ISR) return this.#takeIsr()
    if (this.#queueSelect !== 0 && port >= QUEUE_SIZE && port < QUEUE_END) return 0
    switch (port) {
      case DEVICE_FEATURE_SELECT: return this.#deviceFeatureSelect
      case DEVICE_FEATURE: return half(this.#offered, this.#deviceFeatureSelect)
      case DRIVER_FEATURE_SELECT: return this.#driverFeatureSelect
      case DRIVER_FEATURE: return this.#driverFeatures[this.#driverFeatureSelect] ?? 0
      case CONFIG_MSIX_VECTOR:
      case QUEUE_MSIX_VECTOR: return NO_VECTOR
      case NUM_QUEUES: return 1
      // A driver waits until this is 0 after a reset: then nothing of its memory is in use any more.
      case DEVICE_STATUS: return this.#status === 0 && this.#stopping > 0 ? ACKNOWLEDGE : this.#status
      case QUEUE_SELECT: return this.#queueSelect
      case QUEUE_SIZE: return this.#queueSize
      case QUEUE_ENABLE: return this.#queueEnabled
      default: return this.#queueAddresses[(port - QUEUE_DESC) / 4] ?? 0
    }
  }

  /** The guest writes to an I/O port. */
  write (port: number, value: number): void {
    if (port === NOTIFY) return this.#notify()
    if (this.#queueSelect !== 0 && port >= QUEUE_SIZE && port < QUEUE_END) return
    switch (port) {
      case DEVICE_FEATURE_SELECT: this.#deviceFeatureSelect = value; break
      case DRIVER_FEATURE_SELECT: this.#driverFeatureSelect = value; break
      case DRIVER_FEATURE: this.#driverFeatures[this.#driverFeatureSelect] = value; break
      case DEVICE_STATUS: this.#setStatus(value); break
      case QUEUE_SELECT: this.#queueSelect = value; break
      case QUEUE_SIZE: this.#queueSize = Math.min(value, QUEUE_SIZE_MAX); break
      case QUEUE_ENABLE: this.#queueEnabled = value; break
      default: if (port >= QUEUE_DESC && port < QUEUE_END) this.#queueAddresses[(port - QUEUE_DESC) / 4] = value
    }
  }

  /** Completes what is in flight and gives the image back. */
  async close (): Promise<void> {
    await this.disk.close()
    this.#poll.close()
    this.#mirror?.close()
    this.#mirror = undefined
    this.#kick.close()
    this.#call.close()
  }

  get #offered (): bigint {
    return this.disk.features & ~WITHHELD
  }

  get #accepted (): bigint {
    const [low, high] = this.#driverFeatures
    return BigInt(high!) << 32n | BigInt(low!)
  }

  #setStatus (status: number): void {
    if (status === 0) return this.#reset()
    const acceptable = (this.#accepted & ~this.#offered) === 0n && hasFeature(this.#accepted, VIRTIO_F_VERSION_1)
    if (!acceptable) status &= ~FEATURES_OK
    const starts = (status & ~this.#status & DRIVER_OK) !== 0
    this.#status = status | (this.#status & NEEDS_RESET)
    if (starts && this.#queueEnabled === 1) this.#start()
  }

  /** The guest's driver is ready: its requests are served from here on, in the data plane's thread. */
  #start (): void {
    const { ram } = this.#slot
    const { address, length } = ram.writtenPages
    const size = this.#queueSize
    try {
      const mirror = new RingMirror(ram.memory, {
        size, availableAddress: this.#address(AVAILABLE), usedAddress: this.#address(USED)
      })
      this.#mirror = mirror
      this.disk.start([{
        size,
        descriptorAddress: this.#address(DESCRIPTORS),
        availableAddress: mirror.availableAddress,
        usedAddress: mirror.usedAddress,
        features: this.#accepted,
        memory: mirror.memory,
        kickFd: this.#kick.fd,
        callFd: this.#call.fd,
        log: { address, length }
      }]).catch((error: Error) => { if (this.#mirror === mirror) this.#fail(error.message) })
    } catch (error) {
      this.#fail((error as Error).message)
    }
  }

  #address (place: number): number {
    return this.#queueAddresses[place + 1]! * 0x100000000 + this.#queueAddresses[place]!
  }

  /** The driver may begin anew at once: the data plane starts a queue after it has stopped the one before. */
  #reset (): void {
    const mirror = this.#mirror
    this.#mirror = undefined
    this.#status = this.#deviceFeatureSelect = this.#driverFeatureSelect = this.#queueSelect = this.#queueEnabled = 0
    this.#queueSize = QUEUE_SIZE_MAX
    this.#driverFeatures.fill(0)
    this.#queueAddresses.fill(0)
    this.#takeIsr()
    if (mirror === undefined) return
    this.#stopping++
    void this.disk.stop().then(() => {
      mirror.close()
      this.#stopping--
    })
  }

  /** What an ioeventfd does where there is a hypervisor: the guest's write becomes a kick. */
  #notify (): void {
    if (this.#mirror === undefined) return
    this.#slot.ram.checkPlace()
    this.#mirror.showDevice()
    this.#kick.notify()
  }

  /** What an irqfd does: the device's call becomes an interrupt. */
  #onCall (): void {
    if (this.#mirror === undefined) return
    const { ram } = this.#slot
    ram.checkPlace()
    if (this.#mirror.showGuest(() => ram.forgetStaleCode())) this.#interrupt(ISR_QUEUE)
  }

  #interrupt (reason: number): void {
    this.#isr |= reason
    this.#slot.raiseInterrupt()
  }

  /** Reading the ISR says why there was an interrupt, and ends it. */
  #takeIsr (): number {
    const isr = this.#isr
    this.#isr = 0
    this.#slot.lowerInterrupt()
    return isr
  }

  #fail (message: string): void {
    this.#status |= NEEDS_RESET
    this.#slot.onFault(message)
    this.#interrupt(ISR_CONFIG)
  }

  #readConfiguration (offset: number, width: number): number {
    const { buffer, byteOffset, byteLength } = this.disk.config
    if (offset + width > byteLength) return 0
    const view = new DataView(buffer, byteOffset + offset)
    return width === 1 ? view.getUint8(0) : width === 2 ? view.getUint16(0, true) : view.getUint32(0, true)
  }
}

/** The low or the high 32 of 64 feature bits. */
function half (features: bigint, select: number): number {
  return select > 1 ? 0 : Number(BigInt.asUintN(32, features >> BigInt(32 * select)))
}
