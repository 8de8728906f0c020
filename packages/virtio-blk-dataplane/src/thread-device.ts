import { EventNotifier, type EventSource } from '@node-vmm/event-poll'
import { DirtyLog, GuestMemory } from '@node-vmm/hostmem'
import {
  hasFeature, InflightRecord, PackedInflightRecord, PackedVring, SplitVring, VIRTIO_F_RING_PACKED, type Virtqueue, type VringFault
} from '@node-vmm/vring'
import { VIRTIO_BLK_F_FLUSH } from '@node-vmm/virtio-blk'
import { receiveMessageOnPort } from 'node:worker_threads'
import { BlockQueue } from './block-queue.ts'
import { DiskEngine } from './disk-engine.ts'
import { DiskFailures } from './disk-failures.ts'
import type { DiskState } from './disk.ts'
import type { EngineMaker, EngineReport } from './engine.ts'
import { DataPlaneError } from './errors.ts'
import { Gate } from './gate.ts'
import type { CommandMessage, PlainError, QueueData, ThreadInit, FromThread, ToThread } from './messages.ts'
import { type DiskControl, OwnDisk } from './own-disk.ts'
import { StatisticsTable } from './statistics.ts'
import type { Member, ServedQueue, ThreadLoop } from './thread-loop.ts'
import { TraceWriter } from './trace-ring.ts'

interface DeviceQueue extends ServedQueue {
  readonly kick: EventNotifier
  readonly kickSource: EventSource
  readonly completionSource: EventSource
  readonly error: EventNotifier | undefined
  /** Asks for its requests to end soon, where that can be. */
  readonly abort: (() => void) | undefined
  /** The id of the command that stops it. */
  stopCommand: number | undefined
}

/** A device on its data-plane thread: its queues, and what it is told to do with them. */
export class ThreadDevice implements Member {
  readonly #init: ThreadInit
  readonly #loop: ThreadLoop
  /** What does the requests: engines for an image, or a disk of the user's own. */
  #engines: EngineMaker | OwnDisk | undefined
  readonly #failures = new DiskFailures((failure) => this.#post({ kind: 'problem', failure }))
  #gate: Gate
  readonly #statistics: StatisticsTable
  #wakeSource: EventSource | undefined
  readonly #served = new Map<number, DeviceQueue>()
  /**
   * The queue that ended last. With the last object of a class V8 collects its shape (hidden class) and discards all code
   * compiled for it; what it compiles for the next guest then is slower for good, at times: twice the processor time a request.
   */
  readonly #last: BlockQueue[] = []
  #trace: TraceWriter | undefined

  /** Joins a loop, and does nothing yet. */
  constructor (init: ThreadInit, loop: ThreadLoop) {
    this.#init = init
    this.#loop = loop
    this.#gate = Gate.attach(init.gate)
    this.#statistics = new StatisticsTable(init.statistics)
    this.#setTrace(init.trace)
    loop.add(this)
  }

