import {
  close, epollCreate, epollCtl, epollPwait2, epollWait, errno, LinuxError, NativeMemory, platform,
  EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN
} from '@node-vmm/libc'
import { EventPollError } from './errors.ts'
import { EventNotifier } from './notifier.ts'

// Invariants.
// - `data` of an epoll event is the slot of its source (low word) and the generation that the source was added with
//   (high word): an event that was fetched before its source was removed finds another generation and is dropped,
//   also when the slot has a new source by then.
// - A notifier is cleared before its callback runs, so that a notification during the callback makes it readable
//   again.
// - Everything is level-triggered but what is watched by its edges: what a thrown error or the size of a batch left
//   undelivered is reported again by the next wait. An edge that a thrown error left undelivered is asked for again.

/** Events that one wait fetches at most; more are fetched by the next. */
const BATCH = 64
/**
 * Milliseconds that `run()` sleeps at most. A thread inside a system call can be neither terminated nor joined:
 * `process.exit()` and `worker.terminate()` wait for it. Nothing else depends on this wake-up.
 */
const NAP = 1000
const NANOSECONDS = 1e9
const MILLISECONDS = 1e3
/** Of a `struct timespec`: seconds and nanoseconds of 64 bits each. */
const TIMESPEC_BYTES = 16

/** What a source calls when it is ready; `events` are the `EPOLL*` bits that are. */
export type EventCallback = (events: number) => void

/** How a source is watched. */
export interface AddOptions {
  /** `EPOLL*` bits to wait for, level-triggered. @default EPOLLIN */
  readonly events?: number
  /** Clear a notifier before its callback. Means nothing for a bare descriptor. @default true */
  readonly clear?: boolean
  /**
   * Watch the edges of a notifier's eventfd: each notification wakes the poll by itself, so that none has to be cleared, and a
   * wake-up is a system call less. The eventfd stays readable, for others too: clear it once it is removed. One on a pipe or a
   * socket, which would fill up, is watched as usual. @default false
   */
  readonly edges?: boolean
  /**
   * Called once, after the source was removed, when the other side hung up or an error stands on the descriptor and
   * there is nothing left to read. @default nobody is told: the source is removed silently
   */
  readonly onHangup?: () => void
}

/** One watched descriptor, to change or remove it by. */
export interface EventSource {
  /** The descriptor. */
  readonly fd: number
  /** Whether it is still watched: false after `remove()`, a hang-up, or the poll's `close()`. */
  readonly active: boolean
}

class Source implements EventSource {
  readonly owner: EventPoll
  readonly fd: number
  readonly callback: EventCallback
  /** Set when it is to be cleared before the callback. */
  readonly notifier: EventNotifier | undefined
  readonly onHangup: (() => void) | undefined
  /** EPOLLET, or 0. */
  readonly edges: number
  events: number
  slot = -1
  generation = 0

  constructor (owner: EventPoll, fd: number, notifier: EventNotifier | undefined, callback: EventCallback, options: AddOptions) {
    this.owner = owner
    this.fd = fd
    this.callback = callback
    this.edges = options.edges === true && notifier?.isEventfd === true ? EPOLLET : 0
    this.notifier = options.clear === false || this.edges !== 0 ? undefined : notifier
    this.onHangup = options.onHangup
    this.events = options.events ?? EPOLLIN
  }

  get active (): boolean {
    return this.slot >= 0
  }
}

/**
 * An event loop that blocks its own thread: `epoll(7)` over eventfds and other descriptors, with callbacks.
 *
 * One poll belongs to one thread; only {@link EventPoll.stop} reaches it from others. After its sources are added,
 * nothing is allocated while it runs.
 */
export class EventPoll {
  readonly #epoll: number
  readonly #eventWords: number
  readonly #dataWord: number
  /** `BATCH` events as the kernel writes them, then one to hand to `epoll_ctl`, then a time to hand to `epoll_pwait2`. */
  readonly #memory: NativeMemory
  // Their addresses are captured constants: of fields, as arguments, objects would be made at each call.
  /** `epoll_wait`, so many milliseconds. */
  readonly #wait: (timeout: number) => number
  /** `epoll_pwait2`, for the time that stands in memory, `#time` words from its beginning. */
  readonly #waitPrecisely: () => number
  readonly #time: number
  /** This kernel waits for whole milliseconds only. */
  #isCoarse = false
  readonly #stopNotifier = EventNotifier.create()
  readonly #sources: (Source | undefined)[] = []
  readonly #freeSlots: number[] = []
  readonly #closeCallbacks: (() => void)[] = []
  #generation = 0
  #dispatching = false
  #stopping = false
  #closed = false

