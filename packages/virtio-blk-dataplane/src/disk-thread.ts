import { Worker } from 'node:worker_threads'
import type { Runner } from './data-plane-thread.ts'
import type { ThreadInit } from './messages.ts'
import { workerEntry } from './worker-entry.ts'

/** What the thread is started with. */
export interface DiskThreadData {
  readonly init: ThreadInit
  /** Processors to pin it to; undefined for those of the thread that starts it. */
  readonly cpus: readonly number[] | undefined
}

/** A thread that has a disk of the user's own, which a module opens. */
export class DiskThread extends Worker implements Runner {
  constructor (data: DiskThreadData) {
    super(workerEntry('disk-worker'), { workerData: data, transferList: [data.init.port], name: 'virtio-blk-data-plane' })
  }

  abandon (): void {
    this.unref()
  }
}
