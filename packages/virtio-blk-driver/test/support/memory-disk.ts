import { EventNotifier } from '@node-vmm/event-poll'
import { watchReadable, type Watch } from '@node-vmm/libc'
import type { QueueSetup, VhostUserDevice } from '@node-vmm/vhost-user'
import {
  DescriptorChain, hasFeature, InflightRecord, inflightRecordBytes, PackedVring, SplitVring, VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED, type Virtqueue
} from '@node-vmm/vring'
import { DRIVER_FEATURES, featureMask, readsFromDisk, SECTOR_BYTES, VIRTIO_BLK_F_RO, VIRTIO_BLK_T_OUT } from '../../src/index.ts'

export interface MemoryDiskOptions {
  /** What the disk holds: changed by writes. */
  readonly bytes: Uint8Array
  /** Does not offer these features. */
  readonly without?: readonly number[]
  /** Keeps records of what is in flight. @default false */
  readonly keepsRecords?: boolean
  /** Requests that it takes and never gives back, once it has done so many others. @default it does all */
  readonly doneAtMost?: number
}

/** What a started queue of a memory disk is. */
interface Running {
  readonly vring: Virtqueue
  readonly packed: boolean
  readonly watch: Watch
}

/**
 * A disk in memory on Node's event loop, with packed rings, in-order completion and records of what is in flight: it
 * gives requests back in the reverse of the order in which they came, where it may.
 */
export class MemoryDisk implements VhostUserDevice {
  readonly features: bigint
  readonly queueCount = 2
  readonly inflightBytes?: (size: number) => number
  /** Types of the requests taken, in order. */
  readonly taken: number[] = []
  /** Where each start of a queue began: `QueueSetup.base`. */
  readonly bases: number[] = []
  readonly #bytes: Uint8Array
  readonly #queues: Running[] = []
  #left: number

  constructor ({ bytes, without = [], keepsRecords = false, doneAtMost = Infinity }: MemoryDiskOptions) {
    this.features = (DRIVER_FEATURES | featureMask(VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER)) & ~featureMask(VIRTIO_BLK_F_RO, ...without)
    this.#bytes = bytes
    this.#left = doneAtMost
    if (keepsRecords) this.inflightBytes = inflightRecordBytes
  }

  getConfig (): Uint8Array {
    const view = new DataView(new ArrayBuffer(60))
    view.setUint32(0, this.#bytes.length / SECTOR_BYTES, true)
    view.setUint32(12, 4, true)
    view.setUint16(34, this.queueCount, true)
    return new Uint8Array(view.buffer)
  }

  setFeatures (): void {}
  setCall (): void {}
  reset (): void {}

  startQueue (index: number, setup: QueueSetup): void {
    const { memory, size, base, descriptorAddress, availableAddress, usedAddress, features, inflight } = setup
    const packed = hasFeature(features, VIRTIO_F_RING_PACKED)
    const init = { size, descriptorAddress, availableAddress, usedAddress, features, availableIndex: base & 0xffff }
    const record = inflight === undefined ? undefined : new InflightRecord(inflight.address, size)
    const vring = packed ? new PackedVring(memory, { ...init, usedIndex: base >>> 16 }) : new SplitVring(memory, init, { record })
    const chain = new DescriptorChain(memory)
    const kick = EventNotifier.fromFd(setup.kickFd)
    const serve = (): void => {
      kick.clear()
      const done: { head: number, written: number }[] = []
      do {
        while (vring.pop(chain) === 'chain') {
          const written = this.#do(chain)
          if (this.#left-- > 0) done.push({ head: chain.head, written })
        }
      } while (vring.enableNotification() === 'more')
      for (const { head, written } of done.reverse()) vring.push(head, written)
      vring.publish()
      if (vring.shouldNotify() && setup.callFd !== undefined) EventNotifier.fromFd(setup.callFd).notify()
    }
    this.bases.push(base)
    this.#queues[index] = { vring, packed, watch: watchReadable(setup.kickFd, serve) }
    serve()
  }

  async stopQueue (index: number): Promise<number> {
    const { vring, packed, watch } = this.#queues[index]!
    watch.close()
    const { availableIndex, usedIndex } = vring.save()
    return packed ? availableIndex + usedIndex * 0x10000 : availableIndex
  }

  /** @returns bytes written to the driver's memory */
  #do (chain: DescriptorChain): number {
    const sent = new Uint8Array(chain.readableBytes)
    chain.copyReadable(sent)
    const header = new DataView(sent.buffer)
    const type = header.getUint32(0, true)
    const at = Number(header.getBigUint64(8, true)) * SECTOR_BYTES
    this.taken.push(type)
    if (type === VIRTIO_BLK_T_OUT) this.#bytes.set(sent.subarray(16), at)
    const answer = new Uint8Array(chain.writableBytes)
    if (readsFromDisk(type)) answer.set(this.#bytes.subarray(at, at + answer.length - 1))
    answer[answer.length - 1] = 0
    return chain.copyToWritable(answer)
  }
}
