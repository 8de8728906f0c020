import { STATUS_PENDING, readsFromDisk } from './request.ts'
import { VIRTIO_BLK_HEADER_BYTES } from '@node-vmm/virtio-blk'
import { EventNotifier } from '@node-vmm/event-poll'
import { GuestMemory, type GuestMemoryData } from '@node-vmm/hostmem'
import {
  type DriverQueue, DriverRing, type DriverRingOptions, type IndirectTables, PackedDriverRing, RING_FULL, type RingLayout
} from '@node-vmm/vring/driver'

// The hot path. Its invariants:
// - Each head has 32 bytes of guest memory of its own: the request's header and, behind it, its status byte. They are
//   written only while the head is free, and belong to the device while it is in flight.
// - Nothing is allocated for a request.

/** What `submit` returns when the ring has no room: poll first. */
export const QUEUE_FULL = RING_FULL
/** Bytes of guest memory for the header and status of one request. */
export const REQUEST_BYTES = 32

/** All that another thread of this process needs to drive a queue: plain data. */
export interface QueueData {
  /** The driver's memory. */
  readonly memory: GuestMemoryData
  /** Where in it the ring is. */
  readonly layout: RingLayout
  /** Whether the ring is packed. */
  readonly packed: boolean
  /** Whether the disk gives requests back in order. */
  readonly inOrder: boolean
  /** Guest address of `layout.size * REQUEST_BYTES` bytes for headers and statuses. */
  readonly requestAddress: number
  /** Tables for indirect descriptors; undefined when they were not agreed. */
  readonly indirect: IndirectTables | undefined
  /** Whether event indices were agreed. */
  readonly eventIdx: boolean
  /** Where driver and disk begin: all before it is done. @see DriverRingOptions.index */
  readonly index: number
  /** The eventfd that wakes the disk. */
  readonly kickFd: number
  /** The eventfd that the disk wakes the driver with. */
  readonly callFd: number
  /** The most bytes of one data segment. */
  readonly sizeMax: number
  /** The most data segments of one request. */
  readonly segmentsMax: number
}

/**
 * One request queue of a disk, for whoever wants to drive it by hand: submit, kick, poll. One thread uses it; nothing
 * here waits or allocates.
 */
export class Queue {
  /** Most requests in flight. */
  readonly size: number
  /** The most bytes of data of one request. */
  readonly transferMax: number
  /** Wakes the disk: `kick` uses it when the disk wants it. */
  readonly kickNotifier: EventNotifier
  /** Woken by the disk. Wait for it with `poll(2)` or `epoll(7)`; clear it before polling. */
  readonly callNotifier: EventNotifier
  /** Of the request that `poll` last returned: how it ended, `VIRTIO_BLK_S_*`, or `STATUS_PENDING` if the disk did not say. */
  status = 0
  /** Of the request that `poll` last returned: what `submit` was given. */
  token = 0

  readonly #ring: DriverQueue
  readonly #requestAddress: number
  readonly #requests: Uint32Array
  readonly #statuses: Uint8Array
  readonly #sizeMax: number

  private constructor (memory: GuestMemory, data: QueueData) {
    const { layout, packed, requestAddress, indirect, eventIdx, inOrder, index } = data
    const options: DriverRingOptions = { eventIdx, inOrder, index, ...(indirect !== undefined && { indirect }) }
    this.size = layout.size
    this.#ring = packed ? new PackedDriverRing(memory, layout, options) : new DriverRing(memory, layout, options)
    this.#requestAddress = requestAddress
    const requests = memory.view(requestAddress, layout.size * REQUEST_BYTES)
    this.#requests = new Uint32Array(requests)
    this.#statuses = new Uint8Array(requests)
    this.#sizeMax = data.sizeMax
    const segments = Math.min(data.segmentsMax, Math.max(layout.size, indirect?.segments ?? 0) - 2)
    this.transferMax = Math.min(data.sizeMax * segments, 0xffffffff)
    this.kickNotifier = EventNotifier.fromFd(data.kickFd)
    this.callNotifier = EventNotifier.fromFd(data.callFd)
  }

