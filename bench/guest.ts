// What a guest is to a vhost-user-blk server: memory, rings, and a front-end that hands them over.
import { setTimeout as sleep } from 'node:timers/promises'
import { GuestMemory, type RegionInit } from '@node-vmm/hostmem'
import { close, eventfd, ftruncate, memfdCreate, MFD_CLOEXEC, MFD_HUGETLB, PAGE_SIZE } from '@node-vmm/libc'
import { FrontEnd, ProtocolFeature, TransportFeature } from '@node-vmm/vhost-user'
import {
  DRIVER_FEATURES, featureMask, hasFeature, type QueueData, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED
} from '@node-vmm/virtio-blk-driver'
import { PACKED_RING_START } from '@node-vmm/vring'
import { indirectTableBytes, layOutPackedRing, layOutRing, packedRingBytes, ringBytes } from '@node-vmm/vring/driver'

/** Room for the deepest load. */
export const QUEUE_SIZE = 256
/** A header, the data, a status. */
const SEGMENTS = 3
/** Of each descriptor, for a header and a status: see `QueueData.requestAddress`. */
const REQUEST_BYTES = 32
/** SET_MEM_TABLE takes no more; more are added one by one. */
const TABLE_REGIONS_MAX = 8
/** Regions start at multiples of a huge page, with a gap between them. */
const ALIGNMENT = 2 << 20
const CONNECT_LIMIT = 3000

export interface GuestOptions {
  /** A socket for each disk. */
  readonly sockets: readonly string[]
  /** Queues of each disk. */
  readonly queues: number
  /** Packed rings, not split ones. */
  readonly packed: boolean
  /** Buffers of each queue, and their bytes. */
  readonly depth: number
  readonly blockBytes: number
  /** Regions of memory for data, beside the one of the rings. */
  readonly regions: number
  /** Bytes of all memory: sparse, for it is more than what is used. 0: as much as is used. */
  readonly memoryBytes: number
  readonly hugePages: boolean
}

/** A queue, and the guest addresses of its buffers. */
export interface GuestQueue {
  readonly data: QueueData
  readonly buffers: number[]
}

export class Guest {
  readonly memory: GuestMemory
  readonly queues: GuestQueue[] = []
  /** Bytes of the smallest disk. */
  capacity = Infinity
  readonly #options: GuestOptions
  readonly #fd: number
  readonly #regions: RegionInit[]
  readonly #frontEnds: FrontEnd[] = []
  readonly #notifiers: number[] = []
  /** Where the next ring, and the next buffer of each region, goes. */
  #ringsEnd: number
  readonly #dataEnds: number[]
  #nextRegion = 0

  private constructor (options: GuestOptions) {
    this.#options = options
    const { memory, fd, regions } = allocate(options)
    this.memory = memory
    this.#fd = fd
    this.#regions = regions
    this.#ringsEnd = regions[0].guestAddress
    this.#dataEnds = regions.slice(1).map((region) => options.memoryBytes > 0 ? region.guestAddress + region.size / 2 : region.guestAddress)
  }

  /** Connects to every disk and starts its queues. @throws when one cannot be had */
  static async connect (options: GuestOptions): Promise<Guest> {
    const guest = new Guest(options)
    try {
      for (const socket of options.sockets) await guest.#startPatiently(socket)
      return guest
    } catch (error) {
      await guest.close()
      throw error
    }
  }

