import { type QueueSetup, type VhostUserDevice, VhostUserError } from '@node-vmm/vhost-user'
import { AbandonedError, type DataPlane, CONFIG_WRITEBACK } from '@node-vmm/virtio-blk-dataplane'
import {
  hasFeature, inflightRecordBytes, PACKED_RING_START, packedInflightRecordBytes, VIRTIO_F_RING_PACKED, VIRTQ_DESC_F_USED
} from '@node-vmm/vring'

/** A data plane as the device that vhost-user sessions serve, one after the other. */
export class BlockDevice implements VhostUserDevice {
  readonly logsDirtyPages = true
  readonly #plane: DataPlane
  readonly #writeThroughAtFirst: boolean
  /** The rings that run are packed. */
  #packed = false

  /** @param plane stays the caller's. */
  constructor (plane: DataPlane) {
    this.#plane = plane
    this.#writeThroughAtFirst = plane.writeThrough
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

  /** The mode of the write cache is the one field that a driver may write (virtio 1.2, 5.2.5). */
  async setConfig (offset: number, data: Uint8Array): Promise<boolean> {
    if (offset !== CONFIG_WRITEBACK || data.length !== 1 || data[0]! > 1) return false
    await unlessGivenUp(this.#plane.setWriteThrough(data[0] === 0))
    return true
  }

  // Each queue is told its features as it starts; a read-only disk refuses writes whatever the driver accepted.
  setFeatures (features: bigint): void {
    this.#packed = hasFeature(features, VIRTIO_F_RING_PACKED)
  }

  /** Packed rings have a record of their own kind. */
  inflightBytes (queueSize: number, features: bigint): number {
    return hasFeature(features, VIRTIO_F_RING_PACKED) ? packedInflightRecordBytes(queueSize) : inflightRecordBytes(queueSize)
  }

  async startQueue (index: number, { base, ...queue }: QueueSetup): Promise<void> {
    const indices = this.#packed ? packedIndices(base, queue) : { availableIndex: base & 0xffff }
    await unlessGivenUp(this.#plane.startQueue(index, { ...queue, ...indices }))
  }

  async stopQueue (index: number): Promise<number> {
    const { availableIndex, usedIndex } = await unlessGivenUp(this.#plane.stopQueue(index))
    return this.#packed ? (usedIndex << 16 | availableIndex) >>> 0 : availableIndex
  }

  setCall (index: number, fd: number | undefined): Promise<void> {
    return unlessGivenUp(this.#plane.setCall(index, fd))
  }

  /** All queues are stopped: what is left of a guest is the write cache's mode. */
  async reset (): Promise<void> {
    if (this.#plane.writeThrough !== this.#writeThroughAtFirst) await this.#plane.setWriteThrough(this.#writeThroughAtFirst)
  }
}

/** The data plane serves the next front-end after it was given up: a session must know that from a broken one. */
async function unlessGivenUp<Result> (work: Promise<Result>): Promise<Result> {
  try {
    return await work
  } catch (error) {
    if (!(error instanceof AbandonedError)) throw error
    throw new VhostUserError('ERR_VHOST_USER_ABANDONED', error.message, { cause: error })
  }
}

/**
 * A front-end that knows nothing of packed rings, as User-Mode Linux, says base 0 for a fresh one, of which the wrap
 * counters are 1. The first descriptor tells it from one that is back at 0 after a lap: that one was used.
 */
function packedIndices (base: number, { memory, descriptorAddress }: Pick<QueueSetup, 'memory' | 'descriptorAddress'>): { availableIndex: number, usedIndex: number } {
  const isFresh = base === 0 && (memory.getUint16(descriptorAddress + 14) & VIRTQ_DESC_F_USED) === 0
  return isFresh ? { availableIndex: PACKED_RING_START, usedIndex: PACKED_RING_START } : { availableIndex: base & 0xffff, usedIndex: base >>> 16 }
}
