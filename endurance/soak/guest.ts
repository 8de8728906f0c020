// A guest that does to its disk what guests and their monitors do in a long life: rings that stop and start, a migration
// that is tried, an end without a word.
import { readSync } from 'node:fs'
import { dirtyLogBytes, GuestMemory, type RegionInit } from '@node-vmm/hostmem'
import { close, eventfd, ftruncate, memfdCreate, watchReadable, type Watch } from '@node-vmm/libc'
import { FrontEnd, OFFERED_PROTOCOL_FEATURES, TransportFeature } from '@node-vmm/vhost-user'
import {
  featureMask, hasFeature, Queue, QUEUE_FULL, type QueueData, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1
} from '@node-vmm/virtio-blk-driver'
import { indirectTableBytes, layOutPackedRing, layOutRing, packedRingBytes, ringBytes } from '@node-vmm/vring/driver'
import { Histogram } from '../../bench/histogram.ts'

const MEMORY_ADDRESS = 0x100000
const REQUEST_BYTES = 32
/** A header, the data, a status. */
const SEGMENTS = 3
const PACKED_START = 0x8000
const PAGE_BYTES = 4096
const FEATURES = featureMask(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES)

/** How a guest drives its disk. */
export interface GuestOptions {
  readonly queues: number
  /** Descriptors of each queue. */
  readonly queueSize: number
  readonly packed: boolean
  readonly inOrder: boolean
  /** Bytes of memory for data. */
  readonly dataBytes: number
}

interface Lane {
  readonly queue: Queue
  readonly data: QueueData
  readonly watch: Watch
  /** Who waits for a request, by token. */
  readonly waiting: Map<number, (status: number) => void>
  kickScheduled: boolean
}

/** Nobody can wait for it: its guest is gone. */
export class GuestGone extends Error {}

/** The guest of one front-end's session. */
export class SoakGuest {
  readonly memory: GuestMemory
  /** Guest address of the memory for data. */
  readonly dataAddress: number
  readonly latencies: Histogram
  readonly #front: FrontEnd
  readonly #fd: number
  readonly #regions: readonly RegionInit[]
  readonly #features: bigint
  readonly #lanes: Lane[] = []
  readonly #owned: number[] = []
  #token = 0
  #log: { readonly fd: number, readonly bytes: number } | undefined
  #isGone = false
  /** Times that the server told of a changed configuration. */
  configChanges = 0
  /** Requests that were answered. */
  requests = 0