  /** @throws LinuxError such as EMFILE */
  constructor () {
    const { epollEventBytes, epollDataOffset } = platform()
    this.#eventWords = epollEventBytes / 4
    this.#dataWord = epollDataOffset / 4
    this.#memory = new NativeMemory((BATCH + 1) * epollEventBytes + TIMESPEC_BYTES)
    this.#time = (BATCH + 1) * this.#eventWords
    const epoll = this.#openEpoll()
    this.#epoll = epoll
    const events = this.#memory.address
    const time = events + this.#time * 4
    this.#wait = (timeout) => epollWait(epoll, events, BATCH, timeout)
    this.#waitPrecisely = () => epollPwait2(epoll, events, BATCH, time)
    this.add(this.#stopNotifier, () => { this.#stopping = true })
  }

  #openEpoll (): number {
    try {
      return epollCreate()
    } catch (error) {
      this.#stopNotifier.close()
      this.#memory.close()
      throw error
    }
  }

  /** The epoll instance: readable whenever a source is ready, so that polls nest. */
  get fd (): number {
    return this.#epoll
  }

  /** The eventfd that makes `run()` return: hand this number to other threads, for {@link EventPoll.stop}. */
  get stopFd (): number {
    return this.#stopNotifier.fd
  }

  /** Whether `close()` was called. */
  get closed (): boolean {
    return this.#closed
  }

