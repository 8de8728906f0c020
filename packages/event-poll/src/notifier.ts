import { close, errno, eventfd, fileStatus, NativeMemory, read, setNonBlocking, write } from '@node-vmm/libc'

/** Bytes of an eventfd's counter: what one notification writes. */
const COUNTER_BYTES = 8
/** Bytes taken from a pipe at once. */
const READ_BYTES = 512
/** Reads in one `clear()` at most, the capacity of a pipe: a peer that never stops writing must not hold this thread. */
const READS_MAX = 128

// Constant native memory of this thread: the counter 1 to write, then the bytes that reads throw away.
let one = 0
let waste = 0

function makeScratch (): void {
  const scratch = new NativeMemory(COUNTER_BYTES + READ_BYTES)
  scratch.setUint64(0, 1)
  one = scratch.address
  waste = scratch.address + COUNTER_BYTES
}

/** How the descriptor of an {@link EventNotifier} is treated. */
export interface FromFdOptions {
  /** `close()` closes the descriptor too. @default false */
  readonly owned?: boolean
}

/**
 * Wakes another thread, process or virtual processor, and is woken by it: an eventfd, or a pipe or socket that stands
 * in for one. Any number of notifications before a `clear()` count as one. See `eventfd(2)`.
 *
 * No method blocks, and none but `create`, `fromFd` and `close` throws or allocates.
 */
export class EventNotifier {
  #fd: number
  readonly #owned: boolean
  #hungUp = false

  private constructor (fd: number, owned: boolean) {
    if (one === 0) makeScratch()
    this.#fd = fd
    this.#owned = owned
  }

  /** A notifier on a new eventfd of its own. @throws LinuxError such as EMFILE */
  static create (): EventNotifier {
    return new EventNotifier(eventfd(), true)
  }

  /**
   * A notifier on a descriptor that is there already. It is made non-blocking, for everyone who shares the open file.
   *
   * @throws LinuxError such as EBADF
   */
  static fromFd (fd: number, options: FromFdOptions = {}): EventNotifier {
    setNonBlocking(fd)
    return new EventNotifier(fd, options.owned ?? false)
  }

  /** The file descriptor, a plain number that is valid in every thread of the process; -1 once closed. */
  get fd (): number {
    return this.#fd
  }

  /** Whether it is on an eventfd (or another descriptor that is the kernel's own), not on a pipe or a socket. */
  get isEventfd (): boolean {
    return this.#fd !== -1 && fileStatus(this.#fd).kind === 'anonymous'
  }

  /** A `clear()` met the end of the stream or an error: no notification will come any more. Never true for an eventfd. */
  get hungUp (): boolean {
    return this.#hungUp
  }

  /**
   * Makes the descriptor readable at the other side. One that is full is readable already, so that counts as done.
   *
   * @returns false when nobody can be woken: the other side is gone, or this one is closed.
   */
  notify (): boolean {
    for (;;) {
      const result = write(this.#fd, one, COUNTER_BYTES)
      if (result >= 0 || result === -errno.EAGAIN) return true
      if (result !== -errno.EINTR) return false
    }
  }

  /** Tests and clears: takes all notifications that are there, without waiting. @returns whether there was one. */
  clear (): boolean {
    let signalled = false
    for (let reads = 0; reads < READS_MAX; reads++) {
      const result = read(this.#fd, waste, READ_BYTES)
      if (result === -errno.EINTR) continue
      if (result > 0) signalled = true
      else if (result !== -errno.EAGAIN) this.#hungUp = true
      // Less than was asked for is all there is: an eventfd gives its 8 bytes once.
      if (result < READ_BYTES) break
    }
    return signalled
  }

  /** Closes the descriptor if it is owned. No effect when closed. @throws LinuxError */
  close (): void {
    const fd = this.#fd
    if (fd === -1) return
    this.#fd = -1
    if (this.#owned) close(fd)
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }
}
