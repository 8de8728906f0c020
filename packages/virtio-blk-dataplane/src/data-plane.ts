import { EventNotifier } from '@node-vmm/event-poll'
import type { GuestMemory } from '@node-vmm/hostmem'
import { FileMap, WriteTurns } from '@node-vmm/ioq'
import type { VirtqueueState } from '@node-vmm/vring'
import { setTimeout as sleep } from 'node:timers/promises'
import { blockConfig, blockFeatures, type BlockGeometry } from './block-config.ts'
import { isDiskModule } from './custom-disk.ts'
import { DataPlaneThread, type Runner } from './data-plane-thread.ts'
import type { DiskFailure } from './disk-failures.ts'
import { DiskThread } from './disk-thread.ts'
import type { ServedDisk } from './disk.ts'
import { type EngineReport, probeEngine } from './engine.ts'
import { AbandonedError, DataPlaneError } from './errors.ts'
import { type Drainable, Gate, type WaitOptions } from './gate.ts'
import { Image } from './image.ts'
import { IoThread, launchOn } from './io-thread.ts'
import { LocalRunner } from './local-runner.ts'
import type { Medium } from './medium.ts'
import type { ThreadInit } from './messages.ts'
import { checkOptions, type DataPlaneOptions, type QueueSetup, STOP_TIMEOUT_DEFAULT } from './options.ts'
import { moduleUrl, OwnDisk } from './own-disk.ts'
import { OwnMedium } from './own-medium.ts'
import { SECTOR_BYTES, VIRTIO_BLK_ID_BYTES } from '@node-vmm/virtio-blk'
import type { LatencyHistogram } from './latency.ts'
import { type QueueStatistics, StatisticsTable } from './statistics.ts'
import { ThreadDisk } from './thread-disk.ts'
import { TraceCollector } from './trace-collector.ts'
import type { Tracer, TraceSink } from './trace.ts'

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

