import { EventPoll } from '@node-vmm/event-poll'
import { setTimerSlack, watchReadable } from '@node-vmm/libc'
import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import { AdaptivePolling } from './adaptive-polling.ts'
import type { BlockQueue } from './block-queue.ts'

/** How soon a submission that the kernel refused for want of resources is tried again, in milliseconds. */
const RETRY_MILLISECONDS = 1
/** How long a nap is, in milliseconds: processors, and hypervisors, wait longer before they go to sleep deeply. */
const NAP = 0.06
/** Naps in place of a sleep, at most: after a millisecond a deep sleep makes little difference, and whether anything comes is not known. */
const NAPS_MAX = 16
/** Times that completions may come while a queue is prepared for a sleep, before others have their turn. */
const ARM_TRIES = 2
/** Looks at the rings between two looks at the clock. */
const LOOKS = 16
/** Times that polling finds something before epoll is asked too. */
const POLLED_MAX = 16

/** A queue that is served. */
export interface ServedQueue {
  readonly queue: BlockQueue
  /** Something of it is complete. */
  readonly onCompletion: () => void
}

/** Who has queues on a thread. */
export interface Member {
  /** Those that are served. */
  readonly served: readonly ServedQueue[]
  /** The thread dies: nobody waits any more for what is in flight. */
  abandon (): void
  /** The thread makes no system call for it any more. */
  markDone (): void
}

/** A thread's loop over the kicks, completions and commands of those who have queues on it, until the last one leaves. */
export class ThreadLoop {
  /** Where its members have their descriptors watched. */
  readonly poll = new EventPoll()
  readonly #polling: AdaptivePolling
  /** How many members there are, and are to come. Who brings it to 0 ends the thread; nobody adds to 0. */
  readonly #count: Int32Array
  readonly #members = new Set<Member>()
  /** What all of them have, for loops that run once a wake-up: iterating a set makes objects. */
  #served: readonly ServedQueue[] = []
  #polled = 0
  /** To be waited for, in the event loop of this thread, before the next turn. */
  #rest: Promise<unknown> | undefined
  #ended = false

  /**
   * @param count one 32-bit word, see `#count`. @default one member
   * @param pollMaxMicroseconds to look at rings before each sleep. @default 0
   */
  constructor (count: Int32Array = Int32Array.of(1), pollMaxMicroseconds = 0) {
    this.#count = count
    this.#polling = new AdaptivePolling(pollMaxMicroseconds)
  }

  /** Has one of those that are counted. */
  add (member: Member): void {
    this.#members.add(member)
  }

  /** One less. @returns whether it was the last one, with which the thread ends */
  remove (member: Member): boolean {
    this.#ended = Atomics.sub(this.#count, 0, 1) === 1
    // The last one is done when its thread is.
    if (!this.#ended) {
      this.#members.delete(member)
      member.markDone()
    }
    this.queuesChanged()
    return this.#ended
  }

  /** Requests of a member that were in flight are complete, so many. */
  complete (requests: number): void {
    this.#polling.complete(requests)
  }

  /** A member has a queue more, or one less. */
  queuesChanged (): void {
    this.#served = Array.from(this.#members).flatMap(({ served }) => served)
  }

  /** Waits for this before the next turn, in the event loop of the thread; by itself a turn of that. */
  rest (until: Promise<unknown> = eventLoopTurn()): void {
    this.#rest = this.#rest === undefined ? until : Promise.all([this.#rest, until])
  }