  get served (): readonly ServedQueue[] {
    return [...this.#served.values()]
  }

  /** Does what it is told from now on. */
  begin (engines: EngineMaker | OwnDisk): void {
    this.#engines = engines
    this.#wakeSource = this.#loop.poll.add(EventNotifier.fromFd(this.#init.wakeFd), () => this.#onWake())
  }

  /** Leaves its thread, for it cannot begin. */
  fail (error: unknown): void {
    this.abandon()
    this.#post({ kind: 'death', error: plainError(error as Error) })
    this.#leave()
  }

  abandon (): void {
    this.#gate.abandon()
  }

  markDone (): void {
    const done = new Int32Array(this.#init.done)
    Atomics.store(done, 0, 1)
    Atomics.notify(done, 0)
  }

  #onWake (): void {
    for (;;) {
      const received = receiveMessageOnPort(this.#init.port) as { message: ToThread } | undefined
      if (received === undefined) break
      if (received.message === 'exit') return this.#leave()
      this.#execute(received.message)
    }
    // A hold was let go, or a queue was started: nobody may ever kick for what is in the rings.
    for (const { queue } of this.#served.values()) queue.serve()
  }

  #leave (): void {
    if (this.#wakeSource !== undefined) this.#loop.poll.remove(this.#wakeSource)
    this.#post({ kind: 'left', isLast: this.#loop.remove(this) })
    this.#init.port.close()
  }

  #execute (command: CommandMessage): void {
    try {
      switch (command.name) {
        case 'startQueue': return this.#answer(command.id, this.#startQueue(command.argument))
        case 'stopQueue': return this.#stopQueue(command.argument, command.id)
        case 'setCall': return this.#answer(command.id, this.#setCall(command.argument.index, command.argument.callFd))
        case 'setDisk': return this.#answer(command.id, this.#setDisk(command.argument))
        case 'setTrace': return this.#answer(command.id, this.#setTrace(command.argument))
        case 'callDisk': return void this.#callDisk(command.id, command.argument)
        case 'abort': return this.#answer(command.id, this.#abort())
        case 'giveUp': return this.#answer(command.id, this.#giveUp())
        case 'setGate': return this.#answer(command.id, this.#setGate(command.argument))
      }
    } catch (error) {
      this.#fail(command.id, error)
    }
  }

  #startQueue (data: QueueData): EngineReport {
    const { index, ring, kickFd, callFd, errorFd } = data
    // Who asked for it does not wait any more, and may have unmapped the memory.
    if (this.#gate.isGivenUp) throw new DataPlaneError('ERR_ABANDONED', `queue ${index} was given up before it started`)
    const memory = GuestMemory.attach(data.memory)
    const log = data.log === undefined ? undefined : new DirtyLog(data.log.address, data.log.length)
    const vring = openVring(memory, data, log)
    this.#trace?.vringSetup(index, ring.descriptorAddress, ring.availableAddress, ring.usedAddress, vring.save().availableIndex)
    const kick = EventNotifier.fromFd(kickFd)
    const call = callFd === undefined ? undefined : EventNotifier.fromFd(callFd)
    const error = errorFd === undefined ? undefined : EventNotifier.fromFd(errorFd)
    const engine = this.#makeEngine(memory, ring.size)
    const queue = new BlockQueue({
      index,
      memory,
      vring,
      disk: this.#init.disk,
      engine,
      gate: this.#gate,
      counters: this.#statistics.counters(index),
      call,
      onFault: (fault) => this.#onFault(index, fault),
      trace: this.#trace,
      log,
      alwaysWriteThrough: !hasFeature(ring.features, VIRTIO_BLK_F_FLUSH)
    })
    const onCompletion = (): void => this.#onCompletion(index)
    const sources = this.#watch(queue, kick, onCompletion)
    const abort = engine instanceof DiskEngine ? () => engine.abort() : undefined
    this.#setServed(index, { kick, queue, onCompletion, ...sources, error, abort, stopCommand: undefined })
    // Whoever kept the record before may have been killed between showing the guest a completion and interrupting it.
    if (data.inflight !== undefined) call?.notify()
    return { name: queue.ioq.engine, rejected: queue.ioq.rejected }
  }

  /** Watches what wakes a queue, all of it or nothing: where that fails, the queue is closed. */
  #watch (queue: BlockQueue, kick: EventNotifier, onCompletion: () => void): Pick<DeviceQueue, 'kickSource' | 'completionSource'> {
    const { poll } = this.#loop
    let kickSource: EventSource | undefined
    try {
      kickSource = poll.add(kick, () => queue.onKick(), { edges: true })
      return { kickSource, completionSource: poll.add(EventNotifier.fromFd(queue.ioq.completionFd), onCompletion, { edges: true }) }
    } catch (error) {
      if (kickSource !== undefined) poll.remove(kickSource)
      queue.ioq.close()
      throw error
    }
  }

  #makeEngine (memory: GuestMemory, depth: number): ReturnType<EngineMaker> {
    if (this.#engines instanceof OwnDisk) return this.#engines.makeEngine(depth, memory, this.#failures)
    const { fd, bufferedFd } = this.#init.disk
    return this.#engines!({ fd, bufferedFd, depth })
  }

  #setServed (index: number, served: DeviceQueue | undefined): void {
    if (served === undefined) this.#served.delete(index)
    else this.#served.set(index, served)
    this.#loop.queuesChanged()
  }

