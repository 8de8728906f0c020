import { dirtyLogBytes, type GuestMemory } from '@node-vmm/hostmem'
import { viewMemory } from '@node-vmm/libc'
import type { QueueSetup, VhostUserDevice } from '@node-vmm/vhost-user'
import {
  featureMask, hasFeature, inflightRecordBytes, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1
} from '@node-vmm/vring'
import assert from 'node:assert/strict'
import { fstatSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import type { Random } from '../random.ts'

/**
 * A device that holds the session to what `VhostUserDevice` promises: it touches all that it is given, and is started
 * and stopped in turn only. Now and then it refuses, as a device may.
 */
export class CheckingDevice implements VhostUserDevice {
  readonly features = featureMask(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED)
  readonly queueCount = 3
  readonly logsDirtyPages = true
  readonly running = new Map<number, QueueSetup>()
  /** The first promise that was broken: it is thrown by whoever looks, for the session takes what is thrown here. */
  broken: Error | undefined
  readonly #random: Random
  readonly #refusesOneIn: number
  #features = 0n

  constructor (random: Random, refusesOneIn: number) {
    this.#random = random
    this.#refusesOneIn = refusesOneIn
  }

  #check (what: () => void): void {
    try {
      what()
    } catch (error) {
      this.broken ??= error as Error
    }
  }

  getConfig (): Uint8Array {
    return new Uint8Array(60).fill(7)
  }

  setConfig (offset: number, data: Uint8Array): boolean {
    this.#check(() => assert.ok(data.length > 0 && offset + data.length <= 256))
    return offset === 32 && data.length === 1
  }

  inflightBytes (queueSize: number, features: bigint): number {
    this.#check(() => assert.ok(queueSize >= 1 && queueSize <= 32768))
    return hasFeature(features, VIRTIO_F_RING_PACKED) ? 0 : inflightRecordBytes(queueSize)
  }

  setFeatures (features: bigint): void {
    this.#check(() => {
      assert.equal(this.running.size, 0, 'features change while queues run')
      assert.equal(features & ~this.features, 0n)
    })
    this.#features = features
  }

  async startQueue (index: number, queue: QueueSetup): Promise<void> {
    if (this.#random.oneIn(4)) await setImmediate()
    if (this.#random.oneIn(this.#refusesOneIn)) throw new Error('the device does not like this ring')
    this.#check(() => {
      assert.ok(!this.running.has(index) && index >= 0 && index < this.queueCount, `queue ${index} is started twice`)
      assert.equal(queue.features, this.#features)
      this.#touch(queue)
    })
    this.running.set(index, queue)
  }

  /** All of it is there, and as long as it says. */
  #touch (queue: QueueSetup): void {
    const { memory, size, descriptorAddress, availableAddress, usedAddress, base, kickFd, callFd, errorFd, inflight, log } = queue
    const packed = hasFeature(queue.features, VIRTIO_F_RING_PACKED)
    assert.ok(Number.isInteger(size) && size >= 1 && size <= 32768)
    assert.ok(base >= 0 && base <= (packed ? 0xffffffff : 0xffff))
    touchGuest(memory, descriptorAddress, 16 * size)
    touchGuest(memory, availableAddress, packed ? 4 : 4 + 2 * size)
    touchGuest(memory, usedAddress, packed ? 4 : 4 + 8 * size)
    for (const fd of [kickFd, callFd, errorFd]) if (fd !== undefined) fstatSync(fd)
    if (inflight !== undefined) {
      assert.ok(inflight.length >= inflightRecordBytes(size) && inflight.address % 64 === 0)
      touchHost(inflight.address, inflight.length, 0xff)
    }
    if (log === undefined) return
    assert.ok(log.address % 8 === 0 && log.length >= dirtyLogBytes(memory.end))
    touchHost(log.address, log.length, 0xff)
    if (log.usedAddress !== undefined) assert.ok(dirtyLogBytes(log.usedAddress + (packed ? 4 : 4 + 8 * size)) <= log.length)
  }

  async stopQueue (index: number): Promise<number> {
    if (this.#random.oneIn(4)) await setImmediate()
    const queue = this.running.get(index)
    this.#check(() => {
      assert.ok(queue !== undefined, `queue ${index} is stopped, but does not run`)
      // It was valid until now.
      this.#touch(queue)
    })
    this.running.delete(index)
    return queue?.base ?? 0
  }

  setCall (index: number, fd: number | undefined): void {
    this.#check(() => {
      assert.ok(this.running.has(index))
      if (fd !== undefined) fstatSync(fd)
    })
    const { callFd, ...queue } = this.running.get(index)!
    this.running.set(index, fd === undefined ? queue : { ...queue, callFd: fd })
  }

  reset (): void {
    this.#check(() => assert.equal(this.running.size, 0, 'a reset while queues run'))
  }
}

function touchGuest (memory: GuestMemory, address: number, length: number): void {
  const host = memory.translate(address, length, false)
  assert.notEqual(host, 0, `${length} bytes at 0x${address.toString(16)} are in no region`)
  touchHost(host, length, 0)
}

/** Reads the ends of it, and flips bits in them: what is not mapped ends the process here. */
function touchHost (address: number, length: number, flip: number): void {
  const bytes = new Uint8Array(viewMemory(address, length))
  bytes[0]! ^= flip
  bytes[length - 1]! ^= flip
}