  /** Serves until the last member leaves, blocking this thread but for rests. @throws what is a fault of this software; nobody waits any more for what is in flight then */
  async run (): Promise<void> {
    sharpenTimers()
    await this.#toTheEnd(async () => {
      while (!this.#ended) {
        this.#turn()
        if (this.#rest === undefined) continue
        const rest = this.#rest
        this.#rest = undefined
        await rest
      }
    })
  }

  /**
   * Serves until the last member leaves, from this thread's own event loop: beside promises and timers, which a disk of
   * the user's own may need. @throws as `run`
   */
  async serve (): Promise<void> {
    await this.#toTheEnd(() => this.#serveFromNode())
  }

  async #toTheEnd (serve: () => Promise<void>): Promise<void> {
    try {
      await serve()
    } catch (error) {
      for (const member of this.#members) member.abandon()
      throw error
    } finally {
      this.poll.close()
      for (const member of this.#members) member.markDone()
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
          this.poll.poll(0)
          if (this.#ended) end(resolve)
          // Others have their turn before the guest has its next.
          else if (!this.#armAll()) next = setImmediate(turn)
        } catch (error) {
          end(() => reject(error as Error))
        }
      }
      const watch = watchReadable(this.poll.fd, turn)
    })
  }

  /** One turn of the loop: polls for a while where that pays, else sleeps until something happens. */
  #turn (): void {
    const inFlight = this.#inFlight()
    if (this.#polling.isWorthIt(inFlight) && this.#pollQueues()) return
    if (!this.#armAll()) {
      this.poll.poll(0)
    } else if (this.#retryStalled()) {
      this.poll.poll(RETRY_MILLISECONDS)
    } else {
      this.#polling.beforeSleep()
      this.#sleep(inFlight > 0)
      this.#polling.afterSleep(inFlight > 0)
    }
  }

  /** Sleeps until something happens. */
  #sleep (waitsForDisks: boolean): void {
    const naps = waitsForDisks && this.#polling.naps ? NAPS_MAX : 0
    for (let nap = 0; nap < naps; nap++) if (this.poll.poll(NAP) > 0) return
    if (this.poll.poll(-1) > 0) return
    // A signal. io_uring sends one for completions, and has announced them by now.
    for (let index = 0; index < this.#served.length; index++) this.#served[index]!.queue.ioq.disableNotification()
    this.poll.poll(0)
  }

  /** How many requests disks have. */
  #inFlight (): number {
    let sum = 0
    for (let index = 0; index < this.#served.length; index++) sum += this.#served[index]!.queue.ioq.inFlight
    return sum
  }

  /** Looks at the rings instead of sleeping. @returns whether there was something to do */
  #pollQueues (): boolean {
    const found = this.#lookForWork()
    this.#polling.end(found)
    return found
  }

  #lookForWork (): boolean {
    for (let index = 0; index < this.#served.length; index++) this.#served[index]!.queue.disarm()
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
    for (let index = 0; index < this.#served.length; index++) {
      const { queue, onCompletion } = this.#served[index]!
      if (!queue.isBusy) continue
      found = true
      if (queue.ioq.hasCompletions) onCompletion()
      else if (!queue.serve()) return false
    }
    // Commands and hang-ups come by epoll only.
    if (found && ++this.#polled % POLLED_MAX === 0) this.poll.poll(0)
    return found
  }

  /** @returns whether the thread may sleep: every guest will kick, and every completion is announced */
  #armAll (): boolean {
    let safe = true
    for (let index = 0; index < this.#served.length; index++) {
      if (!this.#arm(this.#served[index]!)) safe = false
    }
    return safe
  }

  #arm ({ queue, onCompletion }: ServedQueue): boolean {
    for (let tries = 0; tries < ARM_TRIES; tries++) {
      if (!queue.arm()) return false
      if (queue.ioq.enableNotification() === 'empty') return true
      onCompletion()
    }
    return false
  }

  #retryStalled (): boolean {
    let stalled = false
    for (let index = 0; index < this.#served.length; index++) {
      const { ioq } = this.#served[index]!.queue
      if (!ioq.stalled) continue
      ioq.submit()
      stalled ||= ioq.stalled
    }
    return stalled
  }
}

/** Without it naps are nearly twice as long. */
function sharpenTimers (): void {
  try {
    setTimerSlack(1)
  } catch {
    // A filter of system calls may forbid it.
  }
}
