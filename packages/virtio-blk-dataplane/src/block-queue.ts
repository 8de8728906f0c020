import { EventNotifier } from '@node-vmm/event-poll'
import type { DirtyLog, GuestMemory } from '@node-vmm/hostmem'
import { IoQueue, REQUEST_BUFFERED, REQUEST_DURABLE } from '@node-vmm/ioq'
import { errno } from '@node-vmm/libc'
import { CHAIN_DESCRIPTORS_MAX, DescriptorChain, type Virtqueue, type VringFault } from '@node-vmm/vring'
import { BatchSize } from './batch-size.ts'
import type { ServedDisk } from './disk.ts'
import type { Gate } from './gate.ts'
import { IN_FLIGHT, RangeRequests } from './ranges.ts'
import {
  SECTOR_BYTES, VIRTIO_BLK_HEADER_BYTES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_BARRIER, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES
} from '@node-vmm/virtio-blk'
import { monotonicClock } from './clock.ts'
import type { EngineMaker } from './engine.ts'
import { LatencyRecorder } from './latency.ts'
import { BYTES_READ, BYTES_WRITTEN, ERRORS, INTERRUPTS, KICKS, LATENCIES, MEASURES, REQUESTS } from './statistics.ts'
import type { TraceWriter } from './trace-ring.ts'

// The hot path: kick, pop, parse, submit, complete, push, call. Its invariants:
// - A request is known by its chain's head, unique while in flight (the ring refuses the same head twice): its slot in
//   every array here and in the I/O queue, which both have as many as the ring has entries.
// - Nothing of guest memory is read twice: the chain and the header are copied, then judged.
// - Nothing is allocated for a request.
// - One submission a batch, one look at the guest's wish for an interrupt a batch.
// - The clock is looked at once a batch, when the first of it is off the ring (before, the guest may not have made it
//   available), and again when something of it is complete; where nobody measures or traces, for one batch of several.
// - A batch is counted in by the gate before it is popped: whoever drains sees all of it or nothing.

/** Batches on end before other queues and commands have their turn: a guest that never stops must not keep the thread. */
const BATCHES_MAX = 8
/** Of a sector's upper half: sectors are numbers, exact below 2^53, and no disk is larger. */
const SECTOR_HIGH_BITS = 0x1fffff

// What a request in flight does.
const FROM_GUEST = 0
const TO_GUEST = 1
const NO_DATA = 2
const RANGES = 3

/** What a queue works with. */
export interface BlockQueueInit {
  readonly index: number
  readonly memory: GuestMemory
  readonly vring: Virtqueue
  readonly disk: ServedDisk
  readonly engine: ReturnType<EngineMaker>
  readonly gate: Gate
  /** Counters of this queue, see `StatisticsTable`. */
  readonly counters: Float64Array
  readonly call: EventNotifier | undefined
  /** The ring is broken: called once. */
  readonly onFault: (fault: VringFault) => void
  readonly trace: TraceWriter | undefined
  /** Marks what is written to guest memory, for a migration. */
  readonly log: DirtyLog | undefined
  /** The driver has no way to flush: every write is stable when it completes, whatever the disk's mode. */
  readonly alwaysWriteThrough: boolean
}

/** Serves the requests of one virtqueue. */
export class BlockQueue {
  readonly index: number
  readonly ioq: IoQueue
  /** Interrupts the guest; undefined where it polls. May be replaced while the queue runs. */
  call: EventNotifier | undefined
  trace: TraceWriter | undefined
  /** Set to pop no more: what is in flight is completed. */
  stopping = false

  readonly #vring: Virtqueue
  readonly #chain: DescriptorChain
  readonly #disk: ServedDisk
  readonly #gate: Gate
  readonly #counters: Float64Array
  readonly #latency: LatencyRecorder
  /** Requests are timed. */
  #measures = false
  readonly #clock = monotonicClock()
  /** The time, in microseconds, as of the last look. */
  readonly #now = new Float64Array(1)
  readonly #onFault: (fault: VringFault) => void
  #faultReported = false
  /** The guest was asked to kick since the ring was last looked at. */
  #armed = false
  /** Requests taken in by this batch that are in flight at its end. */
  #submitted = 0
  readonly #batchSize = new BatchSize()
  /** Requests finished that the guest was not shown yet. */
  #finished = 0
  /** Requests that were in flight and finished since the last count. */
  #completed = 0
  readonly #ranges: RangeRequests
  readonly #alwaysWriteThrough: boolean
  /** Of an address or an offset, the bits that direct I/O wants to be zero. */
  readonly #memoryMask: number
  readonly #offsetMask: number
  readonly #log: DirtyLog | undefined
  /** With a log only, by head: guest address and length of each segment that the device may write. */
  readonly #writable: number[][] = []

