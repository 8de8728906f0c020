import { EventNotifier } from '@node-vmm/event-poll'
import type { GuestMemory } from '@node-vmm/hostmem'
import { WriteTurns } from '@node-vmm/ioq'
import type { VirtqueueState } from '@node-vmm/vring'
import { fdatasync } from 'node:fs'
import { promisify } from 'node:util'
import { blockConfig, blockFeatures, type BlockGeometry } from './block-config.ts'
import { DataPlaneThread } from './data-plane-thread.ts'
import type { Disk } from './disk.ts'
import { type EngineReport, probeEngine } from './engine.ts'
import { DataPlaneError } from './errors.ts'
import { type Drainable, Gate, type WaitOptions } from './gate.ts'
import { Image } from './image.ts'
import { checkOptions, type DataPlaneOptions, POLL_DEFAULT, type QueueSetup } from './options.ts'
import { SECTOR_BYTES, VIRTIO_BLK_ID_BYTES } from '@node-vmm/virtio-blk'
import { type QueueStatistics, StatisticsTable } from './statistics.ts'
import type { Tracer } from './trace.ts'

/** `created`: no queue was started yet. `running`, `paused`: queues are served, or kept from it. `stopped`, `closed`. */
export type DataPlaneState = 'created' | 'running' | 'paused' | 'stopped' | 'closed'

interface RunningQueue {
  readonly memory: GuestMemory
  readonly engine: EngineReport
}

/**
 * A virtio-blk device whose requests are processed in a thread of their own.
 *
 * It is given running parts and gives them back: guest memory, ring addresses, a kick and a call descriptor. What
 * connects it to a guest, a vhost-user session or a VMM in this process, is the caller's. The calling thread never
 * touches a ring; the data-plane thread never waits for the calling one.
 */
export class DataPlane implements Drainable {
  readonly #image: Image | undefined
  readonly #options: DataPlaneOptions
  readonly #gate: Gate
  readonly #statistics: StatisticsTable
  readonly #writeTurns: SharedArrayBuffer | undefined
  readonly #running = new Map<number, RunningQueue>()
  readonly #threads = new Map<number, DataPlaneThread>()
  #geometry: BlockGeometry
  #tracer: Tracer | undefined
  #state: DataPlaneState = 'created'
  // Starts, stops and closes run one after the other, whatever the caller awaits.
  #order: Promise<unknown> = Promise.resolve()

  /**
   * The kernel interface that the disk is used through, and why not a better one; `'none'` where the data plane does
   * nothing. Each queue opens its own: `engineOf` tells if one got less.
   */
  readonly engine: EngineReport

