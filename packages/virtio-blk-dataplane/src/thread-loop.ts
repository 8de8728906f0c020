import { EventNotifier, EventPoll, type EventSource } from '@node-vmm/event-poll'
import { GuestMemory } from '@node-vmm/hostmem'
import { setAffinity } from '@node-vmm/libc'
import { SplitVring, type VringFault } from '@node-vmm/vring'
import { receiveMessageOnPort } from 'node:worker_threads'
import { BlockQueue } from './block-queue.ts'
import type { EngineMaker, EngineReport } from './engine.ts'
import { DataPlaneError } from './errors.ts'
import { Gate } from './gate.ts'
import type { CommandMessage, QueueData, ThreadInit, FromThread, ToThread } from './messages.ts'
import { StatisticsTable } from './statistics.ts'
import type { TraceEvent, Tracer } from './trace.ts'

/** How soon a submission that the kernel refused for want of resources is tried again, in milliseconds. */
const RETRY_MILLISECONDS = 1

interface ServedQueue {
  readonly queue: BlockQueue
  readonly kick: EventNotifier
  readonly kickSource: EventSource
  readonly completionSource: EventSource
  readonly error: EventNotifier | undefined
  /** The id of the command that stops it. */
  stopCommand: number | undefined
}

/** The data-plane thread: one blocking loop over kicks, completions and commands. */
export class ThreadLoop {
  readonly #init: ThreadInit
  readonly #makeEngine: EngineMaker
  readonly #poll = new EventPoll()
  readonly #gate: Gate
  readonly #statistics: StatisticsTable
  readonly #served = new Map<number, ServedQueue>()
  #tracer: Tracer | undefined
  #ended = false

  constructor (init: ThreadInit, makeEngine: EngineMaker) {
    this.#init = init
    this.#makeEngine = makeEngine
    this.#gate = Gate.attach(init.gate)
    this.#statistics = new StatisticsTable(init.statistics)
    if (init.cpus !== undefined) setAffinity(init.cpus)
    if (init.trace) this.#setTrace(true)
    this.#poll.add(EventNotifier.fromFd(init.wakeFd), () => this.#onWake())
  }

  /** Serves until told to exit. */
  run (): void {
    while (!this.#ended) this.#poll.poll(this.#retryStalled() ? RETRY_MILLISECONDS : -1)
    this.#poll.close()
    this.#init.port.close()
  }

  #retryStalled (): boolean {
    let stalled = false
    for (const { queue } of this.#served.values()) {
      if (!queue.ioq.stalled) continue
      queue.ioq.submit()
      stalled ||= queue.ioq.stalled
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
    // A hold was let go, or a batch was cut short: kicks for what is in the rings were taken long ago.
    for (const { queue } of this.#served.values()) queue.serve()
  }

  #execute (command: CommandMessage): void {
    try {
      switch (command.name) {
        case 'startQueue': return this.#answer(command.id, this.#startQueue(command.argument))
        case 'stopQueue': return this.#stopQueue(command.argument, command.id)
        case 'setCall': return this.#answer(command.id, this.#setCall(command.argument.index, command.argument.callFd))
        case 'setTrace': return this.#answer(command.id, this.#setTrace(command.argument))
      }
    } catch (error) {
      this.#post({ kind: 'failure', id: command.id, error })
    }
  }

  #startQueue ({ index, memory: data, ring, kickFd, callFd, errorFd }: QueueData): EngineReport {
    const memory = GuestMemory.attach(data)
    const vring = new SplitVring(memory, ring)
    this.#trace({
      name: 'vring_setup',
      queue: index,
      descriptorAddress: ring.descriptorAddress,
      availableAddress: ring.availableAddress,
      usedAddress: ring.usedAddress,
      index: vring.save().availableIndex
    })
    const queue = new BlockQueue({
      index,
      memory,
      vring,
      disk: this.#init.disk,
      engine: this.#makeEngine({ fd: this.#init.disk.fd, depth: ring.size }),
      gate: this.#gate,
      counters: this.#statistics.counters(index),
      call: callFd === undefined ? undefined : EventNotifier.fromFd(callFd),
      onFault: (fault) => this.#onFault(index, fault),
      onYield: () => EventNotifier.fromFd(this.#init.wakeFd).notify(),
      tracer: this.#tracer
    })
    const kick = EventNotifier.fromFd(kickFd)
    this.#served.set(index, {
      queue,
      kick,
      kickSource: this.#poll.add(kick, () => queue.onKick()),
      completionSource: this.#poll.add(EventNotifier.fromFd(queue.ioq.completionFd), () => this.#onCompletion(index)),
      error: errorFd === undefined ? undefined : EventNotifier.fromFd(errorFd),
      stopCommand: undefined
    })
    // For what the guest made available before anybody listened.
    kick.notify()
    return { name: queue.ioq.engine, rejected: queue.ioq.rejected }
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
    this.#served.delete(index)
    this.#poll.remove(completionSource)
    queue.ioq.close()
    this.#answer(stopCommand!, queue.vring.save())
  }

  #setCall (index: number, callFd: number | undefined): void {
    const served = this.#served.get(index)
    if (served === undefined) throw new DataPlaneError('ERR_STATE', `queue ${index} is not running`)
    served.queue.call = callFd === undefined ? undefined : EventNotifier.fromFd(callFd)
  }

  #setTrace (on: boolean): void {
    if (on === (this.#tracer !== undefined)) return
    this.#tracer = on ? (event) => this.#post({ kind: 'trace', event }) : undefined
    for (const { queue } of this.#served.values()) queue.tracer = this.#tracer
  }

  #trace (event: TraceEvent): void {
    this.#tracer?.(event)
  }

  #answer (id: number, value: unknown): void {
    this.#post({ kind: 'answer', id, value })
  }

  #post (message: FromThread): void {
    this.#init.port.postMessage(message)
  }
}
