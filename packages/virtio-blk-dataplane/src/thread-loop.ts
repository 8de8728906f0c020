import { EventNotifier, EventPoll, type EventSource } from '@node-vmm/event-poll'
import { DirtyLog, GuestMemory } from '@node-vmm/hostmem'
import { setAffinity, watchReadable } from '@node-vmm/libc'
import {
  hasFeature, InflightRecord, PackedVring, SplitVring, VIRTIO_F_RING_PACKED, type Virtqueue, type VringFault
} from '@node-vmm/vring'
import { VIRTIO_BLK_F_FLUSH } from '@node-vmm/virtio-blk'
import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import { receiveMessageOnPort } from 'node:worker_threads'
import { AdaptivePolling } from './adaptive-polling.ts'
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
import type { TraceEvent, Tracer } from './trace.ts'

/** How soon a submission that the kernel refused for want of resources is tried again, in milliseconds. */
const RETRY_MILLISECONDS = 1
/** Looks at the rings between two looks at the clock. */
const LOOKS = 16
/** Times that polling finds something before epoll is asked too. */
const POLLED_MAX = 16

interface ServedQueue {
  readonly queue: BlockQueue
  readonly kickSource: EventSource
  readonly completionSource: EventSource
  readonly error: EventNotifier | undefined
  /** Asks for its requests to end soon, where that can be. */
  readonly abort: (() => void) | undefined
  /** The id of the command that stops it. */
  stopCommand: number | undefined
}

/** The data-plane thread: one loop over kicks, completions and commands. */
export class ThreadLoop {
  readonly #init: ThreadInit
  readonly #engines: EngineMaker | OwnDisk
  readonly #failures = new DiskFailures((failure) => this.#post({ kind: 'problem', failure }))
  readonly #poll = new EventPoll()
  #gate: Gate
  readonly #statistics: StatisticsTable
  readonly #wake: EventNotifier
  readonly #served = new Map<number, ServedQueue>()
  /** The same queues, for loops that run once a wake-up: iterating a map makes objects. */
  #queues: readonly BlockQueue[] = []
  readonly #polling: AdaptivePolling
  #polled = 0
  /** A queue was let go, and what the runtime frees of it not yet. */
  #hasLetGo = false
  #tracer: Tracer | undefined
  #ended = false

  /** @param engines what does the requests: engines for an image, or a disk of the user's own */
  constructor (init: ThreadInit, engines: EngineMaker | OwnDisk) {
    this.#init = init
    this.#engines = engines
    this.#gate = Gate.attach(init.gate)
    this.#statistics = new StatisticsTable(init.statistics)
    this.#polling = new AdaptivePolling(init.pollMaxMicroseconds)
    if (init.cpus !== undefined) setAffinity(init.cpus)
    if (init.trace) this.#setTrace(true)
    this.#wake = EventNotifier.fromFd(init.wakeFd)
    this.#poll.add(this.#wake, () => this.#onWake())
  }

