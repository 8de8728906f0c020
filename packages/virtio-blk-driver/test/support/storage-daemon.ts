import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { eventually } from '../../../../test/support/eventually.ts'
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
    await eventually('the daemon listens, or has ended', () => listens(daemon.socketPath) || !daemon.#program.alive)
    if (!daemon.#program.alive) throw daemon.#program.failure('does not listen')
    return daemon
  }

  /** Has it do nothing until it is thawed: requests and messages stay unanswered, once all of its threads have stopped. */
  async freeze (): Promise<void> {
    const { pid } = this.#program
    this.#program.signal('SIGSTOP')
    await eventually('it is frozen', () => readdirSync(`/proc/${pid}/task`).every((thread) =>
      /\) T /.test(readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8'))))
  }

  thaw (): void {
    this.#program.signal('SIGCONT')
  }

  /** Ends it as a crash would. */
  async kill (): Promise<void> {
    await this.#program.kill()
  }
}

/** Whether somebody listens on a path. That the socket is there says only that it is bound: it refuses until then. */
function listens (socketPath: string): boolean {
  const SO_ACCEPTCON = '00010000'
  return readFileSync('/proc/net/unix', 'utf8').split('\n').some((line) => line.endsWith(` ${socketPath}`) && line.split(' ')[3] === SO_ACCEPTCON)
}