  // Of each request in flight, by head: the guest address of its status byte, how many bytes it moves, and what it does with them.
  readonly #statusAddress: Float64Array
  readonly #bytes: Float64Array
  readonly #does: Uint8Array

  constructor (init: BlockQueueInit) {
    const { index, memory, vring, disk, engine, gate, counters, call, onFault, trace, log, alwaysWriteThrough } = init
    this.index = index
    this.call = call
    this.trace = trace
    this.#vring = vring
    this.#chain = new DescriptorChain(memory)
    this.#disk = disk
    this.#gate = gate
    this.#counters = counters
    this.#latency = new LatencyRecorder(counters.subarray(LATENCIES), vring.size)
    this.#onFault = onFault
    this.#log = log
    this.#alwaysWriteThrough = alwaysWriteThrough
    this.#memoryMask = disk.alignment.memory - 1
    this.#offsetMask = disk.alignment.offset - 1
    this.#statusAddress = new Float64Array(vring.size)
    this.#bytes = new Float64Array(vring.size)
    this.#does = new Uint8Array(vring.size)
    this.ioq = new IoQueue({
      fd: disk.fd,
      bufferedFd: disk.bufferedFd,
      writeTurns: disk.writeTurns,
      map: disk.map,
      depth: vring.size,
      segmentsMax: CHAIN_DESCRIPTORS_MAX,
      engine,
      onComplete: (head, result) => this.#complete(head, result)
    })
    this.#ranges = new RangeRequests(disk, this.ioq)
  }

  get vring (): Virtqueue {
    return this.#vring
  }

  /** The guest kicked, or there is another reason to look at the ring. */
  onKick (): void {
    this.#counters[KICKS]!++
    this.serve()
  }