  #onCompletion (index: number): void {
    const served = this.#served.get(index)!
    const completed = served.queue.onCompletion()
    if (completed > 0) this.#loop.complete(completed)
    if (served.stopCommand !== undefined) this.#finishStop(index, served)
  }

  #onFault (index: number, fault: VringFault): void {
    this.#served.get(index)?.error?.notify()
    this.#post({ kind: 'fault', queue: index, fault })
  }

  #stopQueue (index: number, command: number): void {
    const served = this.#served.get(index)
    if (served === undefined || served.stopCommand !== undefined) throw new DataPlaneError('ERR_STATE', `queue ${index} is not running`)
    served.queue.stopping = true
    served.stopCommand = command
    this.#loop.poll.remove(served.kickSource)
    // Whoever has the ring next finds the kicks that nobody has answered, and no others.
    served.kick.clear()
    if (served.queue.vring.fault === undefined && served.queue.vring.moreAvailable()) served.kick.notify()
    this.#finishStop(index, served)
  }

  #finishStop (index: number, { queue, completionSource, stopCommand }: DeviceQueue): void {
    if (queue.ioq.inFlight > 0) return
    this.#setServed(index, undefined)
    this.#loop.poll.remove(completionSource)
    queue.ioq.close()
    this.#last[0] = queue
    // What the runtime kept for views of guest memory it frees in the thread's event loop.
    this.#loop.rest()
    this.#answer(stopCommand!, queue.vring.save())
  }

  #setCall (index: number, callFd: number | undefined): void {
    const served = this.#served.get(index)
    if (served === undefined) throw new DataPlaneError('ERR_STATE', `queue ${index} is not running`)
    served.queue.call = callFd === undefined ? undefined : EventNotifier.fromFd(callFd)
  }

  async #callDisk (id: number, name: keyof DiskControl): Promise<void> {
    try {
      this.#answer(id, await (this.#engines as OwnDisk)[name]())
    } catch (error) {
      this.#fail(id, error)
    }
  }

  #abort (): void {
    for (const { stopCommand, abort } of this.#served.values()) if (stopCommand !== undefined) abort?.()
  }

  // Whoever stops them does not wait any more; what still comes of their requests is told to nobody.
  #giveUp (): void {
    for (const [index, { kickSource, completionSource, abort }] of [...this.#served]) {
      abort?.()
      this.#loop.poll.remove(kickSource)
      this.#loop.poll.remove(completionSource)
      this.#setServed(index, undefined)
    }
  }

  #setGate (state: SharedArrayBuffer): void {
    this.#gate = Gate.attach(state)
  }

  #setDisk (state: DiskState): void {
    Object.assign(this.#init.disk, state)
  }

  #setTrace (ring: SharedArrayBuffer | undefined): void {
    this.#trace = ring && new TraceWriter(ring)
    for (const { queue } of this.#served.values()) queue.trace = this.#trace
  }

  #answer (id: number, value: unknown): void {
    this.#post({ kind: 'answer', id, value })
  }

  #fail (id: number, error: unknown): void {
    this.#post({ kind: 'failure', id, error: plainError(error as Error) })
  }

  #post (message: FromThread): void {
    this.#init.port.postMessage(message)
  }
}

function openVring (memory: GuestMemory, { ring, inflight, log: logData }: QueueData, dirty: DirtyLog | undefined): Virtqueue {
  if (hasFeature(ring.features, VIRTIO_F_RING_PACKED)) {
    return new PackedVring(memory, ring, {
      record: inflight === undefined ? undefined : new PackedInflightRecord(inflight.address, ring.size),
      log: dirty
    })
  }
  const usedAddress = logData?.usedAddress
  return new SplitVring(memory, ring, {
    record: inflight === undefined ? undefined : new InflightRecord(inflight.address, ring.size),
    log: dirty === undefined || usedAddress === undefined ? undefined : { dirty, usedAddress }
  })
}

function plainError (error: Error & { code?: string }): PlainError {
  return { name: error.name, message: error.message, code: error.code }
}
