import { EventNotifier } from '@node-vmm/event-poll'
import { exitNow } from '@node-vmm/libc'
import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import type { DiskFailure } from './disk-failures.ts'
import { DataPlaneError, type DataPlaneErrorCode } from './errors.ts'
import type { CommandName, Commands, PlainError, ThreadInit, FromThread, ToThread } from './messages.ts'
import { VringError, type VringErrorCode, type VringFault } from '@node-vmm/vring'

/** What happens in the thread by itself. */
export interface ThreadEvents {
  onFault (queue: number, fault: VringFault): void
  /** A disk of the user's own failed. */
  onProblem (failure: DiskFailure): void
  /** The thread died: a fault of this software. */
  onDeath (error: DataPlaneError): void
}

/** What runs the loop: a Worker, which others may use too, or what stands in for one. */
export interface Runner {
  on (event: 'error', listener: (error: Error) => void): unknown
  on (event: 'exit', listener: () => void): unknown
  off (event: 'error', listener: (error: Error) => void): unknown
  off (event: 'exit', listener: () => void): unknown
  /** Nobody waits for it any more: it may be in a system call for ever. */
  abandon (): void
}

interface Pending {
  readonly resolve: (value: any) => void
  readonly reject: (error: unknown) => void
}

/** How long the end of the process waits for its threads, in milliseconds: one may hang in a system call. */
const EXIT_MILLISECONDS = 1000

// A thread inside a system call holds up `process.exit()`, and one that the runtime stops while it enters or leaves a
// system call takes the whole process down with it (a fatal error of Node-API). So every live one ends by itself first.
const live = new Set<DataPlaneThread>()
let exitHooked = false
/** Threads that may never leave a system call: the runtime would wait for them for ever. */
let abandoned = 0

/** A device's data-plane thread as the control plane sees it: commands go in, answers and events come out. */
export class DataPlaneThread {
  /** Adds to this eventfd make the thread look at its commands and its rings. Usable from any thread of the process. */
  readonly wake = EventNotifier.create()
  readonly #runner: Runner
  readonly #port: MessagePort
  readonly #events: ThreadEvents
  readonly #pending = new Map<number, Pending>()
  readonly #ended: Promise<void>
  #end!: () => void
  readonly #onError = (error: Error): void => this.#onDeath(error)
  // Its end may be told before its last messages, which say why.
  readonly #onExit = (): void => {
    for (let last = this.#receive(); last !== undefined; last = this.#receive()) this.#onMessage(last.message)
    this.#onEnd()
  }

  /** See `ThreadInit`. */
  readonly #done = new Int32Array(new SharedArrayBuffer(4))
  #nextId = 0
  #exiting = false
  #abandoned = false
  #death: DataPlaneError | undefined

  /** @param launch makes what runs the loop, or joins it */
  constructor (init: Omit<ThreadInit, 'port' | 'wakeFd' | 'done'>, events: ThreadEvents, launch: (init: ThreadInit) => Runner) {
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    this.#events = events
    this.#runner = launch({ ...init, port: port2, wakeFd: this.wake.fd, done: this.#done.buffer })
    port1.on('message', (message: FromThread) => this.#onMessage(message))
    this.#runner.on('error', this.#onError)
    this.#runner.on('exit', this.#onExit)
    this.#ended = new Promise((resolve) => { this.#end = resolve })
    live.add(this)
    hookExit()
  }

  /** Why the thread ended by itself; undefined while it did not. */
  get death (): DataPlaneError | undefined {
    return this.#death
  }

  /** Whether it owes an answer. */
  get isBusy (): boolean {
    return this.#pending.size > 0
  }

  /** Has the thread do something. @throws what it answers with; DataPlaneError ERR_THREAD when it died */
  command<Name extends CommandName> (name: Name, argument: Commands[Name]['argument']): Promise<Commands[Name]['answer']> {
    if (this.#death !== undefined) return Promise.reject(this.#death)
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      this.#port.postMessage({ id, name, argument } as ToThread)
      this.wake.notify()
    })
  }

  /** Ends the thread, whose queues are stopped, and waits for it; where others use it, for the device to have left it. */
  async exit (): Promise<void> {
    this.tellToExit()
    await this.#ended
    this.wake.close()
  }

  /** The same without waiting. */
  tellToExit (): void {
    this.#exiting = true
    this.#port.postMessage('exit' satisfies ToThread)
    this.wake.notify()
  }

  /**
   * Waits for this thread no longer: it may be in a system call, or have requests that the kernel does not give back. It
   * keeps all that it has, and does not keep the process alive. Whoever waits for an answer gets the error.
   */
  abandon (error: Error): void {
    this.#abandoned = true
    this.rejectAll(error)
    this.#port.unref()
    this.#runner.abandon()
    live.delete(this)
    abandoned++
    // Behind the handlers that others have by now, for no other runs after it.
    process.off('exit', endThreads)
    process.on('exit', endThreads)
  }

  /** Whoever waits for an answer gets the error instead. */
  rejectAll (error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error)
    this.#pending.clear()
  }

  /** Blocks until the thread, told to exit, makes no system call any more, or for `milliseconds`. */
  awaitDone (milliseconds: number): void {
    Atomics.wait(this.#done, 0, 0, Math.max(0, milliseconds))
  }

  #receive (): { message: FromThread } | undefined {
    return receiveMessageOnPort(this.#port)
  }

  #onMessage (message: FromThread): void {
    switch (message.kind) {
      case 'answer': return this.#take(message.id)?.resolve(message.value)
      case 'failure': return this.#take(message.id)?.reject(asError(message.error))
      case 'fault': return this.#abandoned ? undefined : this.#events.onFault(message.queue, message.fault)
      case 'problem': return this.#events.onProblem(message.failure)
      case 'death': return this.#onDeath(asError(message.error))
      // With the last one the thread ends, which is told by itself.
      case 'left': return message.isLast ? undefined : this.#onEnd()
    }
  }

  #take (id: number): Pending | undefined {
    const pending = this.#pending.get(id)
    this.#pending.delete(id)
    return pending
  }

  #onDeath (cause: Error): void {
    if (this.#death !== undefined || this.#abandoned) return
    this.#death = new DataPlaneError('ERR_THREAD', `the data-plane thread died: ${cause.message}`)
    this.#death.cause = cause
    this.rejectAll(this.#death)
    this.#events.onDeath(this.#death)
  }

  #onEnd (): void {
    if (!this.#exiting) this.#onDeath(new Error('it ended without being told to'))
    this.#runner.off('error', this.#onError)
    this.#runner.off('exit', this.#onExit)
    live.delete(this)
    this.#port.close()
    this.#end()
  }
}

/** The error of the other thread, of its class where callers may want to know it. */
function asError ({ name, message, code }: PlainError): Error {
  if (name === VringError.name) return new VringError(code as VringErrorCode, message)
  if (name === DataPlaneError.name) return new DataPlaneError(code as DataPlaneErrorCode, message)
  return Object.assign(new Error(message), { name, code })
}

function hookExit (): void {
  if (exitHooked) return
  exitHooked = true
  process.on('exit', endThreads)
}

function endThreads (status: number): void {
  const end = Date.now() + EXIT_MILLISECONDS
  for (const thread of live) thread.tellToExit()
  for (const thread of live) thread.awaitDone(end - Date.now())
  if (abandoned > 0) exitNow(status)
}