const NO_ENGINE: EngineReport = { name: 'none', rejected: [] }
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
  /** Undefined where the data plane does nothing. */
  readonly #medium: Medium | undefined
  readonly #options: DataPlaneOptions
  #gate: Gate
  readonly #statistics: StatisticsTable
  readonly #writeTurns: SharedArrayBuffer | undefined
  /** Of an image in memory, where the engine copies. */
  readonly #map: FileMap | undefined
  readonly #running = new Map<number, RunningQueue>()
  readonly #threads = new Map<number, DataPlaneThread>()
  /** Of a disk that its thread opens: both last until the end. */
  #diskModule: ThreadInit['diskModule']
  /** Makes what runs the loop of a thread. @default a thread of its own */
  #launch: ((init: ThreadInit) => Runner) | undefined
  #geometry: BlockGeometry
  readonly #trace: TraceCollector
  #state: DataPlaneState = 'created'
  /** Calls of `resume`. */
  #resumes = 0
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

  private constructor (medium: Medium | undefined, engine: EngineReport, options: DataPlaneOptions) {
    const { queues = 1, latency = false } = options
    this.#medium = medium
    this.engine = engine
    this.#options = options
    this.#trace = new TraceCollector(options.tracer)
    this.#geometry = measure(medium, options)
    this.#gate = this.#makeGate(queues)
    this.#statistics = new StatisticsTable(queues)
    this.measureLatency(latency)
    this.#writeTurns = medium?.bufferedFd === undefined ? undefined : WriteTurns.allocate()
    this.#map = medium === undefined || engine.name !== 'mapped' ? undefined : FileMap.create(medium.fd)
  }

  /**
   * Opens and locks the image, or takes a disk of one's own. Nothing runs yet.
   *
   * @throws DataPlaneError for a device or a disk that a data plane cannot serve, with the remedy; LinuxError when the
   * image cannot be opened
   */
  static create (options: DataPlaneOptions): DataPlane {
    if (options.dataPlane === false) return new DataPlane(undefined, NO_ENGINE, options)
    checkOptions(options)
    const { path, disk, readOnly = false } = options
    if (isDiskModule(disk)) throw new DataPlaneError('ERR_OPTION', 'a disk module is opened on a thread, which takes its time: await DataPlane.open(options)')
    if (disk !== undefined) {
      const own = OwnDisk.of(disk)
      const plane = new DataPlane(new OwnMedium(own, readOnly).take(own.inspect()), { name: own.name, rejected: [] }, options)
      plane.#launch = (init) => new LocalRunner(init, own)
      return plane
    }
    const image = Image.open({ ...options, path: path! })
    try {
      return new DataPlane(image, probeEngine(options.engine, image.fd), options)
    } catch (error) {
      image.close()
      throw error
    }
  }

  /**
   * The same, and for a disk that a module opens: its thread begins at once, and lasts, with the disk open, until `close`.
   *
   * @throws as `create`; DataPlaneError ERR_DISK for a module that cannot be loaded or does not open a disk, ERR_ABANDONED
   * where it takes longer than any command may
   */
  static async open (options: DataPlaneOptions): Promise<DataPlane> {
    const { disk, readOnly = false } = options
    if (options.dataPlane === false || !isDiskModule(disk)) return DataPlane.create(options)
    checkOptions(options)
    const url = moduleUrl(disk.module)
    const medium = new OwnMedium(new ThreadDisk(() => plane.#diskThread), readOnly)
    const plane: DataPlane = new DataPlane(medium, { name: url, rejected: [] }, options)
    plane.#diskModule = { module: url, options: disk.options }
    await plane.#openModule(medium)
    return plane
  }

  async #openModule (medium: OwnMedium): Promise<void> {
    this.#threads.set(0, this.#launchThread(0, medium))
    try {
      await this.#forCommand(medium.open())
      await this.#change(measure(medium, this.#options))
    } catch (error) {
      await this.#endThreads()
      this.#state = 'closed'
      throw error
    }
  }

  /** The thread that has the disk which a module opened. @throws DataPlaneError when it has gone, with the disk */
  get #diskThread (): DataPlaneThread {
    const thread = this.#threads.get(0)
    if (thread === undefined) throw new DataPlaneError('ERR_ABANDONED', 'the disk was given up with its thread, which did not answer: open another data plane')
    return thread
  }

  #makeGate (queues: number): Gate {
    return Gate.create(queues, () => { for (const thread of this.#threads.values()) thread.wake.notify() })
  }

  /** What it is doing: see {@link DataPlaneState}. */
  get state (): DataPlaneState {
    return this.#state
  }

  /** Bytes of the disk. */
  get capacity (): number {
    return this.#geometry.sectors * SECTOR_BYTES
  }

  /** How many queues the disk has. */
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

  /** How long the requests of a queue took while that was measured: see the option `latency`. */
  latency (queue: number): LatencyHistogram {
    this.#checkQueue(queue)
    return this.#statistics.readLatency(queue)
  }

  /** Has requests timed from now on, or no longer. What is in flight is not. */
  measureLatency (on: boolean): void {
    this.#statistics.measure(on)
  }

  /**
   * Starts the threads that queues will be served by, which takes them a tenth of a second, while there is none to be served
   * yet. They last until `stop` or `close`, as those do that begin with a queue. No effect for a disk on the calling thread.
   */
  prepare (): Promise<void> {
    return this.#inOrder(async () => {
      if (this.#medium === undefined || this.#launch !== undefined) return
      for (let queue = 0; queue < this.queues; queue++) this.#startThread(queue, this.#medium)
    })
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
      if (this.#medium === undefined) return
      this.#checkRunning(queue)
      await this.#forCommand(this.#threadOf(queue).command('setCall', { index: queue, callFd }))
    })
  }

  /** Sends the trace events elsewhere, or nowhere. Those that came before have been delivered when this resolves. */
  setTracer (tracer: Tracer | TraceSink | undefined): Promise<void> {
    return this.#inOrder(async () => {
      if (tracer !== undefined) this.#trace.setTracer(tracer)
      await this.#tellAll((thread, index) => thread.command('setTrace', tracer && this.#trace.ringOf(index)))
      if (tracer !== undefined) return
      this.#trace.end()
      this.#trace.setTracer(undefined)
    })
  }

  /** Delivers the trace events that there are by now, instead of within 10 ms: to put them in order with something else. */
  collectTrace (): void {
    this.#trace.collect()
  }

  /**
   * Cuts or extends the image, or takes over the size that it has by now, while queues run. Requests beyond the new end
   * fail from then on; the guest is told by whoever connects it.
   *
   * @param bytes the new size, a multiple of 512; not for a disk of one's own. @default what the file, device or disk has
   * @throws DataPlaneError for a size that is no disk's, or another size for what cannot have one; LinuxError
   */
  resize (bytes?: number): Promise<void> {
    return this.#inOrder(async () => {
      const medium = this.#medium
      if (medium === undefined) return
      if (bytes !== undefined) medium.checkResize(bytes)
      const cuts = bytes !== undefined && bytes < medium.size
      if (bytes === undefined) await this.#forCommand(Promise.resolve(medium.refresh()))
      else if (!cuts) medium.resize(bytes)
      await this.#change({ sectors: (cuts ? bytes : medium.size) / SECTOR_BYTES })
      // No request may be beyond the end when the end comes nearer.
      if (cuts) {
        await this.drain()
        medium.resize(bytes)
      }
    })
  }

  /** Has every write stable when it completes, or (false) only at a flush. What was written before is stable when this resolves. @throws LinuxError */
  setWriteThrough (writeThrough: boolean): Promise<void> {
    return this.#inOrder(async () => {
      const flushes = this.#medium?.flushes ?? true
      await this.#change({ writeback: !writeThrough && flushes })
      if (writeThrough && flushes) await this.#medium?.sync()
    })
  }

  async #change (change: Partial<BlockGeometry>): Promise<void> {
    this.#geometry = { ...this.#geometry, ...change }
    const { sectors, readOnly, writeback } = this.#geometry
    await this.#tellAll((thread) => thread.command('setDisk', { sectors, readOnly, writeThrough: !writeback }))
  }

  async #tellAll (command: (thread: DataPlaneThread, index: number) => Promise<unknown>): Promise<void> {
    await this.#forCommand(Promise.all([...this.#threads].map(([index, thread]) => command(thread, index))))
  }

  drain (options: WaitOptions = {}): Promise<void> {
    return this.#gate.drain(options)
  }

  /** @throws as `Drainable.drainSync`; DataPlaneError ERR_STATE for a disk that runs on this thread: it would wait for itself */
  drainSync (options: Pick<WaitOptions, 'timeout'> = {}): void {
    if (this.#launch !== undefined) throw new DataPlaneError('ERR_STATE', 'the disk runs on the calling thread, which must not block for it: await drain()')
    this.#gate.drainSync(options)
  }

  /**
   * Drains, and keeps the guest's requests waiting in their rings until `resume`: the image is the caller's meanwhile.
   * No effect when paused. After a `resume` that came meanwhile it serves on as soon as it has drained.
   *
   * @throws as `drain`: it is not paused then
   */
  pause (options: WaitOptions = {}): Promise<void> {
    const resumes = this.#resumes
    return this.#inOrder(async () => {
      if (this.#state === 'paused' || this.#medium === undefined) return
      if (this.#state !== 'running') throw new DataPlaneError('ERR_STATE', `nothing is served: a data plane that is ${this.#state} cannot pause`)
      const gate = this.#gate
      gate.hold()
      try {
        await gate.settle(options)
        if (gate.isGivenUp) throw new DataPlaneError('ERR_ABANDONED', 'the data plane was given up, and stopped')
        if (resumes === this.#resumes) this.#state = 'paused'
        else gate.letGo()
      } catch (error) {
        gate.letGo()
        throw error
      }
    })
  }

  /** Serves on after a pause, or has one that still drains not last. No effect when not paused. */
  resume (): void {
    this.#checkOpen()
    this.#resumes++
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
      // The disk is still to be closed.
      if (error instanceof AbandonedError && this.#isOwn) await soon([closing])
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
    const isGone = this.#diskModule !== undefined && this.#threads.size === 0
    try {
      if (!this.#imageIsKept && !isGone) {
        this.#map?.close()
        await this.#medium?.close()
      }
    } catch (error) {
      // The disk died with its thread.
      if ((error as DataPlaneError).code !== 'ERR_THREAD') throw error
    } finally {
      await this.#endThreads()
      this.#state = 'closed'
    }
  }

  /** The disk is the user's own. */
  get #isOwn (): boolean {
    return this.#medium instanceof OwnMedium
  }

  /** The same as `close()`, for `await using`. */
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
    const over = new Promise<() => Promise<Result>>((resolve) => {
      giveUp = (why, cause) => resolve(async () => {
        if (this.#isOwn && await this.#endsAborted(work)) return work
        throw await this.#giveUp(why, cause)
      })
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

  /** Aborts the requests of queues that are being stopped. @returns whether the work ended by that */
  async #endsAborted (work: Promise<unknown>): Promise<boolean> {
    for (const thread of this.#threads.values()) thread.command('abort', undefined).catch(() => {})
    let ended = false
    const end = (): void => { ended = true }
    await soon([work.then(end, end)])
    return ended
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
    const hanging = this.#isOwn ? await this.#giveUpRequests(stuck, error) : stuck
    // A thread that answers is past what it was at; one that does not is in a system call, and looks at the gate after it.
    if (!this.#isOwn) await soon(stuck.map(([, thread]) => thread.command('setTrace', undefined)))
    for (const [index, thread] of hanging) {
      this.#threads.delete(index)
      this.#trace.abandon(index)
      thread.abandon(error)
    }
    if (hanging.length > 0) this.#imageIsKept = true
    for (const [index] of lost) {
      this.#left.set(index, error)
      this.#running.delete(index)
    }
    for (const [index, queue] of [...this.#running]) {
      this.#left.set(index, queue.state!)
      this.#letGo(index, queue)
    }
    if (this.#diskModule === undefined) await this.#endThreads()
    this.#gate = this.#makeGate(this.queues)
    for (const thread of this.#threads.values()) void thread.command('setGate', this.#gate.state).catch(() => {})
    if (this.#state !== 'closed') this.#state = 'stopped'
    return error
  }

  /**
   * Where only promises do not settle, the thread goes on, without the queues that wait for them.
   *
   * @returns the threads that do not answer
   */
  async #giveUpRequests (stuck: readonly (readonly [number, DataPlaneThread])[], error: AbandonedError): Promise<(readonly [number, DataPlaneThread])[]> {
    const answering = new Set<DataPlaneThread>()
    const asked = stuck.map(async ([, thread]) => {
      await thread.command('giveUp', undefined)
      answering.add(thread)
    })
    // On the calling thread it is answered, when there is time.
    await (this.#launch === undefined ? soon(asked) : Promise.allSettled(asked))
    for (const thread of answering) thread.rejectAll(error)
    return stuck.filter(([, thread]) => !answering.has(thread))
  }

  async #startQueue (index: number, queue: QueueSetup): Promise<void> {
    if (this.#medium === undefined) return
    this.#checkQueue(index)
    if (this.#running.has(index)) throw new DataPlaneError('ERR_STATE', `queue ${index} is served already: stop it first`)
    const { memory, kickFd, callFd, errorFd, inflight, log, ...ring } = queue
    if (this.#running.size === 0) this.#medium.beginUse()
    const thread = this.#startThread(index, this.#medium)
    this.#left.delete(index)
    memory.retain()
    try {
      const engine = await this.#forCommand(thread.command('startQueue', { index, memory: memory.toData(), ring, kickFd, callFd, errorFd, inflight, log }))
      this.#running.set(index, { memory, engine, thread })
      if (this.#state !== 'paused') this.#state = 'running'
    } catch (error) {
      memory.release()
      if (this.#running.size === 0) this.#endUse(this.#medium)
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

  // A thread begins with its first queue, or just before, so that it inherits the processors of who starts it.
  #startThread (queue: number, medium: Medium): DataPlaneThread {
    if (this.#diskModule !== undefined) return this.#diskThread
    const index = this.#threadIndex(queue)
    const running = this.#threads.get(index)
    if (running !== undefined) return running
    const thread = this.#launchThread(index, medium)
    this.#threads.set(index, thread)
    return thread
  }

  #launchThread (index: number, medium: Medium): DataPlaneThread {
    const { engine = 'auto', onFault, onDeath } = this.#options
    if (this.#threads.size === 0) this.#trace.write((writer) => writer.start(this.queues))
    return new DataPlaneThread({
      gate: this.#gate.state,
      statistics: this.#statistics.state,
      disk: this.#disk(medium),
      engine,
      diskModule: this.#diskModule,
      trace: this.#trace.ringOf(index)
    }, {
      onFault: (faulty, fault) => onFault?.(faulty, fault),
      onProblem: (failure) => this.#onProblem(failure),
      onDeath: (error) => {
        if (this.#running.size > 0) this.#gate.abandon()
        onDeath?.(error)
      }
    }, this.#launch ?? this.#launcher(index))
  }

  #launcher (index: number): (init: ThreadInit) => Runner {
    const { cpus: perThread = [], pollMaxMicroseconds, iothread } = this.#options
    const cpus = perThread[index]
    if (this.#diskModule !== undefined) return (init) => new DiskThread({ init, cpus })
    const thread = iothread ?? new IoThread({ cpus, pollMaxMicroseconds })
    return (init) => launchOn(thread, init)
  }

  #onProblem ({ message, stack }: DiskFailure): void {
    const cause = stack === undefined ? undefined : Object.assign(new Error(message), { stack })
    this.#options.onProblem?.(new DataPlaneError('ERR_DISK', message, { cause }))
  }

  #disk (medium: Medium): ServedDisk {
    const { serial = '' } = this.#options
    const { sectors, readOnly, writeback, discardSegments } = this.#geometry
    const id = new Uint8Array(VIRTIO_BLK_ID_BYTES)
    id.set(Buffer.from(serial))
    return {
      fd: medium.fd,
      bufferedFd: medium.bufferedFd,
      alignment: medium.alignment,
      writeTurns: this.#writeTurns,
      map: this.#map?.data,
      readOnly,
      id,
      discardSegments,
      sectors,
      writeThrough: !writeback
    }
  }

  async #stopQueue (index: number): Promise<VirtqueueState> {
    if (this.#medium === undefined) return { availableIndex: 0, usedIndex: 0 }
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
    if (this.#running.size === 0 && this.#medium !== undefined) this.#endUse(this.#medium)
    queue.memory.release()
  }

  // What was given up may still be written.
  #endUse (medium: Medium): void {
    if (!this.#imageIsKept) medium.endUse()
  }

  async #stopAll (): Promise<Map<number, VirtqueueState>> {
    const states = new Map<number, VirtqueueState>()
    const stops = await Promise.allSettled([...this.#running.keys()].map(async (index) => states.set(index, await this.#stopQueue(index))))
    for (const stop of stops) if (stop.status === 'rejected') throw stop.reason
    if (this.#diskModule === undefined) await this.#endThreads()
    if (this.#state === 'paused') this.#gate.letGo()
    if (this.#state !== 'created') this.#state = 'stopped'
    return states
  }

  async #endThreads (): Promise<void> {
    if (this.#threads.size === 0) return
    const threads = [...this.#threads.values()]
    this.#threads.clear()
    await Promise.all(threads.map((thread) => thread.exit()))
    this.#trace.end()
    this.#trace.write((writer) => writer.stop())
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

/** What the guest is to know of its disk. */
function measure (medium: Medium | undefined, options: DataPlaneOptions): BlockGeometry {
  const { queues = 1, readOnly = false, writeThrough = false, discardSegments = 1, packed = false, inOrder = false } = options
  const { size = 0, blockSize = SECTOR_BYTES, physicalBlockSize = SECTOR_BYTES, flushes = true, discards = true } = medium ?? {}
  return {
    sectors: size / SECTOR_BYTES,
    readOnly: medium?.readOnly ?? readOnly,
    blockSize,
    physicalBlockSize,
    queues,
    writeback: !writeThrough && flushes,
    discardSegments,
    flushes,
    discards,
    packed,
    inOrder
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
  /** The requests in flight, and who holds new ones out. */
  readonly gate: SharedArrayBuffer
  /** The eventfds that wake the data-plane threads: borrowed. */
  readonly wakeFds: readonly number[]
}

/** A data plane's drain in another thread of its process, from its `drainHandle()`. */
export function attachDrain ({ gate, wakeFds }: DrainHandle): Drainable {
  const wakes = wakeFds.map((fd) => EventNotifier.fromFd(fd))
  return Gate.attach(gate, () => { for (const wake of wakes) wake.notify() })
}