  /**
   * The driver's end of a queue, from its data: in the thread that made it or in any other. The descriptors and the
   * memory stay their owner's. Resets the ring's memory: only while nothing is in flight.
   *
   * @throws GuestMemoryError ERR_ACCESS, or LinuxError, when the data is stale
   */
  static attach (data: QueueData): Queue {
    return new Queue(GuestMemory.attach(data.memory), data)
  }

  /** Requests that the disk has not given back. */
  get inFlight (): number {
    return this.#ring.inFlight
  }

  /** Where the next finished request is looked for: what `QueueData.index` says, of now. */
  get index (): number {
    return this.#ring.usedIndex
  }

  /** The disk broke the ring: nothing more can be had from it. */
  get broken (): boolean {
    return this.#ring.broken
  }

  /**
   * Prepares a request. The disk sees it after `kick`.
   *
   * @param type `VIRTIO_BLK_T_*`.
   * @param sector the first sector, of 512 bytes; 0 where the type has none.
   * @param address guest address of the data, contiguous.
   * @param length bytes of the data, up to `transferMax`; 0 for none.
   * @param token given back by `poll`: any number. @default 0
   * @returns the request's number while in flight, 0 to size - 1, or `QUEUE_FULL`.
   * @throws RangeError for more segments than the ring could ever take
   */
  submit (type: number, sector: number, address: number, length: number, token = 0): number {
    const ring = this.#ring
    if (ring.freeDescriptors === 0) return QUEUE_FULL
    const head = ring.nextHead
    const own = this.#requestAddress + head * REQUEST_BYTES
    const word = head * (REQUEST_BYTES / 4)
    this.#requests[word] = type
    this.#requests[word + 1] = 0
    this.#requests[word + 2] = sector
    this.#requests[word + 3] = sector / 0x100000000
    this.#statuses[head * REQUEST_BYTES + VIRTIO_BLK_HEADER_BYTES] = STATUS_PENDING

    ring.segmentAddress[0] = own
    ring.segmentLength[0] = VIRTIO_BLK_HEADER_BYTES
    let segments = 1
    for (let done = 0; done < length; segments++) {
      const here = Math.min(length - done, this.#sizeMax)
      ring.segmentAddress[segments] = address + done
      ring.segmentLength[segments] = here
      done += here
    }
    ring.segmentAddress[segments] = own + VIRTIO_BLK_HEADER_BYTES
    ring.segmentLength[segments] = 1
    const readable = readsFromDisk(type) ? 1 : segments
    return ring.addChain(readable, segments + 1 - readable, token)
  }

  /** Shows the disk all that was submitted, and wakes it if it wants that. Once for a batch. @returns whether it did */
  kick (): boolean {
    this.#ring.publish()
    return this.#ring.needsKick() && this.kickNotifier.notify()
  }

  /**
   * Takes the next finished request; `status` and `token` then speak of it.
   *
   * @returns its number, `NOTHING_USED`, or `USED_RING_BROKEN`.
   */
  poll (): number {
    const head = this.#ring.pollUsed()
    if (head < 0) return head
    this.status = this.#statuses[head * REQUEST_BYTES + VIRTIO_BLK_HEADER_BYTES]
    this.token = this.#ring.usedToken
    return head
  }

  /**
   * Asks for an interrupt at the next finished request, then looks once more.
   *
   * @returns `'more'`: poll on. `'empty'`: wait for `callNotifier`.
   */
  enableInterrupts (): 'empty' | 'more' {
    return this.#ring.enableInterrupts()
  }

  /** Asks for no interrupts, for who polls anyway. A hint: one may still come. */
  disableInterrupts (): void {
    this.#ring.disableInterrupts()
  }
}