  private constructor (front: FrontEnd, features: bigint, options: GuestOptions, latencies: Histogram) {
    const { queues, queueSize, packed, inOrder, dataBytes } = options
    this.#front = front
    this.#features = features
    this.latencies = latencies
    const ringSize = packed ? packedRingBytes(queueSize) : ringBytes(queueSize)
    const laneBytes = ringSize + queueSize * REQUEST_BYTES + indirectTableBytes(queueSize, SEGMENTS)
    const ringsBytes = Math.ceil(queues * laneBytes / PAGE_BYTES) * PAGE_BYTES
    const { memory, fd, regions } = GuestMemory.allocate([{ guestAddress: MEMORY_ADDRESS, size: ringsBytes }, { guestAddress: 2 ** 32, size: dataBytes }])
    this.memory = memory
    this.dataAddress = 2 ** 32
    this.#fd = fd
    this.#regions = regions
    for (let index = 0; index < queues; index++) {
      const at = MEMORY_ADDRESS + index * laneBytes
      this.#lanes.push(this.#lane({
        memory: memory.toData(),
        layout: packed ? layOutPackedRing(at, queueSize) : layOutRing(at, queueSize),
        packed,
        inOrder: inOrder && hasFeature(features, VIRTIO_F_IN_ORDER),
        requestAddress: at + ringSize,
        indirect: { address: at + ringSize + queueSize * REQUEST_BYTES, segments: SEGMENTS },
        eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
        index: packed ? PACKED_START : 0,
        kickFd: this.#eventfd(),
        callFd: this.#eventfd(),
        sizeMax: 0xffffffff,
        segmentsMax: 1
      }))
    }
  }

  /** Connects and starts all rings. @param latencies gets how long each request takes, in nanoseconds */
  static async connect (socketPath: string, options: GuestOptions, latencies: Histogram): Promise<SoakGuest> {
    const front = FrontEnd.connect(socketPath, { timeout: 60_000 })
    try {
      await front.setOwner()
      await front.setProtocolFeatures(await front.getProtocolFeatures() & OFFERED_PROTOCOL_FEATURES)
      const ring = (options.packed ? featureMask(VIRTIO_F_RING_PACKED) : 0n) | (options.inOrder ? featureMask(VIRTIO_F_IN_ORDER) : 0n)
      const features = await front.getFeatures() & (FEATURES | ring)
      await front.setFeatures(features | TransportFeature.PROTOCOL_FEATURES)
      const guest = new SoakGuest(front, features, options, latencies)
      // Its server is gone: nothing that it waits for will come.
      void front.closed.then(() => guest.kill())
      await front.setBackendReqFd(() => { guest.configChanges++ })
      await front.setMemTable(guest.#regions)
      for (const [index, { data }] of guest.#lanes.entries()) await guest.#describe(index, data)
      await guest.startRings(guest.#lanes.map(({ data }) => data.packed ? data.index * 0x10001 : data.index))
      return guest
    } catch (error) {
      front.close()
      throw error
    }
  }

  /** Memory for data, at an offset. @throws GuestGone when it is unmapped */
  data (offset: number, length: number): Uint8Array {
    if (this.#isGone) throw new GuestGone()
    return new Uint8Array(this.memory.view(this.dataAddress + offset, length))
  }

  get queues (): number {
    return this.#lanes.length
  }

  /** Bytes of the disk, as the server says now. */
  async capacity (): Promise<number> {
    return Number(Buffer.from(await this.#front.getConfig(0, 8)).readBigUInt64LE()) * 512
  }

  /** Sends a request whose data is in guest memory. @returns its status @throws GuestGone */
  async request (lane: number, type: number, sector: number, address: number, length: number): Promise<number> {
    const { queue, waiting } = this.#lanes[lane]!
    const token = this.#token++ & 0x7fffffff
    const started = performance.now()
    if (this.#isGone) throw new GuestGone()
    if (queue.submit(type, sector, address, length, token) === QUEUE_FULL) throw new Error('a queue is too small for its load')
    this.#kickSoon(this.#lanes[lane]!)
    const status = await new Promise<number>((resolve) => waiting.set(token, resolve))
    if (status < 0) throw new GuestGone()
    this.requests++
    this.latencies.add((performance.now() - started) * 1e6)
    return status
  }

  /** Stops all rings, whatever is in flight: what the server has not taken stays. @returns where each stands */
  async stopRings (): Promise<number[]> {
    const bases: number[] = []
    for (const index of this.#lanes.keys()) bases.push(await this.#front.getVringBase(index))
    return bases
  }

  /** Starts them there. */
  async startRings (bases: readonly number[]): Promise<void> {
    for (const [index, { data }] of this.#lanes.entries()) {
      await this.#front.setVringBase(index, bases[index]!)
      await this.#front.setVringKick(index, data.kickFd)
      await this.#front.setVringEnable(index, true)
    }
  }

  /** Begins to have written pages logged, as a migration does. */
  async startLog (): Promise<void> {
    const bytes = Math.ceil(dirtyLogBytes(this.memory.end) / PAGE_BYTES) * PAGE_BYTES
    const fd = memfdCreate('dirty-log')
    ftruncate(fd, bytes)
    this.#log = { fd, bytes }
    await this.#front.setLogBase({ fd, size: bytes })
    await this.#front.setFeatures(this.#features | TransportFeature.PROTOCOL_FEATURES | TransportFeature.LOG_ALL)
  }

  /** Pages of which the log says that they were written. */
  loggedPages (): number {
    const bytes = new Uint8Array(this.#log!.bytes)
    readSync(this.#log!.fd, bytes, 0, bytes.length, 0)
    let pages = 0
    for (const byte of bytes) for (let bits = byte; bits !== 0; bits &= bits - 1) pages++
    return pages
  }

  /** The migration failed: no log any more. */
  async stopLog (): Promise<void> {
    await this.#front.setFeatures(this.#features | TransportFeature.PROTOCOL_FEATURES)
    close(this.#log!.fd)
    this.#log = undefined
  }

  /** Takes all memory away and gives it again: the rings stop and start meanwhile. */
  async shareMemoryAgain (): Promise<void> {
    await this.#front.setMemTable(this.#regions)
  }

  /** Its rings stop, drained, and it goes. */
  async close (): Promise<void> {
    await this.stopRings()
    this.kill()
  }

  /** It is gone, as one that was killed: the socket closes, and whoever waits hears of it. */
  kill (): void {
    if (this.#isGone) return
    this.#isGone = true
    this.#front.close()
    for (const { watch, waiting } of this.#lanes) {
      watch.close()
      for (const resolve of waiting.values()) resolve(-1)
    }
    this.memory.release()
    for (const fd of [this.#fd, ...this.#owned, ...(this.#log === undefined ? [] : [this.#log.fd])]) close(fd)
  }

  async #describe (index: number, { layout }: QueueData): Promise<void> {
    const { size, descriptorAddress, availableAddress, usedAddress } = layout
    await this.#front.setVringNum(index, size)
    await this.#front.setVringAddr(index, { descriptor: descriptorAddress, available: availableAddress, used: usedAddress })
    await this.#front.setVringCall(index, this.#lanes[index]!.data.callFd)
  }

  #lane (data: QueueData): Lane {
    const lane: Lane = {
      data, queue: Queue.attach(data), waiting: new Map(), kickScheduled: false, watch: watchReadable(data.callFd, () => this.#collect(lane))
    }
    return lane
  }

  #eventfd (): number {
    const fd = eventfd()
    this.#owned.push(fd)
    return fd
  }

  #kickSoon (lane: Lane): void {
    if (lane.kickScheduled) return
    lane.kickScheduled = true
    queueMicrotask(() => {
      lane.kickScheduled = false
      if (!this.#isGone) lane.queue.kick()
    })
  }

  #collect ({ queue, waiting }: Lane): void {
    if (this.#isGone) return
    queue.callNotifier.clear()
    do {
      while (queue.poll() >= 0) {
        const resolve = waiting.get(queue.token)
        waiting.delete(queue.token)
        resolve?.(queue.status)
      }
      if (queue.broken) throw new Error('the server broke the ring')
    } while (queue.enableInterrupts() === 'more')
  }
}
