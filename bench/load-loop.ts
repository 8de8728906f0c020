import { EPOLL_CTL_ADD, EPOLLET, EPOLLIN, epollCreate, epollCtl, epollWait, close, NativeMemory, platform, read } from '@node-vmm/libc'
import {
  NOTHING_USED, Queue, type QueueData, QUEUE_FULL, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
} from '@node-vmm/virtio-blk-driver'
import type { Guest } from './guest.ts'
import { Histogram } from './histogram.ts'
import { blockMark } from './image.ts'

// The hot path of the load generator: what it costs, its core has not left for the load. Its invariants:
// - Nothing is allocated for a request. The clock is read twice for a batch: when completions are seen, and before new
//   requests are shown to the disk.
// - A slot is a buffer, and the request that uses it: in flight, or about to be submitted again.
// - One thread drives all queues; each has as many slots in flight as the load is deep, until the time is over.

/** Milliseconds without a completion after which the disk is kicked once more: it may have lost one. */
const STALL_MILLISECONDS = 1000
const STALLS_MAX = 5
/** How often a polling guest looks in vain before it reads the clock. */
const SPINS = 20_000
const SECTOR_BYTES = 512
/** Wake-ups that one wait fetches at most. */
const EVENTS = 64
/** Behind the events, of up to 16 bytes each. */
const COUNTER = EVENTS * 16

export interface LoadOptions {
  readonly kind: 'read' | 'write'
  readonly pattern: 'random' | 'sequential'
  readonly blockBytes: number
  /** Look at the rings all the time, and have no interrupts. */
  readonly polls: boolean
  /** The image has its marks: compare. */
  readonly marked: boolean
}

/** What came of a run. */
export interface Counts {
  /** Requests done. */
  done: number
  /** Of these, how many with another status than OK. */
  errors: number
  /** Of these, how many were read wrong. */
  mismatches: number
  kicks: number
  interrupts: number
  /** Times that the disk had to be woken because nothing came. */
  stalls: number
  /** From the first submission to the last completion. */
  milliseconds: number
}

class Lane {
  readonly queue: Queue
  readonly callFd: number
  readonly buffers: readonly number[]
  /** The first bytes of each buffer. */
  readonly words: Uint32Array[]
  readonly started: Float64Array
  readonly block: Uint32Array
  /** Slots submitted since the last kick. */
  readonly batch: Uint16Array
  batched = 0

  constructor (data: QueueData, buffers: readonly number[], guest: Guest) {
    this.queue = Queue.attach(data)
    this.callFd = data.callFd
    this.buffers = buffers
    this.words = buffers.map((address) => new Uint32Array(guest.memory.view(address, 4)))
    this.started = new Float64Array(buffers.length)
    this.block = new Uint32Array(buffers.length)
    this.batch = new Uint16Array(buffers.length)
  }
}

/** A constant number of requests in flight on every queue of a guest. */
export class LoadLoop {
  readonly latencies = new Histogram()
  readonly counts: Counts = { done: 0, errors: 0, mismatches: 0, kicks: 0, interrupts: 0, stalls: 0, milliseconds: 0 }
  readonly #lanes: Lane[]
  readonly #type: number
  readonly #writes: boolean
  readonly #polls: boolean
  readonly #marked: boolean
  readonly #sequential: boolean
  readonly #blockBytes: number
  readonly #blockSectors: number
  readonly #marksPerBlock: number
  readonly #blockMask: number
  readonly #state = new Int32Array([0x2545f491])
  #nextBlock = 0
  #checks = false
  #refills = false
  #inFlight = 0
  readonly #epoll: number
  /** Events of the epoll instance, then the counter of an eventfd. */
  readonly #memory = new NativeMemory(COUNTER + 8)
  readonly #counterAddress = this.#memory.address + COUNTER
  readonly #eventWords = platform().epollEventBytes / 4
  readonly #dataWord = platform().epollDataOffset / 4

