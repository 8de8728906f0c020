import type { QueueSetup, VhostUserDevice } from '@node-vmm/vhost-user'
import type { DataPlane } from '@node-vmm/virtio-blk-dataplane'

/** A data plane as the device that vhost-user sessions serve, one after the other. */
export class BlockDevice implements VhostUserDevice {
  readonly #plane: DataPlane

  constructor (plane: DataPlane) {
    this.#plane = plane
  }

  get features (): bigint {
    return this.#plane.features
  }

  get queueCount (): number {
    return this.#plane.queues
  }

  getConfig (): Uint8Array {
    return this.#plane.config
  }

  // Each queue is told its features as it starts; a read-only disk refuses writes whatever the driver accepted.
  setFeatures (): void {}

  async startQueue (index: number, { index: availableIndex, ...queue }: QueueSetup): Promise<void> {
    await this.#plane.startQueue(index, { ...queue, availableIndex })
  }

  async stopQueue (index: number): Promise<number> {
    return (await this.#plane.stopQueue(index)).availableIndex
  }

  setCall (index: number, fd: number | undefined): Promise<void> {
    return this.#plane.setCall(index, fd)
  }

  // A queue's state ends with the queue, and all are stopped.
  reset (): void {}
}