  /**
   * Serves until told to exit, blocking this thread but for a turn of its event loop after each queue that was let go: the
   * runtime frees there what it kept for views of guest memory.
   *
   * @throws what is a fault of this software; nobody waits any more for what is in flight then
   */
  async run (): Promise<void> {
    try {
      while (!this.#ended) {
        this.#turn()
        if (!this.#hasLetGo) continue
        this.#hasLetGo = false
        await eventLoopTurn()
      }
    } catch (error) {
      this.#gate.abandon()
      throw error
    }
    this.#poll.close()
    this.#init.port.close()
  }

  /**
   * Serves until told to exit, from this thread's own event loop: beside promises and timers, which a disk of the user's
   * own may need. @throws as `run`
   */
  async serve (): Promise<void> {
    try {
      await this.#serveFromNode()
    } catch (error) {
      this.#gate.abandon()
      throw error
    } finally {
      this.#poll.close()
      this.#init.port.close()
    }
  }

  #serveFromNode (): Promise<void> {
    return new Promise((resolve, reject) => {
      let next: NodeJS.Immediate | undefined
      const end = (settle: () => void): void => {
        watch.close()
        clearImmediate(next)
        settle()
      }
      const turn = (): void => {
        try {
          this.#poll.poll(0)
          if (this.#ended) end(resolve)
          // Others have their turn before the guest has its next.
          else if (!this.#armAll()) next = setImmediate(turn)
        } catch (error) {
          end(() => reject(error as Error))
        }
      }
      const watch = watchReadable(this.#poll.fd, turn)
    })
  }

  /** One turn of the loop: polls for a while where that pays, else sleeps until something happens. */
  #turn (): void {
    if (this.#polling.isWorthIt && this.#pollQueues()) return
    if (!this.#armAll()) {
      this.#poll.poll(0)
    } else if (this.#retryStalled()) {
      this.#poll.poll(RETRY_MILLISECONDS)
    } else {
      this.#polling.beforeSleep()
      this.#poll.poll(-1)
      this.#polling.afterSleep()
    }
  }

  /** Looks at the rings instead of sleeping. @returns whether there was something to do */
  #pollQueues (): boolean {
    this.#polling.begin()
    do {
      for (let looks = 0; looks < LOOKS; looks++) {
        if (this.#serveBusy()) return true
      }
    } while (this.#polling.goesOn())
    return false
  }

  #serveBusy (): boolean {
    let found = false
    for (let index = 0; index < this.#queues.length; index++) {
      const queue = this.#queues[index]!
      if (!queue.isBusy) continue
      found = true
      if (queue.ioq.hasCompletions) this.#onCompletion(queue.index)
      else if (!queue.serve()) return false
    }
    // Commands and hang-ups come by epoll only.
    if (found && ++this.#polled % POLLED_MAX === 0) this.#poll.poll(0)
    return found
  }

  /** @returns whether the thread may sleep: every guest will kick */
  #armAll (): boolean {
    let safe = true
    for (let index = 0; index < this.#queues.length; index++) {
      if (!this.#queues[index]!.arm()) safe = false
    }
    return safe
  }

  #retryStalled (): boolean {
    let stalled = false
    for (let index = 0; index < this.#queues.length; index++) {
      const { ioq } = this.#queues[index]!
      if (!ioq.stalled) continue
      ioq.submit()
      stalled ||= ioq.stalled
    }
    return stalled
  }

  #onWake (): void {
    for (;;) {
      const received = receiveMessageOnPort(this.#init.port) as { message: ToThread } | undefined
      if (received === undefined) break
      if (received.message === 'exit') this.#ended = true
      else this.#execute(received.message)
    }
    // A hold was let go, or a queue was started: nobody may ever kick for what is in the rings.
    for (let index = 0; index < this.#queues.length; index++) this.#queues[index]!.serve()
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
    this.#trace({
      name: 'vring_setup',
      queue: index,
      descriptorAddress: ring.descriptorAddress,
      availableAddress: ring.availableAddress,
      usedAddress: ring.usedAddress,
      index: vring.save().availableIndex
    })
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
      tracer: this.#tracer,
      log,
      alwaysWriteThrough: !hasFeature(ring.features, VIRTIO_BLK_F_FLUSH)
    })
    try {
      const kickSource = this.#poll.add(kick, () => queue.onKick())
      const completionSource = this.#poll.add(EventNotifier.fromFd(queue.ioq.completionFd), () => this.#onCompletion(index))
      const abort = engine instanceof DiskEngine ? () => engine.abort() : undefined
      this.#setServed(index, { queue, kickSource, completionSource, error, abort, stopCommand: undefined })
    } catch (error) {
      queue.ioq.close()
      throw error
    }
    return { name: queue.ioq.engine, rejected: queue.ioq.rejected }
  }

  #makeEngine (memory: GuestMemory, depth: number): ReturnType<EngineMaker> {
    if (this.#engines instanceof OwnDisk) return this.#engines.makeEngine(depth, memory, this.#failures)
    const { fd, bufferedFd } = this.#init.disk
    return this.#engines({ fd, bufferedFd, depth })
  }

  #setServed (index: number, served: ServedQueue | undefined): void {
    if (served === undefined) this.#served.delete(index)
    else this.#served.set(index, served)
    this.#queues = Array.from(this.#served.values(), ({ queue }) => queue)
  }

  #onCompletion (index: number): void {
    const served = this.#served.get(index)!
    served.queue.onCompletion()
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
    this.#poll.remove(served.kickSource)
    this.#finishStop(index, served)
  }

  #finishStop (index: number, { queue, completionSource, stopCommand }: ServedQueue): void {
    if (queue.ioq.inFlight > 0) return
    this.#setServed(index, undefined)
    this.#poll.remove(completionSource)
    queue.ioq.close()
    this.#hasLetGo = true
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
      this.#poll.remove(kickSource)
      this.#poll.remove(completionSource)
      this.#setServed(index, undefined)
    }
  }

  #setGate (state: SharedArrayBuffer): void {
    this.#gate = Gate.attach(state)
  }

  #setDisk (state: DiskState): void {
    Object.assign(this.#init.disk, state)
  }

  #setTrace (on: boolean): void {
    if (on === (this.#tracer !== undefined)) return
    this.#tracer = on ? (event) => this.#post({ kind: 'trace', event }) : undefined
    for (const queue of this.#queues) queue.tracer = this.#tracer
  }

  #trace (event: TraceEvent): void {
    this.#tracer?.(event)
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
  if (hasFeature(ring.features, VIRTIO_F_RING_PACKED)) return new PackedVring(memory, ring, { log: dirty })
  const usedAddress = logData?.usedAddress
  return new SplitVring(memory, ring, {
    record: inflight === undefined ? undefined : new InflightRecord(inflight.address, ring.size),
    log: dirty === undefined || usedAddress === undefined ? undefined : { dirty, usedAddress }
  })
}

function plainError (error: Error & { code?: string }): PlainError {
  return { name: error.name, message: error.message, code: error.code }
}