  /**
   * Watches a descriptor or a notifier until it is removed or hangs up. Neither is owned: remove it, then close it.
   *
   * @throws LinuxError such as EEXIST for a descriptor that is watched already, EPERM for a regular file;
   * EventPollError ERR_EVENT_POLL_CLOSED
   */
  add (source: number | EventNotifier, callback: EventCallback, options: AddOptions = {}): EventSource {
    this.#checkOpen()
    const notifier = typeof source === 'number' ? undefined : source
    const added = new Source(this, typeof source === 'number' ? source : source.fd, notifier, callback, options)
    const slot = this.#freeSlots.pop() ?? this.#sources.length
    this.#generation = (this.#generation + 1) & 0x3fffffff
    try {
      this.#control(EPOLL_CTL_ADD, added, added.events, slot, this.#generation)
    } catch (error) {
      if (slot < this.#sources.length) this.#freeSlots.push(slot)
      throw error
    }
    added.slot = slot
    added.generation = this.#generation
    this.#sources[slot] = added
    return added
  }

  /**
   * Changes the `EPOLL*` bits to wait for; 0 pauses the source, except for hang-ups and errors.
   *
   * @returns false when it is no longer watched (it may have hung up meanwhile).
   * @throws LinuxError; EventPollError ERR_EVENT_POLL_CLOSED, ERR_EVENT_POLL_FOREIGN_SOURCE
   */
  modify (source: EventSource, events: number): boolean {
    this.#checkOpen()
    const changed = this.#own(source)
    if (!changed.active) return false
    this.#control(EPOLL_CTL_MOD, changed, events, changed.slot, changed.generation)
    changed.events = events
    return true
  }

  /**
   * Stops watching: the callback does not run any more, not even for an event that was fetched already. No effect on
   * one that was removed before.
   *
   * @throws EventPollError ERR_EVENT_POLL_FOREIGN_SOURCE
   */
  remove (source: EventSource): void {
    const removed = this.#own(source)
    if (!removed.active) return
    this.#sources[removed.slot] = undefined
    this.#freeSlots.push(removed.slot)
    removed.slot = -1
    try {
      epollCtl(this.#epoll, EPOLL_CTL_DEL, removed.fd, 0)
    } catch (error) {
      // A descriptor that was closed first is out of the interest set already.
      if (!(error instanceof LinuxError) || (error.code !== 'EBADF' && error.code !== 'ENOENT')) throw error
    }
  }

  /**
   * Waits once and runs the callbacks of what is ready.
   *
   * An error thrown by a callback comes out of here with everything in order: that event counts as delivered, the
   * others are delivered by the next call.
   *
   * @param timeout milliseconds to wait at most; 0 only looks, -1 waits for ever. Fractions count, to the nanosecond, and the thread's
   * timer slack comes on top (`setTimerSlack` of `@node-vmm/libc`); before Linux 5.11 they are rounded up.
   * @returns how many callbacks ran: 0 after the time limit, a signal, or a stop.
   * @throws EventPollError ERR_EVENT_POLL_CLOSED, ERR_EVENT_POLL_REENTERED; LinuxError
   */
  poll (timeout: number): number {
    this.#checkOpen()
    if (this.#dispatching) throw new EventPollError('ERR_EVENT_POLL_REENTERED')
    const count = Number.isInteger(timeout) ? this.#wait(timeout) : this.#waitFraction(timeout)
    if (count < 0) {
      if (count === -errno.EINTR) return 0
      throw new LinuxError('epoll_wait', -count)
    }
    this.#dispatching = true
    try {
      return this.#dispatch(count)
    } finally {
      this.#dispatching = false
    }
  }

  /**
   * Polls until stopped. A stop that came before is not lost: it makes the next `run()` return at once.
   *
   * @throws whatever a callback throws; EventPollError ERR_EVENT_POLL_CLOSED, ERR_EVENT_POLL_REENTERED
   */
  run (): void {
    this.#checkOpen()
    if (this.#dispatching) throw new EventPollError('ERR_EVENT_POLL_REENTERED')
    while (!this.#stopping && !this.#closed) this.poll(NAP)
    this.#stopping = false
  }

  /** Makes `run()` return after the callbacks of this turn. From other threads: `EventPoll.stop(stopFd)`. */
  stop (): void {
    this.#stopNotifier.notify()
  }

  /** Makes the `run()` of the poll with this `stopFd` return, from any thread of the process. @throws LinuxError such as EBADF */
  static stop (stopFd: number): void {
    EventNotifier.fromFd(stopFd).notify()
  }

  /** Has a callback run at `close()`, before the descriptors are closed. @throws EventPollError ERR_EVENT_POLL_CLOSED */
  onClose (callback: () => void): void {
    this.#checkOpen()
    this.#closeCallbacks.push(callback)
  }

  /** Removes all sources and closes the epoll instance. The sources' descriptors stay open. No effect when closed. @throws LinuxError */
  close (): void {
    if (this.#closed) return
    this.#closed = true
    for (const callback of this.#closeCallbacks) callback()
    for (const source of this.#sources) {
      if (source !== undefined) source.slot = -1
    }
    this.#sources.length = 0
    close(this.#epoll)
    this.#stopNotifier.close()
    this.#memory.close()
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  #waitFraction (timeout: number): number {
    if (!this.#isCoarse) {
      const { u32 } = this.#memory
      u32[this.#time] = timeout / MILLISECONDS
      u32[this.#time + 2] = timeout * (NANOSECONDS / MILLISECONDS) % NANOSECONDS
      const count = this.#waitPrecisely()
      if (count !== -errno.ENOSYS) return count
      this.#isCoarse = true
    }
    return this.#wait(Math.ceil(timeout))
  }

  #dispatch (count: number): number {
    let ran = 0
    let index = 0
    try {
      for (; index < count && !this.#closed; index++) {
        const source = this.#sourceOf(index)
        if (source !== undefined && this.#deliver(source, this.#memory.u32[index * this.#eventWords]!)) ran++
      }
    } catch (error) {
      this.#rearmEdges(index + 1, count)
      throw error
    }
    return ran
  }

  /** Of an event that was fetched; undefined when that is removed. */
  #sourceOf (index: number): Source | undefined {
    const { u32 } = this.#memory
    const data = index * this.#eventWords + this.#dataWord
    const source = this.#sources[u32[data]!]
    return source?.generation === u32[data + 1] ? source : undefined
  }

  /** The kernel reports an edge once, but looks again when asked to change what it watches. */
  #rearmEdges (from: number, to: number): void {
    for (let index = from; index < to && !this.#closed; index++) {
      const source = this.#sourceOf(index)
      if (source !== undefined && source.edges !== 0) this.#control(EPOLL_CTL_MOD, source, source.events, source.slot, source.generation)
    }
  }

  #deliver (source: Source, ready: number): boolean {
    const { notifier } = source
    const wanted = ready & source.events
    if (wanted !== 0 && (notifier === undefined || (wanted & EPOLLIN) === 0 || notifier.clear())) {
      source.callback(wanted)
      return source.notifier !== this.#stopNotifier
    }
    // These two are reported asked or not, and for ever: a source that stays would make the loop spin.
    if ((ready & (EPOLLHUP | EPOLLERR)) === 0 && notifier?.hungUp !== true) return false
    this.remove(source)
    source.onHangup?.()
    return source.onHangup !== undefined
  }

  #control (operation: number, { fd, edges }: Source, events: number, slot: number, generation: number): void {
    const word = BATCH * this.#eventWords
    const { u32 } = this.#memory
    u32[word] = events === 0 ? 0 : events | edges
    u32[word + this.#dataWord] = slot
    u32[word + this.#dataWord + 1] = generation
    epollCtl(this.#epoll, operation, fd, this.#memory.address + word * 4)
  }

  #own (source: EventSource): Source {
    if (!(source instanceof Source) || source.owner !== this) throw new EventPollError('ERR_EVENT_POLL_FOREIGN_SOURCE')
    return source
  }

  #checkOpen (): void {
    if (this.#closed) throw new EventPollError('ERR_EVENT_POLL_CLOSED')
  }
}
