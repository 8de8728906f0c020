// The straightforward server: what one writes first, in Node. Everything on the main thread: a kick is an event of
// Node's loop, each request an async function with `fs.promises`, each completion shown to the guest by itself.
// It shares protocol and rings with the real one, so that what is measured is how the work is done.
// usage: node dist/plain-server.js SOCKET IMAGE QUEUES [direct]
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { EventNotifier } from '@node-vmm/event-poll'
import type { GuestMemory } from '@node-vmm/hostmem'
import { type Watch, watchReadable } from '@node-vmm/libc'
import { listen, type QueueSetup, type VhostUserDevice } from '@node-vmm/vhost-user'
import {
  featureMask, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1
} from '@node-vmm/virtio-blk-driver'
import { DescriptorChain, SplitVring } from '@node-vmm/vring'

interface Segment {
  readonly address: number
  readonly length: number
}

interface Request {
  readonly head: number
  readonly readable: Segment[]
  readonly writable: Segment[]
}

const [socketPath, imagePath, queueCount, direct] = process.argv.slice(2)
const image = await open(imagePath, constants.O_RDWR | (direct === undefined ? 0 : constants.O_DIRECT))
const { size: capacity } = await image.stat()

class Queue {
  readonly #memory: GuestMemory
  readonly #vring: SplitVring
  readonly #kick: EventNotifier
  readonly #call: EventNotifier | undefined
  readonly #watch: Watch
  readonly #busy = new Set<Promise<void>>()

  constructor ({ memory, size, descriptorAddress, availableAddress, usedAddress, features, base, kickFd, callFd }: QueueSetup) {
    this.#memory = memory
    this.#vring = new SplitVring(memory, { size, descriptorAddress, availableAddress, usedAddress, features, availableIndex: base })
    this.#kick = EventNotifier.fromFd(kickFd)
    this.#call = callFd === undefined ? undefined : EventNotifier.fromFd(callFd)
    this.#watch = watchReadable(kickFd, () => this.#onKick())
    this.#onKick()
  }

  async stop (): Promise<number> {
    this.#watch.close()
    await Promise.all(this.#busy)
    return this.#vring.save().availableIndex
  }

  #onKick (): void {
    this.#kick.clear()
    const chain = new DescriptorChain(this.#memory)
    do {
      while (this.#vring.pop(chain) === 'chain') this.#start(copy(chain))
    } while (this.#vring.enableNotification() === 'more')
  }

  #start (request: Request): void {
    const done = this.#serve(request).finally(() => this.#busy.delete(done))
    this.#busy.add(done)
  }

  async #serve ({ head, readable, writable }: Request): Promise<void> {
    const header = new DataView(this.#memory.view(readable[0].address, 16))
    const type = header.getUint32(0, true)
    const position = Number(header.getBigUint64(8, true)) * 512
    const status = writable.pop()!
    let [result, written] = [VIRTIO_BLK_S_OK, 1]
    try {
      if (type === VIRTIO_BLK_T_IN) written += await this.#read(writable, position)
      else if (type === VIRTIO_BLK_T_OUT) await this.#write(readable.slice(1), position)
      else if (type === VIRTIO_BLK_T_FLUSH) await image.datasync()
      else result = VIRTIO_BLK_S_UNSUPP
    } catch {
      result = VIRTIO_BLK_S_IOERR
    }
    this.#memory.setUint8(status.address, result)
    this.#vring.push(head, written)
    this.#vring.publish()
    if (this.#vring.shouldNotify()) this.#call?.notify()
  }

  async #read (segments: Segment[], position: number): Promise<number> {
    let moved = 0
    for (const { address, length } of segments) {
      await image.read(new Uint8Array(this.#memory.view(address, length)), 0, length, position + moved)
      moved += length
    }
    return moved
  }

  async #write (segments: Segment[], position: number): Promise<void> {
    let moved = 0
    for (const { address, length } of segments) {
      await image.write(new Uint8Array(this.#memory.view(address, length)), 0, length, position + moved)
      moved += length
    }
  }
}

function copy (chain: DescriptorChain): Request {
  const { head, readableCount, writableCount, guestAddress, length } = chain
  const segments = Array.from({ length: readableCount + writableCount }, (_, index) => ({ address: guestAddress[index], length: length[index] }))
  return { head, readable: segments.slice(0, readableCount), writable: segments.slice(readableCount) }
}

const queues = new Map<number, Queue>()
const device: VhostUserDevice = {
  features: featureMask(VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1),
  queueCount: Number(queueCount),
  getConfig () {
    const config = Buffer.alloc(60)
    config.writeBigUInt64LE(BigInt(capacity / 512), 0)
    config.writeUInt16LE(Number(queueCount), 34)
    return config
  },
  setFeatures () {},
  startQueue (index, setup) { queues.set(index, new Queue(setup)) },
  async stopQueue (index) { return await queues.get(index)!.stop() },
  setCall () {},
  reset () {}
}
listen({ device, path: socketPath })
