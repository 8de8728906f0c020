import { close, eventfd, fdatasync, preadv, pwritev } from '@node-vmm/libc'
import type { Engine, EngineOptions } from './engine.ts'
import { FLUSH, READ, type RequestTable } from './request-table.ts'

/**
 * Plain system calls: each request is done, blocking, when it is submitted. Works everywhere and overlaps nothing.
 * See `preadv(2)`, `fdatasync(2)`.
 */
export class SyncEngine implements Engine {
  readonly name = 'sync'
  readonly depth: number
  readonly completionFd: number
  systemCalls = 0
  readonly #fd: number

  /** @throws LinuxError such as EMFILE */
  constructor ({ fd, depth }: EngineOptions) {
    this.#fd = fd
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
    const call = kind === READ ? preadv : pwritev
    return call(this.#fd, table.address + table.first[id]! * 4, table.count[id]!, table.offset[id]!)
  }

  /** Nothing: all was handed to `table.finish`. */
  reap (): void {}

  close (): void {
    close(this.completionFd)
  }
}