  constructor (guest: Guest, options: LoadOptions) {
    const { kind, pattern, blockBytes, polls, marked } = options
    this.#lanes = guest.queues.map(({ data, buffers }) => new Lane(data, buffers, guest))
    this.#type = kind === 'read' ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT
    this.#writes = kind === 'write'
    this.#polls = polls
    this.#marked = marked
    this.#sequential = pattern === 'sequential'
    this.#blockBytes = blockBytes
    this.#blockSectors = blockBytes / SECTOR_BYTES
    this.#marksPerBlock = blockBytes / 4096
    // A power of two of blocks: no division for a random one.
    this.#blockMask = 2 ** Math.floor(Math.log2(guest.capacity / blockBytes)) - 1
    this.#epoll = epollCreate()
    for (const [index, { callFd }] of this.#lanes.entries()) this.#watch(callFd, index)
  }

  close (): void {
    close(this.#epoll)
    this.#memory.close()
  }

  /**
   * Keeps the load up for a time, or for a number of requests, then waits for what is in flight.
   *
   * @param checks compare what is read with the image's marks
   * @throws when the disk breaks a ring, or goes on doing nothing
   */
  run (milliseconds: number, { requests = Infinity, checks = false }: { requests?: number, checks?: boolean } = {}): void {
    const { counts } = this
    this.latencies.clear()
    counts.done = counts.errors = counts.mismatches = counts.kicks = counts.interrupts = counts.stalls = 0
    this.#checks = checks && this.#marked
    this.#refills = true
    const lanes = this.#lanes
    const begin = this.#now = performance.now()
    for (const lane of lanes) {
      if (this.#polls) lane.queue.disableInterrupts()
      else lane.queue.enableInterrupts()
      for (let slot = 0; slot < lane.buffers.length; slot++) this.#submit(lane, slot)
      this.#kick(lane)
    }
    if (this.#polls) this.#spin(begin + milliseconds, requests)
    else this.#sleep(begin + milliseconds, requests)
    counts.milliseconds = performance.now() - begin
    for (const lane of lanes) this.#countInterrupts(lane)
  }

  #sleep (end: number, requests: number): void {
    const { counts } = this
    const lanes = this.#lanes
    while (this.#inFlight > 0) {
      const ready = epollWait(this.#epoll, this.#memory.address, EVENTS, STALL_MILLISECONDS)
      for (let event = 0; event < ready; event++) this.#called(lanes[this.#memory.u32[event * this.#eventWords + this.#dataWord]])
      if (ready === 0) this.#stall()
      if (counts.done >= requests || this.#now >= end) this.#refills = false
    }
  }

  #called (lane: Lane): void {
    // The ring is read again after interrupts are wanted.
    do this.#collect(lane)
    while (lane.queue.enableInterrupts() === 'more')
    this.#kick(lane)
  }

  #spin (end: number, requests: number): void {
    const lanes = this.#lanes
    let idle = 0
    while (this.#inFlight > 0) {
      for (let index = 0; index < lanes.length; index++) {
        const lane = lanes[index]
        if (this.#collect(lane) === 0) continue
        this.#kick(lane)
        idle = 0
      }
      if (++idle % SPINS === 0) {
        const waited = performance.now() - this.#now
        this.#now += waited
        if (waited > STALL_MILLISECONDS) this.#stall()
      }
      if (this.counts.done >= requests || this.#now >= end) this.#refills = false
    }
  }

  /** Milliseconds: when completions were last seen. */
  #now = 0

  #collect (lane: Lane): number {
    const { queue } = lane
    let head = queue.poll()
    if (head < 0) return this.#nothing(head)
    const now = this.#now = performance.now()
    let done = 0
    for (; head >= 0; head = queue.poll()) {
      const slot = queue.token
      if (queue.status !== VIRTIO_BLK_S_OK) this.counts.errors++
      if (this.#checks) this.#check(lane, slot)
      this.latencies.add((now - lane.started[slot]) * 1e6)
      done++
      if (this.#refills) this.#submit(lane, slot)
      this.#inFlight--
    }
    this.counts.done += done
    return done
  }

  #nothing (head: number): number {
    if (head !== NOTHING_USED) throw new Error('the server broke the ring')
    return 0
  }

  #submit (lane: Lane, slot: number): void {
    const block = this.#sequential ? this.#nextBlock++ & this.#blockMask : this.#random() & this.#blockMask
    lane.block[slot] = block
    if (this.#writes) lane.words[slot][0] = blockMark(block * this.#marksPerBlock)
    const head = lane.queue.submit(this.#type, block * this.#blockSectors, lane.buffers[slot], this.#blockBytes, slot)
    if (head === QUEUE_FULL) throw new Error('the ring is full: the depth is more than it has entries')
    lane.batch[lane.batched++] = slot
    this.#inFlight++
  }

  #kick (lane: Lane): void {
    if (lane.batched === 0) return
    const now = performance.now()
    for (let index = 0; index < lane.batched; index++) lane.started[lane.batch[index]] = now
    lane.batched = 0
    if (lane.queue.kick()) this.counts.kicks++
  }

  #check (lane: Lane, slot: number): void {
    if (lane.words[slot][0] !== blockMark(lane.block[slot] * this.#marksPerBlock)) this.counts.mismatches++
  }

  /** Marsaglia's xorshift. */
  #random (): number {
    const state = this.#state
    let x = state[0]
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    state[0] = x
    return x >>> 1
  }

  /** Of a whole run: each time that the disk calls is an interrupt, although one wake-up may be for several. */
  #countInterrupts (lane: Lane): void {
    if (read(lane.callFd, this.#counterAddress, 8) > 0) this.counts.interrupts += this.#memory.u32[COUNTER / 4]
  }

  #stall (): void {
    if (++this.counts.stalls > STALLS_MAX) throw new Error(`the server is stuck with ${this.#inFlight} requests`)
    for (const lane of this.#lanes) {
      lane.queue.kickNotifier.notify()
      if (!this.#polls) this.#called(lane)
    }
  }

  #watch (fd: number, lane: number): void {
    // Edges: a call needs not be read for the next one to be told, as an interrupt needs no such thing in a guest.
    this.#memory.u32[0] = EPOLLIN | EPOLLET
    this.#memory.u32[this.#dataWord] = lane
    epollCtl(this.#epoll, EPOLL_CTL_ADD, fd, this.#memory.address)
  }
}
