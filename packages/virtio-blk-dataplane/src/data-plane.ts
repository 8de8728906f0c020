import type { GuestMemory } from '@node-vmm/hostmem'
import type { SplitVringInit, VirtqueueState, VringFault } from '@node-vmm/vring'
import { EventNotifier } from '@node-vmm/event-poll'
import type { Disk } from './block-queue.ts'
import { blockConfig, blockFeatures, type BlockGeometry } from './block-config.ts'
import { DataPlaneThread } from './data-plane-thread.ts'
import { type EngineChoice, type EngineReport, probeEngine } from './engine.ts'
import { DataPlaneError } from './errors.ts'
import { type Drainable, Gate, type WaitOptions } from './gate.ts'
import { Image, type ImageOptions } from './image.ts'
import { SECTOR_BYTES, VIRTIO_BLK_ID_BYTES } from './request.ts'
import { type QueueStatistics, StatisticsTable } from './statistics.ts'
import type { Tracer } from './trace.ts'

/** The most queues of one disk. */
export const QUEUES_MAX = 256

/** A disk and how to serve it. */
export interface DataPlaneOptions extends ImageOptions {
  /** Queues that the guest may use, 1 to 256. @default 1 */
  readonly queues?: number
  /** How the kernel is asked for disk I/O. @default 'auto' */
  readonly engine?: EngineChoice
  /** What the guest reads as the disk's serial number: up to 20 bytes. @default '' */
  readonly serial?: string
  /** Processors to pin the data-plane thread to. @default those of the thread that starts it */
  readonly cpus?: readonly number[]
  /** The device passes SCSI commands through. A data plane cannot: it is refused. @default false */
  readonly scsi?: boolean
  /** False makes a data plane that does nothing, for hosts without the kernel features: every call succeeds. @default true */
  readonly dataPlane?: boolean
  /** Receives the trace events; `setTracer` changes it later. @default none, which costs a branch an event */
  readonly tracer?: Tracer
  /** A guest broke its ring: the queue stops there until it is stopped and started again. @default none */
  readonly onFault?: (queue: number, fault: VringFault) => void
  /** The data-plane thread died, which is a fault of this software: no request is served any more. @default none */
  readonly onDeath?: (error: DataPlaneError) => void
}