  /**
   * Serves what the guest has made available, batch after batch. Meanwhile the guest is asked not to kick: `arm` asks
   * for kicks again.
   *
   * @returns false when somebody holds the gate: letting go, they have it called again.
   */
  serve (): boolean {
    for (let batches = 0; batches < BATCHES_MAX; batches++) {
      if (this.stopping || !this.#gate.enter()) return false
      this.#armed = false
      this.#submitted = 0
      this.#completed = 0
      do {
        this.#takeIn(batches)
        // What the page cache had is complete already: no need to be woken for it.
        this.ioq.submitAndReap()
      } while (this.#batchSize.isJoined && this.#vring.moreAvailable())
      this.#batchSize.end(this.#submitted, this.#completed)
      this.#interrupt()
      this.#gate.leave(this.index, this.#submitted - this.#completed)
      if (!this.#vring.moreAvailable() || this.#vring.fault !== undefined) break
    }
    return true
  }

  /**
   * Asks the guest to kick from now on, before the thread sleeps.
   *
   * @returns false when something became available just before, or was left over: do not sleep.
   */
  arm (): boolean {
    if (this.#armed || this.stopping || this.#gate.isGivenUp) return true
    this.#armed = true
    if (this.#vring.enableNotification() !== 'empty') return !this.serve()
    this.#batchSize.sleep()
    return true
  }

  /** Asks the guest not to kick, while the thread looks at the ring instead of sleeping. Then `arm` is due again. */
  disarm (): void {
    if (!this.#armed || this.stopping || this.#gate.isGivenUp) return
    this.#armed = false
    this.#vring.disableNotification()
  }

  /** Whether there is something to do, told without a system call. */
  get isBusy (): boolean {
    return this.ioq.hasCompletions || (!this.stopping && this.#vring.fault === undefined && this.#vring.moreAvailable())
  }

  /** The I/O queue says that something is complete. @returns how many requests are */
  onCompletion (): number {
    this.#completed = 0
    this.ioq.disableNotification()
    this.ioq.reap()
    if (this.ioq.stalled) this.ioq.submit()
    const completed = this.#completed
    if (completed === 0) return 0
    this.#interrupt()
    this.#gate.complete(this.index, completed)
    if (this.#vring.moreAvailable()) this.serve()
    return completed
  }

  /** Takes in one batch, after as many as `batches`. */
  #takeIn (batches: number): void {
    const vring = this.#vring
    vring.disableNotification()
    this.ioq.disableNotification()
    this.#lookWhetherMeasured()
    const size = this.#batchSize.begin(batches, vring)
    vring.prefetch(this.#chain.memory, size)
    for (let budget = size; budget > 0 && vring.pop(this.#chain) === 'chain'; budget--) {
      if (budget === size) this.#lookAtClock()
      this.#process(this.#chain)
    }
    this.#reportFault()
  }

  #lookWhetherMeasured (): void {
    const measures = this.#counters[MEASURES] !== 0
    if (measures !== this.#measures) this.#latency.forget()
    this.#measures = measures
  }

  #lookAtClock (): void {
    if (this.#measures || this.trace !== undefined) this.#clock(this.#now, 0)
  }

  #reportFault (): void {
    const fault = this.#vring.fault
    if (fault === undefined || this.#faultReported) return
    this.#faultReported = true
    this.#onFault(fault)
  }

  #process (chain: DescriptorChain): void {
    const { head } = chain
    if (this.#measures) this.#latency.begin(head, this.#now)
    if (this.trace !== undefined) this.trace.processRequest(this.#now, this.index, head, chain.readableCount, chain.writableCount)
    if (chain.readableBytes < VIRTIO_BLK_HEADER_BYTES || chain.writableBytes < 1) {
      // Nowhere to say so: the ring itself is at fault, as QEMU holds too.
      this.#vring.break(`the chain of head ${head} has ${chain.readableBytes} bytes to read and ${chain.writableBytes} to write: ` +
        'a request has a header of 16 bytes and a byte for its status', head)
      return
    }
    this.#locateStatus(chain)
    if (this.#log !== undefined) this.#rememberWritable(chain)

    const header = this.#header(chain)
    const at = this.#headerOffset
    const type = header.getInt32(at, true) & ~VIRTIO_BLK_T_BARRIER
    // Signed: above 2^31 they would be objects when passed on.
    const sectorLow = header.getInt32(at + 8, true)
    const sectorHigh = header.getInt32(at + 12, true)

    switch (type) {
      case VIRTIO_BLK_T_IN:
        return this.#transfer(chain, sectorLow, sectorHigh, TO_GUEST)
      case VIRTIO_BLK_T_OUT:
        if (this.#disk.readOnly) return this.#finish(head, VIRTIO_BLK_S_IOERR, 1)
        return this.#transfer(chain, sectorLow, sectorHigh, FROM_GUEST)
      case VIRTIO_BLK_T_FLUSH:
        this.#does[head] = NO_DATA
        this.ioq.flush(head)
        this.#submitted++
        return undefined
      case VIRTIO_BLK_T_GET_ID: {
        const written = chain.copyToWritable(this.#disk.id, Math.min(VIRTIO_BLK_ID_BYTES, chain.writableBytes - 1))
        return this.#finish(head, VIRTIO_BLK_S_OK, written + 1)
      }
      case VIRTIO_BLK_T_DISCARD:
      case VIRTIO_BLK_T_WRITE_ZEROES: {
        const status = this.#ranges.take(chain, type, this.#isWriteThrough())
        if (status !== IN_FLIGHT) return this.#finish(head, status, 1)
        this.#does[head] = RANGES
        this.#submitted++
        return undefined
      }
      default:
        return this.#finish(head, VIRTIO_BLK_S_UNSUPP, 1)
    }
  }

  /** The last byte that the device may write is the status, however the chain is framed (virtio 1.2, 2.7.4, 5.2.6). */
  #locateStatus (chain: DescriptorChain): void {
    const last = chain.count - 1
    this.#statusAddress[chain.head] = chain.guestAddress[last]! + chain.length[last]! - 1
  }

  readonly #scratch = new Uint8Array(VIRTIO_BLK_HEADER_BYTES)
  readonly #scratchView = new DataView(this.#scratch.buffer)
  #headerOffset = 0

  /** The request's header, at `#headerOffset`: in place where one segment has it (each field is read once), else copied together. */
  #header (chain: DescriptorChain): DataView {
    if (chain.length[0]! < VIRTIO_BLK_HEADER_BYTES) {
      chain.copyReadable(this.#scratch)
      this.#headerOffset = 0
      return this.#scratchView
    }
    const window = chain.memory.windowAt(chain.guestAddress, 0)!
    this.#headerOffset = chain.memory.windowOffset
    return window
  }

  #transfer (chain: DescriptorChain, sectorLow: number, sectorHigh: number, does: number): void {
    const { head } = chain
    const toGuest = does === TO_GUEST
    const bytes = toGuest ? chain.writableBytes - 1 : chain.readableBytes - VIRTIO_BLK_HEADER_BYTES
    const sector = sectorHigh * 0x100000000 + (sectorLow >>> 0)
    const { sectors } = this.#disk
    if ((sectorHigh & ~SECTOR_HIGH_BITS) !== 0 || bytes % SECTOR_BYTES !== 0 || sector > sectors || bytes / SECTOR_BYTES > sectors - sector) {
      return this.#finish(head, VIRTIO_BLK_S_IOERR, 1)
    }
    if (bytes === 0) return this.#finish(head, VIRTIO_BLK_S_OK, 1)

    const { ioq } = this
    const first = toGuest ? chain.readableCount : 0
    const skip = toGuest ? 0 : VIRTIO_BLK_HEADER_BYTES
    const count = toGuest ? chain.writableCount : chain.readableCount
    if (count > CHAIN_DESCRIPTORS_MAX) return this.#finish(head, VIRTIO_BLK_S_IOERR, 1)
    const filled = this.#fillSegments(chain, first, ioq.prepare(head, count), skip, bytes)
    this.#bytes[head] = bytes
    this.#does[head] = does
    ioq.offset[head] = sector * SECTOR_BYTES
    if (this.#misaligned !== 0 || (sectorLow * SECTOR_BYTES & this.#offsetMask) !== 0) ioq.flags[head]! |= REQUEST_BUFFERED
    if (toGuest) {
      ioq.read(head, filled)
    } else {
      if (this.#isWriteThrough()) ioq.flags[head]! |= REQUEST_DURABLE
      ioq.write(head, filled)
    }
    this.#submitted++
  }

  #isWriteThrough (): boolean {
    return this.#disk.writeThrough || this.#alwaysWriteThrough
  }

  /** Bits of the last filled iovecs that direct I/O cannot take: then the page cache is the bounce buffer. */
  #misaligned = 0

  /** Writes the iovecs of the chain's `bytes` from segment `first` on, without the first `skip` bytes. @returns how many iovecs */
  #fillSegments (chain: DescriptorChain, first: number, at: number, skip: number, bytes: number): number {
    const { iovecs } = this.ioq
    let filled = 0
    let left = bytes
    let misaligned = 0
    for (let index = first; left > 0; index++) {
      const length = chain.length[index]!
      if (skip >= length) {
        skip -= length
        continue
      }
      const address = chain.hostAddress[index]! + skip
      const here = Math.min(length - skip, left)
      iovecs[at] = address
      iovecs[at + 1] = address / 0x100000000
      iovecs[at + 2] = here
      iovecs[at + 3] = 0
      misaligned |= (address & this.#memoryMask) | (here & this.#offsetMask)
      at += 4
      filled++
      left -= here
      skip = 0
    }
    this.#misaligned = misaligned
    return filled
  }

  #complete (head: number, result: number): void {
    // It comes too late: what the guest has there now may be another's.
    if (this.#gate.isGivenUp) return
    const does = this.#does[head]
    if (does === RANGES && this.#ranges.next(head, result)) return this.ioq.submit()
    if (this.#completed++ === 0) this.#lookAtClock()
    if (result < 0) return this.#finish(head, result === -errno.EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR, 1, result)
    if (does === TO_GUEST) {
      this.#counters[BYTES_READ]! += this.#bytes[head]!
      return this.#finish(head, VIRTIO_BLK_S_OK, this.#bytes[head]! + 1, result)
    }
    if (does === FROM_GUEST) this.#counters[BYTES_WRITTEN]! += this.#bytes[head]!
    this.#finish(head, VIRTIO_BLK_S_OK, 1, result)
  }

  /** Writes the status and gives the chain back; `written` are the bytes that the guest finds changed, the status with them. */
  #finish (head: number, status: number, written: number, result = 0): void {
    const { memory } = this.#chain
    memory.windowAt(this.#statusAddress, head)!.setUint8(memory.windowOffset, status)
    if (this.#log !== undefined) this.#markWritten(this.#log, head)
    this.#vring.push(head, written)
    this.#finished++
    if (status !== VIRTIO_BLK_S_OK) this.#counters[ERRORS]!++
    if (this.#measures) this.#latency.end(head, this.#now)
    if (this.trace !== undefined) this.trace.completeRequest(this.#now, this.index, head, result)
  }

  /** Shows the guest what was finished, and interrupts it if it wants that. */
  #interrupt (): void {
    if (this.#finished === 0 || this.#gate.isGivenUp) return
    this.#counters[REQUESTS]! += this.#finished
    this.#finished = 0
    this.#vring.publish()
    if (!this.#vring.shouldNotify() || this.call === undefined) return
    this.#counters[INTERRUPTS]!++
    this.#batchSize.interrupt()
    this.call.notify()
  }

  #rememberWritable (chain: DescriptorChain): void {
    const ranges: number[] = []
    for (let index = chain.readableCount; index < chain.readableCount + chain.writableCount; index++) {
      ranges.push(chain.guestAddress[index]!, chain.length[index]!)
    }
    this.#writable[chain.head] = ranges
  }

  /** After the write: a page that was copied in between is copied again. */
  #markWritten (log: DirtyLog, head: number): void {
    const ranges = this.#writable[head]!
    for (let at = 0; at < ranges.length; at += 2) log.mark(ranges[at]!, ranges[at + 1]!)
  }
}
