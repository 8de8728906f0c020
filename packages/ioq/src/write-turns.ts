// Words of the shared memory.
/** Writes under way: direct ones counted up, buffered ones counted down. */
const RUNNING = 0
/** How many queues have a direct, or a buffered, write waiting. */
const DIRECT_WAITING = 1
const BUFFERED_WAITING = 2
const BYTES = 12

/**
 * Keeps writes with O_DIRECT and writes through the page cache of one file apart in time, for all its queues, in
 * whatever threads. Nobody waits in here: who cannot go tries again.
 *
 * Why: Linux keeps the two coherent one after the other, not at the same time. Before a direct write it writes back and
 * drops the cached pages of the range, before a direct read it writes them back, and after a direct write it drops them
 * again (`kiocb_invalidate_pages`, `kiocb_write_and_wait` and `kiocb_invalidate_post_direct_write` in the kernel's
 * `mm/filemap.c`). A buffered write in between makes a page dirty that may hold neighbouring sectors from before the
 * direct write: writing it back later undoes that write, and where the kernel notices, the next fsync fails with EIO
 * (Linux commit 5a9d929d6e13, 'iomap: report collisions between directio and buffered writes to userspace'). Since
 * folios may have megabytes, ranges that do not overlap are no safety. The NOTES of `open(2)` therefore advise against
 * mixing both; taking turns is what makes it sound.
 *
 * Reads need no turn: a page that is read while the write is under way is clean, so the kernel can drop it after.
 */
export class WriteTurns {
  readonly #words: Int32Array
  #waitingFor = 0

  /** Memory for the turns of one file, to be shared by its queues. */
  static allocate (): SharedArrayBuffer {
    return new SharedArrayBuffer(BYTES)
  }

  /** @param buffer of {@link WriteTurns.allocate}, the same one for all queues of the file. */
  constructor (buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer)
  }

  /** @returns whether a write may start; if so, it `leave`s when it has completed. */
  enter (buffered: boolean): boolean {
    const step = buffered ? -1 : 1
    for (;;) {
      const running = Atomics.load(this.#words, RUNNING)
      if (!this.#mayJoin(running, step)) {
        this.#waitFor(buffered ? BUFFERED_WAITING : DIRECT_WAITING)
        return false
      }
      if (Atomics.compareExchange(this.#words, RUNNING, running, running + step) === running) break
    }
    this.stopWaiting()
    return true
  }

  /** A write that `enter` let start has completed. */
  leave (buffered: boolean): void {
    Atomics.add(this.#words, RUNNING, buffered ? 1 : -1)
  }

  /** This queue has nothing waiting any more. */
  stopWaiting (): void {
    if (this.#waitingFor === 0) return
    Atomics.sub(this.#words, this.#waitingFor, 1)
    this.#waitingFor = 0
  }

  /** Those under way are joined by more of their kind only while none of the other kind waits: nobody waits for ever. */
  #mayJoin (running: number, step: number): boolean {
    if (running === 0) return true
    if (Math.sign(running) !== step) return false
    return Atomics.load(this.#words, step > 0 ? BUFFERED_WAITING : DIRECT_WAITING) === 0
  }

  #waitFor (word: number): void {
    if (this.#waitingFor === word) return
    this.stopWaiting()
    this.#waitingFor = word
    Atomics.add(this.#words, word, 1)
  }
}