  async close (): Promise<void> {
    const { queues } = this.#options
    for (const frontEnd of this.#frontEnds) {
      try {
        for (let index = 0; index < queues; index++) await frontEnd.setVringEnable(index, false)
        for (let index = 0; index < queues; index++) await frontEnd.getVringBase(index)
      } catch {
        // A server that is gone has nothing running.
      }
      frontEnd.close()
    }
    this.memory.release()
    for (const fd of [this.#fd, ...this.#notifiers]) close(fd)
  }

  /** The server before may not have let go of the image yet. */
  async #startPatiently (socket: string): Promise<void> {
    for (const deadline = Date.now() + CONNECT_LIMIT; ; await sleep(20)) {
      const frontEnd = FrontEnd.connect(socket, { timeout: CONNECT_LIMIT })
      try {
        await this.#start(frontEnd)
        this.#frontEnds.push(frontEnd)
        return
      } catch (error) {
        frontEnd.close()
        if (Date.now() > deadline) throw error
      }
    }
  }

  async #start (frontEnd: FrontEnd): Promise<void> {
    const { queues: count, packed } = this.#options
    const layoutFeature = packed ? featureMask(VIRTIO_F_RING_PACKED) : 0n
    const features = await negotiate(frontEnd) & (DRIVER_FEATURES | layoutFeature)
    if ((features & layoutFeature) !== layoutFeature) throw new Error('the server does not offer packed rings')
    await frontEnd.setFeatures(features | TransportFeature.PROTOCOL_FEATURES)
    const config = await frontEnd.getConfig(0, 8)
    this.capacity = Math.min(this.capacity, Number(Buffer.from(config).readBigUInt64LE()) * 512)
    await this.#shareMemory(frontEnd)
    const queues = Array.from({ length: count }, () => this.#makeQueue(features))
    for (const [index, { data: { layout, index: start, kickFd, callFd } }] of queues.entries()) {
      await frontEnd.setVringNum(index, layout.size)
      // Of a packed ring the used side is told too, in the upper half (vhost-user, "Vring state").
      await frontEnd.setVringBase(index, start * 0x10001)
      await frontEnd.setVringAddr(index, { descriptor: layout.descriptorAddress, available: layout.availableAddress, used: layout.usedAddress })
      await frontEnd.setVringCall(index, callFd)
      await frontEnd.setVringKick(index, kickFd)
    }
    for (let index = 0; index < count; index++) await frontEnd.setVringEnable(index, true)
    this.queues.push(...queues)
  }

  async #shareMemory (frontEnd: FrontEnd): Promise<void> {
    if (this.#regions.length <= TABLE_REGIONS_MAX) return await frontEnd.setMemTable(this.#regions)
    for (const region of this.#regions) await frontEnd.addMemReg(region)
  }

  #makeQueue (features: bigint): GuestQueue {
    const { packed, depth, blockBytes } = this.#options
    const ringAddress = this.#ringsEnd
    const requestAddress = ringAddress + ringBytesOf(packed)
    const tableAddress = requestAddress + QUEUE_SIZE * REQUEST_BYTES
    this.#ringsEnd += queueBytes(packed)
    const [kickFd, callFd] = [eventfd(), eventfd()]
    this.#notifiers.push(kickFd, callFd)
    const buffers = Array.from({ length: depth }, () => this.#nextBuffer(blockBytes))
    populate(this.memory, buffers, blockBytes)
    return {
      buffers,
      data: {
        memory: this.memory.toData(),
        layout: packed ? layOutPackedRing(ringAddress, QUEUE_SIZE) : layOutRing(ringAddress, QUEUE_SIZE),
        packed,
        inOrder: false,
        requestAddress,
        indirect: hasFeature(features, VIRTIO_F_INDIRECT_DESC) ? { address: tableAddress, segments: SEGMENTS } : undefined,
        eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
        index: packed ? PACKED_RING_START : 0,
        kickFd,
        callFd,
        sizeMax: 0xffffffff,
        segmentsMax: 1
      }
    }
  }

  /** The regions in turn, so that all of them are in use. */
  #nextBuffer (bytes: number): number {
    const region = this.#nextRegion
    this.#nextRegion = (region + 1) % this.#dataEnds.length
    const address = this.#dataEnds[region]
    this.#dataEnds[region] += bytes
    return address
  }
}

/** Has a server say what it can: the first that it does for any front-end. @returns the features that it offers */
export async function negotiate (frontEnd: FrontEnd): Promise<bigint> {
  await frontEnd.setOwner()
  const offered = await frontEnd.getFeatures()
  const { MQ, REPLY_ACK, CONFIG, CONFIGURE_MEM_SLOTS } = ProtocolFeature
  await frontEnd.setProtocolFeatures(await frontEnd.getProtocolFeatures() & (MQ | REPLY_ACK | CONFIG | CONFIGURE_MEM_SLOTS))
  return offered
}

function allocate ({ sockets, queues, packed, depth, blockBytes, regions: count, memoryBytes, hugePages }: GuestOptions) {
  const ringsBytes = aligned(sockets.length * queues * queueBytes(packed))
  const used = sockets.length * queues * Math.ceil(depth / count) * blockBytes
  const regionBytes = aligned(memoryBytes > 0 ? memoryBytes / count : used)
  const sizes = [ringsBytes, ...Array.from({ length: count }, () => regionBytes)]
  const fd = memfdCreate('bench-guest', MFD_CLOEXEC | (hugePages ? MFD_HUGETLB : 0))
  try {
    let guestAddress = ALIGNMENT
    let offset = 0
    const regions = sizes.map((size): RegionInit => {
      const region = { guestAddress, size, fd, offset }
      guestAddress += size + ALIGNMENT
      offset += size
      return region
    })
    ftruncate(fd, offset)
    return { memory: GuestMemory.map(regions), fd, regions }
  } catch (error) {
    close(fd)
    throw error
  }
}

/**
 * Has pages behind buffers, every other one first, so that hardly any two that adjoin in guest memory adjoin in that of
 * the host. They would or would not by turns, as the last guest left the host's free pages: and a disk is told of many
 * more segments where they do not.
 */
function populate (memory: GuestMemory, buffers: readonly number[], bytes: number): void {
  const pages = buffers.flatMap((address) => Array.from({ length: Math.ceil(bytes / PAGE_SIZE) }, (_, page) => address + page * PAGE_SIZE))
  for (const parity of [0, 1]) {
    for (let page = parity; page < pages.length; page += 2) memory.setUint8(pages[page]!, 0)
  }
}

function ringBytesOf (packed: boolean): number {
  return packed ? packedRingBytes(QUEUE_SIZE) : ringBytes(QUEUE_SIZE)
}

function queueBytes (packed: boolean): number {
  return ringBytesOf(packed) + QUEUE_SIZE * REQUEST_BYTES + indirectTableBytes(QUEUE_SIZE, SEGMENTS)
}

function aligned (bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}
