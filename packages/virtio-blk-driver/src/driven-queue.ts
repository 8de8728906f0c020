import { watchReadable, type Watch } from '@node-vmm/libc'
import { NOTHING_USED } from '@node-vmm/vring/driver'
import { BlockDriverError } from './errors.ts'
import { QUEUE_FULL, Queue, type QueueData } from './queue.ts'
import type { Request } from './block-request.ts'

/** A queue on Node's event loop: requests go in as objects and are told when the disk has done them. */
export class DrivenQueue {
  readonly data: QueueData
  #queue: Queue
  readonly #watch: Watch
  readonly #requests: (Request | undefined)[] = []
  readonly #onProgress: (failure: Error | undefined) => void
  #kickScheduled = false
  #closed = false

  /** @param onProgress called after a batch of completions, with an error when the queue broke */
  constructor (data: QueueData, onProgress: (failure: Error | undefined) => void) {
    this.data = data
    this.#queue = Queue.attach(data)
    this.#onProgress = onProgress
    this.#watch = watchReadable(data.callFd, () => this.collect())
    this.#watch.unref()
  }

  get inFlight (): number {
    return this.#queue.inFlight
  }

  /** Where the ring stands, once nothing is in flight. */
  get index (): number {
    return this.#queue.index
  }

  /** The most bytes of data of one request. */
  get transferMax (): number {
    return this.#queue.transferMax
  }

  /** Hands a request to the disk, with all others of this turn of the event loop. @returns false when the ring is full */
  submit (request: Request): boolean {
    const head = this.#queue.submit(request.type, request.sector, request.address, request.length)
    if (head === QUEUE_FULL) return false
    this.#requests[head] = request
    // Who waits for a disk keeps the process alive; an idle driver does not.
    if (this.#queue.inFlight === 1) this.#watch.ref()
    if (!this.#kickScheduled) {
      this.#kickScheduled = true
      queueMicrotask(() => this.#kick())
    }
    return true
  }

  #kick (): void {
    this.#kickScheduled = false
    if (!this.#closed) this.#queue.kick()
  }

  /** Ends all requests that the disk has done. */
  collect (): void {
    const isSound = this.#finishAll()
    if (this.#queue.inFlight === 0) this.#watch.unref()
    this.#onProgress(isSound ? undefined : new BlockDriverError('ERR_BLOCK_BROKEN', 'the server broke the ring: connect anew'))
  }

  /** @returns false when the ring is broken */
  #finishAll (): boolean {
    // Cleared before the used index is read: what is finished after that wakes again.
    this.#queue.callNotifier.clear()
    let head: number
    do {
      for (head = this.#queue.poll(); head >= 0; head = this.#queue.poll()) this.#finish(head)
    } while (this.#queue.enableInterrupts() === 'more')
    return head === NOTHING_USED
  }

  #finish (head: number): void {
    const request = this.#requests[head]
    this.#requests[head] = undefined
    request?.finish(this.#queue.status)
  }

  /** Begins anew, empty: what the disk has not done by now fails with this error. No device may be using the ring. */
  restart (error: Error): void {
    this.#finishAll()
    this.#queue = Queue.attach(this.data)
    this.#watch.unref()
    this.#fail(error)
    this.#onProgress(undefined)
  }

  /** Lets go of the queue, and of what is in flight, with this error. */
  close (error: Error): void {
    this.#closed = true
    this.#watch.close()
    this.#fail(error)
  }

  #fail (error: Error): void {
    for (const request of this.#requests.splice(0)) request?.fail(error)
  }
}
