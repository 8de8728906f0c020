import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { temporaryFolder } from '../../../../test/support/temporary.ts'
import { Running } from '../../../../test/support/processes.ts'
import { path, programs, testWith } from '../../../../test/support/programs.ts'

/** `test` for tests that need the daemon. */
export const daemonTest = testWith(programs('qemu-storage-daemon'))

export interface DaemonOptions {
  /** The image to serve; the null disk of this many bytes when a number: it reads as zeroes, whatever was written. */
  readonly disk: string | number
  /** @default 1 */
  readonly queues?: number
  /** @default true */
  readonly writable?: boolean
}

let folder: string | undefined
let daemons = 0

/** QEMU's storage daemon with one vhost-user-blk export: a peer that is not ours. */
export class StorageDaemon {
  readonly socketPath = join(folder ??= temporaryFolder(), `socket-${daemons++}`)
  readonly #program: Running

  private constructor ({ disk, queues = 1, writable = true }: DaemonOptions) {
    const node = typeof disk === 'string' ? `driver=file,filename=${disk},discard=unmap` : `driver=null-co,size=${disk},read-zeroes=on`
    this.#program = new Running('qemu-storage-daemon', path('qemu-storage-daemon'), [
      '--blockdev', `${node},node-name=disk`,
      '--object', 'iothread,id=thread',
      '--export', `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${this.socketPath},` +
        `writable=${writable ? 'on' : 'off'},iothread=thread,num-queues=${queues}`
    ])
  }

  static async start (options: DaemonOptions): Promise<StorageDaemon> {
    const daemon = new StorageDaemon(options)
    for (const deadline = Date.now() + 10_000; !existsSync(daemon.socketPath);) {
      if (!daemon.#program.alive || Date.now() > deadline) throw daemon.#program.failure('does not listen')
      await sleep(10)
    }
    return daemon
  }

  /** Has it do nothing until it is thawed: requests and messages stay unanswered. */
  freeze (): void {
    this.#program.signal('SIGSTOP')
  }

  thaw (): void {
    this.#program.signal('SIGCONT')
  }

  /** Ends it as a crash would. */
  async kill (): Promise<void> {
    await this.#program.kill()
  }
}
