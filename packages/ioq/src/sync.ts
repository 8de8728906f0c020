import { close, eventfd, fdatasync, preadv, pwritev, pwritev2, RWF_DSYNC } from '@node-vmm/libc'
import { blockingCall } from './blocking-call.ts'
import type { Engine, EngineOptions } from './engine.ts'
import { FLUSH, READ, REQUEST_BUFFERED, REQUEST_DURABLE, type RequestTable, WRITE } from './request-table.ts'

/**
 * Plain system calls: each request is done, blocking, when it is submitted. Works everywhere and overlaps nothing.
 * See `preadv(2)`, `fdatasync(2)`, `fallocate(2)`.
 */
export class SyncEngine implements Engine {
  readonly name = 'sync'
  readonly depth: number
  readonly completionFd: number
  systemCalls = 0
  readonly #fd: number
  readonly #bufferedFd: number

  /** @throws LinuxError such as EMFILE */
  constructor ({ fd, depth, bufferedFd = fd }: EngineOptions) {
    this.#fd = fd
    this.#bufferedFd = bufferedFd
    this.depth = depth
    this.completionFd = eventfd()
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    for (let index = from; index < from + count; index++) table.finish(ids[index]!, this.#perform(ids[index]!, table))
    return count
  }

  #perform (id: number, table: RequestTable): number {
    this.systemCalls++
    const kind = table.kind[id]!
    if (kind === FLUSH) return fdatasync(this.#fd)
    if (kind !== READ && kind !== WRITE) return blockingCall(this.#fd, table.method[id]!, table.offset[id]!, table.length[id]!)
    const flags = table.flags[id]!
    const fd = (flags & REQUEST_BUFFERED) !== 0 ? this.#bufferedFd : this.#fd
    const address = table.address + table.first[id]! * 4
    if (kind === READ) return preadv(fd, address, table.count[id]!, table.offset[id]!)
    if ((flags & REQUEST_DURABLE) === 0) return pwritev(fd, address, table.count[id]!, table.offset[id]!)
    return pwritev2(fd, address, table.count[id]!, table.offset[id]!, RWF_DSYNC)
  }

  /** Nothing: all was handed to `table.finish`. */
  reap (): void {}

  close (): void {
    close(this.completionFd)
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }
}
