import { EventNotifier } from '@node-vmm/event-poll'
import type { GuestMemory } from '@node-vmm/hostmem'
import { WriteTurns } from '@node-vmm/ioq'
import type { VirtqueueState } from '@node-vmm/vring'
import { fdatasync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { blockConfig, blockFeatures, type BlockGeometry } from './block-config.ts'
import { DataPlaneThread } from './data-plane-thread.ts'
import type { Disk } from './disk.ts'
import { type EngineReport, probeEngine } from './engine.ts'
import { AbandonedError, DataPlaneError } from './errors.ts'
import { type Drainable, Gate, type WaitOptions } from './gate.ts'
import { Image } from './image.ts'
import { checkOptions, type DataPlaneOptions, POLL_DEFAULT, type QueueSetup, STOP_TIMEOUT_DEFAULT } from './options.ts'
import { SECTOR_BYTES, VIRTIO_BLK_ID_BYTES } from '@node-vmm/virtio-blk'
import { type QueueStatistics, StatisticsTable } from './statistics.ts'
import type { Tracer } from './trace.ts'

/** `created`: no queue was started yet. `running`, `paused`: queues are served, or kept from it. `stopped`, `closed`. */
export type DataPlaneState = 'created' | 'running' | 'paused' | 'stopped' | 'closed'

interface RunningQueue {
  readonly memory: GuestMemory
  readonly engine: EngineReport
  readonly thread: DataPlaneThread
  /** What its thread answers to the command that stops it, once that was given. */
  stopping?: Promise<VirtqueueState>
  /** It has stopped. */
  state?: VirtqueueState
}

/** Milliseconds that a timer can take: more means for ever. */
const TIMER_MAX = 0x7fffffff
/** Milliseconds that a thread has at least for a command: it may have to begin first, on a machine that is busy. */
const COMMAND_MILLISECONDS = 5000
/** Milliseconds within which one of the queues must stop that stop well, when the data plane is given up because of another. */
const LAST_MILLISECONDS = 1000

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
  #gate: Gate
  readonly #statistics: StatisticsTable
  readonly #writeTurns: SharedArrayBuffer | undefined
  readonly #running = new Map<number, RunningQueue>()
  readonly #threads = new Map<number, DataPlaneThread>()
  #geometry: BlockGeometry
  #tracer: Tracer | undefined
  #state: DataPlaneState = 'created'
  /** Of queues that were running when the data plane was given up, what became of them. */
  readonly #left = new Map<number, VirtqueueState | AbandonedError>()
  #givingUp: Promise<AbandonedError> | undefined
  /** The kernel, or a thread that does not answer, has something of the image in its hands for ever. */
  #imageIsKept = false
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
    this.#gate = this.#makeGate(queues)
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

  #makeGate (queues: number): Gate {
    return Gate.create(queues, () => { for (const thread of this.#threads.values()) thread.wake.notify() })
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
      this.#left.clear()
      try {
        for (const [index, queue] of queues.entries()) await this.#startQueue(index, queue)
      } catch (error) {
        await this.#stopAll()
        throw error
      }
    })
  }

  /**
   * Completes what is in flight, lets go of all queues and ends the thread. No effect when nothing is served.
   *
   * @param options how long to wait, from this call on. @default the data plane's `stopTimeout`
   * @returns the state to go on from, by queue
   * @throws AbandonedError when the time is over or the signal aborts: all is stopped then, with requests lost. It can be
   * started again
   */
  stop (options: WaitOptions = {}): Promise<Map<number, VirtqueueState>> {
    return this.#within(options, this.#inOrder(() => this.#stopAll()))
  }

  /** Serves one queue more. @throws VringError for a ring that cannot be one; DataPlaneError when it is served already */
  startQueue (index: number, queue: QueueSetup): Promise<void> {
    return this.#inOrder(() => this.#startQueue(index, queue))
  }

  /**
   * Completes what is in flight on one queue and lets go of it.
   *
   * @param options as for `stop`
   * @throws DataPlaneError when it is not served; AbandonedError as `stop`: then *all* queues are stopped. Calls for the
   * others say what became of them: where they stopped, or this error
   */
  stopQueue (index: number, options: WaitOptions = {}): Promise<VirtqueueState> {
    return this.#within(options, this.#inOrder(() => this.#stopQueue(index)))
  }

  /** Interrupts the guest by another descriptor from now on, or not at all. The old one is no longer used when this resolves. */
  setCall (queue: number, callFd: number | undefined): Promise<void> {
    return this.#inOrder(async () => {
      if (this.#image === undefined) return
      this.#checkRunning(queue)
      await this.#forCommand(this.#threadOf(queue).command('setCall', { index: queue, callFd }))
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
    await this.#forCommand(Promise.all([...this.#threads.values()].map(command)))
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
      const gate = this.#gate
      gate.hold()
      try {
        await gate.settle(options)
        if (gate.isGivenUp) throw new DataPlaneError('ERR_ABANDONED', 'the data plane was given up, and stopped')
        this.#state = 'paused'
      } catch (error) {
        gate.letGo()
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

  /**
   * Stops, and gives the image back. No effect when closed.
   *
   * @param options as for `stop`
   * @throws AbandonedError as `stop`: it is closed all the same, but for the image, which stays open and locked
   */
  async close (options: WaitOptions = {}): Promise<void> {
    const closing = this.#order.catch(() => {}).then(() => this.#close())
    this.#order = closing
    try {
      await this.#within(options, closing)
    } catch (error) {
      if (error instanceof AbandonedError) this.#state = 'closed'
      throw error
    }
  }

  async #close (): Promise<void> {
    if (this.#state === 'closed') return
    // After the thread's death nothing can be completed: its guest memory stays mapped, the kernel may still write it.
    await this.#stopAll().catch(async (error) => {
      if (error.code === 'ERR_THREAD') await this.#endThreads()
      else if (!(error instanceof AbandonedError)) throw error
    })
    if (!this.#imageIsKept) this.#image?.close()
    this.#state = 'closed'
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

  /**
   * Waits for what threads or the kernel have to do, for so long. Then the data plane is given up: nothing that is waited
   * for may ever come.
   */
  async #within<Result> ({ timeout = this.#stopTimeout, signal }: WaitOptions, work: Promise<Result>): Promise<Result> {
    let timer: NodeJS.Timeout | undefined
    let giveUp!: (why: string, cause?: unknown) => void
    const over = new Promise<() => Promise<never>>((resolve) => {
      giveUp = (why, cause) => resolve(async () => { throw await this.#giveUp(why, cause) })
    })
    const abort = (): void => giveUp('the wait was aborted', signal?.reason)
    if (signal?.aborted === true) abort()
    signal?.addEventListener('abort', abort)
    if (timeout <= TIMER_MAX) timer = setTimeout(() => giveUp(`what was in flight did not end in ${timeout} ms`), timeout)
    try {
      return await (await Promise.race([work.then((result) => () => result), over]))()
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
    }
  }

  /** Waits for what threads do at once, unless they hang. */
  #forCommand<Result> (work: Promise<Result>): Promise<Result> {
    return this.#within({ timeout: Math.max(this.#stopTimeout, COMMAND_MILLISECONDS) }, work)
  }

  get #stopTimeout (): number {
    return this.#options.stopTimeout ?? STOP_TIMEOUT_DEFAULT
  }

  /** Ends all, beside the order, which may wait for what never comes. @returns the error that says so */
  #giveUp (why: string, cause: unknown): Promise<AbandonedError> {
    this.#givingUp ??= this.#giveUpOnce(why, cause).finally(() => { this.#givingUp = undefined })
    return this.#givingUp
  }

  async #giveUpOnce (why: string, cause: unknown): Promise<AbandonedError> {
    const { inFlight } = this.#gate
    const isWell = ([index, { stopping }]: [number, RunningQueue]): boolean => stopping === undefined || inFlight[index] === 0
    const well = [...this.#running].filter(isWell).map(([, queue]) => queue)
    for (const [index, queue] of this.#running) this.#askToStop(index, queue)
    await stopped(well)

    const lost = [...this.#running].filter(([, { state }]) => state === undefined)
    const error = new AbandonedError(why, lost.map(([index]) => index), this.#gate.inFlight, { cause })
    const stuck = [...this.#threads].filter(([, thread]) => thread.isBusy || lost.some(([, queue]) => queue.thread === thread))
    this.#gate.giveUp()
    // A thread that answers is past what it was at; one that does not is in a system call, and looks at the gate after it.
    await soon(stuck.map(([, thread]) => thread.command('setTrace', false)))
    for (const [index, thread] of stuck) {
      this.#threads.delete(index)
      thread.abandon(error)
    }
    if (stuck.length > 0) this.#imageIsKept = true
    for (const [index] of lost) {
      this.#left.set(index, error)
      this.#running.delete(index)
    }
    for (const [index, queue] of [...this.#running]) {
      this.#left.set(index, queue.state!)
      this.#letGo(index, queue)
    }
    await this.#endThreads()
    this.#gate = this.#makeGate(this.queues)
    if (this.#state !== 'closed') this.#state = 'stopped'
    return error
  }

  async #startQueue (index: number, queue: QueueSetup): Promise<void> {
    if (this.#image === undefined) return
    this.#checkQueue(index)
    if (this.#running.has(index)) throw new DataPlaneError('ERR_STATE', `queue ${index} is served already: stop it first`)
    const { memory, kickFd, callFd, errorFd, inflight, log, ...ring } = queue
    if (this.#running.size === 0) this.#image.beginUse()
    const thread = this.#startThread(index, this.#image)
    this.#left.delete(index)
    memory.retain()
    try {
      const engine = await this.#forCommand(thread.command('startQueue', { index, memory: memory.toData(), ring, kickFd, callFd, errorFd, inflight, log }))
      this.#running.set(index, { memory, engine, thread })
      if (this.#state !== 'paused') this.#state = 'running'
    } catch (error) {
      memory.release()
      if (this.#running.size === 0) this.#endUse(this.#image)
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
    const left = this.#left.get(index)
    if (left instanceof AbandonedError) throw left
    if (left !== undefined) {
      this.#left.delete(index)
      return left
    }
    const queue = this.#checkRunning(index)
    const state = await this.#askToStop(index, queue)
    this.#letGo(index, queue)
    return state
  }

  #askToStop (index: number, queue: RunningQueue): Promise<VirtqueueState> {
    if (queue.stopping === undefined) {
      queue.stopping = queue.thread.command('stopQueue', index).then((state) => queue.state = state)
      // Who gives up looks at the state.
      queue.stopping.catch(() => {})
    }
    return queue.stopping
  }

  /** Gives back what a queue had that has stopped. No effect when that was done. */
  #letGo (index: number, queue: RunningQueue): void {
    if (this.#running.get(index) !== queue) return
    this.#running.delete(index)
    if (this.#running.size === 0 && this.#image !== undefined) this.#endUse(this.#image)
    queue.memory.release()
  }

  // What was given up may still be written.
  #endUse (image: Image): void {
    if (!this.#imageIsKept) image.endUse()
  }

  async #stopAll (): Promise<Map<number, VirtqueueState>> {
    const states = new Map<number, VirtqueueState>()
    const stops = await Promise.allSettled([...this.#running.keys()].map(async (index) => states.set(index, await this.#stopQueue(index))))
    for (const stop of stops) if (stop.status === 'rejected') throw stop.reason
    await this.#endThreads()
    if (this.#state === 'paused') this.#gate.letGo()
    if (this.#state !== 'created') this.#state = 'stopped'
    return states
  }

  async #endThreads (): Promise<void> {
    if (this.#threads.size === 0) return
    const threads = [...this.#threads.values()]
    this.#threads.clear()
    await Promise.all(threads.map((thread) => thread.exit()))
    this.#tracer?.({ name: 'virtio_blk_data_plane_stop' })
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

/** Waits until all have stopped, as long as one of them does within each moment. */
async function stopped (queues: readonly RunningQueue[]): Promise<void> {
  await soon(queues.map(({ stopping }) => stopping))
  const left = queues.filter(({ state }) => state === undefined)
  if (left.length > 0 && left.length < queues.length) await stopped(left)
}

/** Waits until all have settled, or for a moment. */
async function soon (promises: readonly (Promise<unknown> | undefined)[]): Promise<void> {
  if (promises.length === 0) return
  const waiting = new AbortController()
  const moment = sleep(LAST_MILLISECONDS, undefined, { signal: waiting.signal }).catch(() => {})
  await Promise.race([Promise.allSettled(promises), moment])
  waiting.abort()
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
