import type { Engine, EngineOptions, RequestTable } from '@node-vmm/ioq'
import { close, eventfd } from '@node-vmm/libc'

/** A disk that does nothing, at once: what is left is the cost of rings and requests. */
class NullEngine implements Engine {
  readonly name = 'null'
  readonly depth: number
  readonly completionFd = eventfd()
  readonly systemCalls = 0

  constructor (depth: number) {
    this.depth = depth
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    for (let index = from; index < from + count; index++) table.finish(ids[index], table.remaining[ids[index]])
    return count
  }

  reap (): void {}

  close (): void {
    close(this.completionFd)
  }
}

/** Made on the data-plane thread: see `EngineModule`. */
export default function nullEngine ({ depth }: EngineOptions): Engine {
  return new NullEngine(depth)
}
