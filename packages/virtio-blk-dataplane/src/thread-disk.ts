import type { DataPlaneThread } from './data-plane-thread.ts'
import type { DiskControl, DiskFacts } from './own-disk.ts'

/** A disk that its thread has opened, or is to open. */
export class ThreadDisk implements DiskControl {
  readonly #thread: () => DataPlaneThread

  constructor (thread: () => DataPlaneThread) {
    this.#thread = thread
  }

  async open (): Promise<DiskFacts> {
    return (await this.#thread().command('callDisk', 'open'))!
  }

  async inspect (): Promise<DiskFacts> {
    return (await this.#thread().command('callDisk', 'inspect'))!
  }

  async flush (): Promise<void> {
    await this.#thread().command('callDisk', 'flush')
  }

  async close (): Promise<void> {
    await this.#thread().command('callDisk', 'close')
  }
}