  private constructor (image: Image | undefined, options: DataPlaneOptions) {
    const { queues = 1, readOnly = false, writeThrough = false, discardSegments = 1, packed = false, inOrder = false } = options
    this.#image = image
    this.engine = image === undefined ? { name: 'none', rejected: [] } : probeEngine(options.engine, image.fd)
    this.#options = options
    this.#tracer = options.tracer
    this.#geometry = {
      sectors: image === undefined ? 0 : image.size / SECTOR_BYTES,
      readOnly,
      blockSize: image?.blockSize ?? SECTOR_BYTES,
      physicalBlockSize: image?.physicalBlockSize ?? SECTOR_BYTES,
      queues,
      writeback: !writeThrough,
      discardSegments,
      packed,
      inOrder
    }
    this.#gate = Gate.create(queues, () => { for (const thread of this.#threads.values()) thread.wake.notify() })
    this.#statistics = new StatisticsTable(queues)
    this.#writeTurns = image?.bufferedFd === undefined ? undefined : WriteTurns.allocate()
  }

  /**
   * Opens and locks the image. Nothing runs yet.
   *
   * @throws DataPlaneError for a device or a disk that a data plane cannot serve, with the remedy; LinuxError when the
   * image cannot be opened
   */
  static create (options: DataPlaneOptions): DataPlane {
    if (options.dataPlane === false) return new DataPlane(undefined, options)
    checkOptions(options)
    const image = Image.open(options)
    try {
      return new DataPlane(image, options)
    } catch (error) {
      image.close()
      throw error
    }
  }

  get state (): DataPlaneState {
    return this.#state
  }

  /** Bytes of the disk. */
  get capacity (): number {
    return this.#geometry.sectors * SECTOR_BYTES
  }

  get queues (): number {
    return this.#geometry.queues
  }

  /** Whether every write is stable when it completes. */
  get writeThrough (): boolean {
    return !this.#geometry.writeback
  }

  /** The feature bits to offer to the guest: virtio 1.2, 5.2.3 and 6. */
  get features (): bigint {
    return blockFeatures(this.#geometry)
  }

  /** The configuration space to show to the guest: virtio 1.2, 5.2.4. */
  get config (): Uint8Array {
    return blockConfig(this.#geometry)
  }

  /** Requests in flight, by queue. */
  get inFlight (): number[] {
    return this.#gate.inFlight
  }

  /** Which kernel interface a running queue uses, and why not a better one; undefined for a queue that is not running. */
  engineOf (queue: number): EngineReport | undefined {
    return this.#running.get(queue)?.engine
  }

  /** What a queue has done so far. */
  statistics (queue: number): QueueStatistics {
    this.#checkQueue(queue)
    return this.#statistics.read(queue)
  }

  /**
   * Serves the queues, the first at index 0. No effect when queues are served already.
   *
   * @throws VringError for a ring that cannot be one: nothing is served then
   */
  start (queues: readonly QueueSetup[]): Promise<void> {
    return this.#inOrder(async () => {
      for (const { death } of this.#threads.values()) if (death !== undefined) throw death
      if (this.#running.size > 0) return
      try {
        for (const [index, queue] of queues.entries()) await this.#startQueue(index, queue)
      } catch (error) {
        await this.#stopAll()
        throw error
      }
    })
  }

  /** Completes what is in flight, lets go of all queues and ends the thread. No effect when nothing is served. @returns the state to go on from, by queue */
  stop (): Promise<Map<number, VirtqueueState>> {
    return this.#inOrder(() => this.#stopAll())
  }

  /** Serves one queue more. @throws VringError for a ring that cannot be one; DataPlaneError when it is served already */
  startQueue (index: number, queue: QueueSetup): Promise<void> {
    return this.#inOrder(() => this.#startQueue(index, queue))
  }

  /** Completes what is in flight on one queue and lets go of it. @throws DataPlaneError when it is not served */
  stopQueue (index: number): Promise<VirtqueueState> {
    return this.#inOrder(() => this.#stopQueue(index))
  }

  /** Interrupts the guest by another descriptor from now on, or not at all. The old one is no longer used when this resolves. */
  setCall (queue: number, callFd: number | undefined): Promise<void> {
    return this.#inOrder(async () => {
      if (this.#image === undefined) return
      this.#checkRunning(queue)
      await this.#threadOf(queue).command('setCall', { index: queue, callFd })
    })
  }

  /** Sends the trace events elsewhere, or nowhere. */
  setTracer (tracer: Tracer | undefined): Promise<void> {
    return this.#inOrder(async () => {
      this.#tracer = tracer
      await this.#tellAll((thread) => thread.command('setTrace', tracer !== undefined))
    })
  }

  /**
   * Cuts or extends the image, or takes over the size that it has by now, while queues run. Requests beyond the new end
   * fail from then on; the guest is told by whoever connects it.
   *
   * @param bytes the new size, a multiple of 512. @default what the file or device has
   * @throws DataPlaneError for a size that is no disk's, or another size for a device; LinuxError
   */
  resize (bytes?: number): Promise<void> {
    return this.#inOrder(async () => {
      const image = this.#image
      if (image === undefined) return
      if (bytes !== undefined) image.checkResize(bytes)
      const cuts = bytes !== undefined && bytes < image.size
      if (bytes === undefined) image.refresh()
      else if (!cuts) image.resize(bytes)
      await this.#change({ sectors: (cuts ? bytes : image.size) / SECTOR_BYTES })
      // No request may be beyond the end when the end comes nearer.
      if (cuts) {
        await this.drain()
        image.resize(bytes)
      }
    })
  }

  /** Has every write stable when it completes, or (false) only at a flush. What was written before is stable when this resolves. @throws LinuxError */
  setWriteThrough (writeThrough: boolean): Promise<void> {
    return this.#inOrder(async () => {
      await this.#change({ writeback: !writeThrough })
      if (writeThrough && this.#image !== undefined) await promisify(fdatasync)(this.#image.fd)
    })
  }

  async #change (change: Partial<BlockGeometry>): Promise<void> {
    this.#geometry = { ...this.#geometry, ...change }
    const { sectors, writeback } = this.#geometry
    await this.#tellAll((thread) => thread.command('setDisk', { sectors, writeThrough: !writeback }))
  }

  async #tellAll (command: (thread: DataPlaneThread) => Promise<unknown>): Promise<void> {
    await Promise.all([...this.#threads.values()].map(command))
  }

  drain (options: WaitOptions = {}): Promise<void> {
    return this.#gate.drain(options)
  }

  drainSync (options: Pick<WaitOptions, 'timeout'> = {}): void {
    this.#gate.drainSync(options)
  }

  /**
   * Drains, and keeps the guest's requests waiting in their rings until `resume`: the image is the caller's meanwhile.
   * No effect when paused.
   *
   * @throws as `drain`: it is not paused then
   */
  pause (options: WaitOptions = {}): Promise<void> {
    return this.#inOrder(async () => {
      if (this.#state === 'paused' || this.#image === undefined) return
      if (this.#state !== 'running') throw new DataPlaneError('ERR_STATE', `nothing is served: a data plane that is ${this.#state} cannot pause`)
      this.#gate.hold()
      try {
        await this.#gate.settle(options)
        this.#state = 'paused'
      } catch (error) {
        this.#gate.letGo()
        throw error
      }
    })
  }

  /** Serves on after a pause. No effect when not paused. */
  resume (): void {
    this.#checkOpen()
    if (this.#state !== 'paused') return
    this.#state = 'running'
    this.#gate.letGo()
  }

  /** Stops, and gives the image back. No effect when closed. */
  close (): Promise<void> {
    return this.#order = this.#order.catch(() => {}).then(async () => {
      if (this.#state === 'closed') return
      // After the thread's death nothing can be completed: its guest memory stays mapped, the kernel may still write it.
      await this.#stopAll().catch(async (error) => {
        if (error.code !== 'ERR_THREAD') throw error
        await this.#tellAll((thread) => thread.exit())
      })
      this.#image?.close()
      this.#state = 'closed'
    }) as Promise<void>
  }

  [Symbol.asyncDispose] (): Promise<void> {
    return this.close()
  }

  /** What another thread of this process needs to drain: see `attachDrain`. Valid while queues are served. */
  drainHandle (): DrainHandle {
    return { gate: this.#gate.state, wakeFds: [...this.#threads.values()].map(({ wake }) => wake.fd) }
  }

  #inOrder<Result> (step: () => Promise<Result>): Promise<Result> {
    const result = this.#order.catch(() => {}).then(() => {
      this.#checkOpen()
      return step()
    })
    this.#order = result
    return result
  }

  async #startQueue (index: number, queue: QueueSetup): Promise<void> {
    if (this.#image === undefined) return
    this.#checkQueue(index)
    if (this.#running.has(index)) throw new DataPlaneError('ERR_STATE', `queue ${index} is served already: stop it first`)
    const { memory, kickFd, callFd, errorFd, inflight, log, ...ring } = queue
    if (this.#running.size === 0) this.#image.beginUse()
    const thread = this.#startThread(index, this.#image)
    memory.retain()
    try {
      const engine = await thread.command('startQueue', { index, memory: memory.toData(), ring, kickFd, callFd, errorFd, inflight, log })
      this.#running.set(index, { memory, engine })
      if (this.#state !== 'paused') this.#state = 'running'
    } catch (error) {
      memory.release()
      if (this.#running.size === 0) this.#image.endUse()
      throw error
    }
  }

  #threadIndex (queue: number): number {
    const { queueThreads = [], threads = 1 } = this.#options
    return queueThreads[queue] ?? queue % threads
  }

  #threadOf (queue: number): DataPlaneThread {
    return this.#threads.get(this.#threadIndex(queue))!
  }

  // A thread begins with its first queue, so that it inherits the processors of who starts it.
  #startThread (queue: number, image: Image): DataPlaneThread {
    const index = this.#threadIndex(queue)
    const running = this.#threads.get(index)
    if (running !== undefined) return running
    const { engine = 'auto', cpus = [], pollMaxMicroseconds = POLL_DEFAULT, onFault, onDeath } = this.#options
    if (this.#threads.size === 0) this.#tracer?.({ name: 'virtio_blk_data_plane_start', queues: this.queues })
    const thread = new DataPlaneThread({
      gate: this.#gate.state,
      statistics: this.#statistics.state,
      disk: this.#disk(image),
      engine,
      cpus: cpus[index],
      trace: this.#tracer !== undefined,
      pollMaxMicroseconds
    }, {
      onFault: (faulty, fault) => onFault?.(faulty, fault),
      onTrace: (event) => this.#tracer?.(event),
      onDeath: (error) => {
        if (this.#running.size > 0) this.#gate.abandon()
        onDeath?.(error)
      }
    })
    this.#threads.set(index, thread)
    return thread
  }

  #disk (image: Image): Disk {
    const { serial = '' } = this.#options
    const { sectors, writeback, discardSegments } = this.#geometry
    const id = new Uint8Array(VIRTIO_BLK_ID_BYTES)
    id.set(Buffer.from(serial))
    return {
      fd: image.fd,
      bufferedFd: image.bufferedFd,
      alignment: image.alignment,
      writeTurns: this.#writeTurns,
      readOnly: image.readOnly,
      id,
      discardSegments,
      sectors,
      writeThrough: !writeback
    }
  }

  async #stopQueue (index: number): Promise<VirtqueueState> {
    if (this.#image === undefined) return { availableIndex: 0, usedIndex: 0 }
    const { memory } = this.#checkRunning(index)
    const state = await this.#threadOf(index).command('stopQueue', index)
    this.#running.delete(index)
    if (this.#running.size === 0) this.#image?.endUse()
    memory.release()
    return state
  }

  async #stopAll (): Promise<Map<number, VirtqueueState>> {
    const states = new Map<number, VirtqueueState>()
    for (const index of [...this.#running.keys()]) states.set(index, await this.#stopQueue(index))
    if (this.#threads.size > 0) {
      await this.#tellAll((thread) => thread.exit())
      this.#threads.clear()
      this.#tracer?.({ name: 'virtio_blk_data_plane_stop' })
    }
    if (this.#state === 'paused') this.#gate.letGo()
    if (this.#state !== 'created') this.#state = 'stopped'
    return states
  }

  #checkOpen (): void {
    if (this.#state === 'closed') throw new DataPlaneError('ERR_STATE', 'this data plane is closed: create another one')
  }

  #checkQueue (index: number): void {
    if (!Number.isInteger(index) || index < 0 || index >= this.queues) {
      throw new DataPlaneError('ERR_QUEUE', `this disk has queues 0 to ${this.queues - 1}: not ${index}`)
    }
  }

  #checkRunning (index: number): RunningQueue {
    this.#checkQueue(index)
    const running = this.#running.get(index)
    if (running === undefined) throw new DataPlaneError('ERR_STATE', `queue ${index} is not served`)
    return running
  }
}

/** What another thread of the process needs to drain a data plane: plain data. */
export interface DrainHandle {
  readonly gate: SharedArrayBuffer
  readonly wakeFds: readonly number[]
}

/** A data plane's drain in another thread of its process, from its `drainHandle()`. */
export function attachDrain ({ gate, wakeFds }: DrainHandle): Drainable {
  const wakes = wakeFds.map((fd) => EventNotifier.fromFd(fd))
  return Gate.attach(gate, () => { for (const wake of wakes) wake.notify() })
}