/** A queue to serve: its ring, and how the guest and the device wake each other. */
export interface QueueSetup extends SplitVringInit {
  /** Guest memory. Held until the queue is stopped. */
  readonly memory: GuestMemory
  /** An eventfd (or pipe) that the guest's kicks make readable. The caller's to close, after the queue is stopped. */
  readonly kickFd: number
  /** An eventfd (or pipe) that interrupts the guest. @default none: the guest polls */
  readonly callFd?: number | undefined
  /** An eventfd that is notified once when the ring breaks. @default none */
  readonly errorFd?: number | undefined
}

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
  readonly #geometry: BlockGeometry
  readonly #gate: Gate
  readonly #statistics: StatisticsTable
  readonly #running = new Map<number, RunningQueue>()
  #tracer: Tracer | undefined
  #thread: DataPlaneThread | undefined
  #state: DataPlaneState = 'created'
  // Starts, stops and closes run one after the other, whatever the caller awaits.
  #order: Promise<unknown> = Promise.resolve()

  /**
   * The kernel interface that the disk is used through, and why not a better one; `'none'` where the data plane does
   * nothing. Each queue opens its own: `engineOf` tells if one got less.
   */
  readonly engine: EngineReport

  private constructor (image: Image | undefined, options: DataPlaneOptions) {
    const { queues = 1, readOnly = false } = options
    this.#image = image
    this.engine = image === undefined ? { name: 'none', rejected: [] } : probeEngine(options.engine, image.fd)
    this.#options = options
    this.#tracer = options.tracer
    this.#geometry = {
      sectors: image === undefined ? 0 : image.size / SECTOR_BYTES,
      readOnly,
      blockSize: image?.blockSize ?? SECTOR_BYTES,
      queues
    }
    this.#gate = Gate.create(queues, () => this.#thread?.wake.notify())
    this.#statistics = new StatisticsTable(queues)
  }

  /**
   * Opens and locks the image. Nothing runs yet.
   *
   * @throws DataPlaneError for a device or a disk that a data plane cannot serve, with the remedy; LinuxError when the
   * image cannot be opened
   */
  static create (options: DataPlaneOptions): DataPlane {
    const { queues = 1, serial = '', scsi = false, dataPlane = true } = options
    if (!Number.isInteger(queues) || queues < 1 || queues > QUEUES_MAX) {
      throw new DataPlaneError('ERR_OPTION', `a disk has 1 to ${QUEUES_MAX} queues: not ${queues}`)
    }
    if (Buffer.byteLength(serial) > VIRTIO_BLK_ID_BYTES) {
      throw new DataPlaneError('ERR_OPTION', `a serial number has up to ${VIRTIO_BLK_ID_BYTES} bytes: ${JSON.stringify(serial)} has ${Buffer.byteLength(serial)}`)
    }
    if (!dataPlane) return new DataPlane(undefined, options)
    if (scsi) throw new DataPlaneError('ERR_SCSI', 'a data plane cannot pass SCSI commands through: switch SCSI passthrough off, or the data plane')
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
      this.#checkRunning(queue)
      await this.#thread!.command('setCall', { index: queue, callFd })
    })
  }

  /** Sends the trace events elsewhere, or nowhere. */
  setTracer (tracer: Tracer | undefined): Promise<void> {
    return this.#inOrder(async () => {
      this.#tracer = tracer
      await this.#thread?.command('setTrace', tracer !== undefined)
    })
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
  async pause (options: WaitOptions = {}): Promise<void> {
    this.#checkOpen()
    if (this.#state === 'paused' || this.#image === undefined) return
    if (this.#state !== 'running') throw new DataPlaneError('ERR_STATE', `nothing is served: a data plane that is ${this.#state} cannot pause`)
    this.#state = 'paused'
    this.#gate.hold()
    try {
      await this.#gate.settle(options)
    } catch (error) {
      this.#state = 'running'
      this.#gate.letGo()
      throw error
    }
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
      await this.#stopAll().catch((error) => { if (error.code !== 'ERR_THREAD') throw error })
      this.#image?.close()
      this.#state = 'closed'
    }) as Promise<void>
  }

  [Symbol.asyncDispose] (): Promise<void> {
    return this.close()
  }

  /** What another thread of this process needs to drain: see `attachDrain`. Valid while queues are served. */
  drainHandle (): DrainHandle {
    return { gate: this.#gate.state, wakeFd: this.#thread?.wake.fd }
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
    const { memory, kickFd, callFd, errorFd, ...ring } = queue
    this.#thread ??= this.#startThread(this.#image)
    memory.retain()
    try {
      const engine = await this.#thread.command('startQueue', { index, memory: memory.toData(), ring, kickFd, callFd, errorFd })
      this.#running.set(index, { memory, engine })
      if (this.#state !== 'paused') this.#state = 'running'
    } catch (error) {
      memory.release()
      throw error
    }
  }

  // The thread begins with its first queue, so that it inherits the processors of who starts it.
  #startThread (image: Image): DataPlaneThread {
    const { engine = 'auto', cpus, serial = '', onFault, onDeath } = this.#options
    const id = new Uint8Array(VIRTIO_BLK_ID_BYTES)
    id.set(Buffer.from(serial))
    const disk: Disk = { fd: image.fd, readOnly: image.readOnly, sectors: this.#geometry.sectors, id }
    const thread = new DataPlaneThread({
      gate: this.#gate.state, statistics: this.#statistics.state, disk, engine, cpus, trace: this.#tracer !== undefined
    }, {
      onFault: (queue, fault) => onFault?.(queue, fault),
      onTrace: (event) => this.#tracer?.(event),
      onDeath: (error) => onDeath?.(error)
    })
    this.#tracer?.({ name: 'virtio_blk_data_plane_start', queues: this.#geometry.queues })
    return thread
  }

  async #stopQueue (index: number): Promise<VirtqueueState> {
    const { memory } = this.#checkRunning(index)
    const state = await this.#thread!.command('stopQueue', index)
    this.#running.delete(index)
    memory.release()
    return state
  }

  async #stopAll (): Promise<Map<number, VirtqueueState>> {
    const states = new Map<number, VirtqueueState>()
    for (const index of [...this.#running.keys()]) states.set(index, await this.#stopQueue(index))
    if (this.#thread !== undefined) {
      await this.#thread.exit()
      this.#thread = undefined
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
  readonly wakeFd: number | undefined
}

/** A data plane's drain in another thread of its process, from its `drainHandle()`. */
export function attachDrain ({ gate, wakeFd }: DrainHandle): Drainable {
  const wake = wakeFd === undefined ? undefined : EventNotifier.fromFd(wakeFd)
  return Gate.attach(gate, () => wake?.notify())
}
