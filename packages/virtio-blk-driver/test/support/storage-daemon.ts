import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Why tests with QEMU's storage daemon cannot run here, or undefined. */
export const missing: string | undefined = spawnSync('qemu-storage-daemon', ['--version']).error === undefined
  ? undefined
  : 'qemu-storage-daemon is missing: apt-get install qemu-system-common'

export interface DaemonOptions {
  /** The image to serve; the null disk of this many bytes when a number. */
  readonly disk: string | number
  /** @default 1 */
  readonly queues?: number
  /** @default true */
  readonly writable?: boolean
}

/** QEMU's storage daemon with one vhost-user-blk export: a peer that is not ours. */
export class StorageDaemon {
  readonly socketPath: string
  readonly #directory: string
  readonly #process: ChildProcess

  private constructor (directory: string, process: ChildProcess) {
    this.#directory = directory
    this.#process = process
    this.socketPath = join(directory, 'socket')
  }

  static async start ({ disk, queues = 1, writable = true }: DaemonOptions): Promise<StorageDaemon> {
    const directory = mkdtempSync(join(tmpdir(), 'node-vmm-qsd-'))
    const node = typeof disk === 'string' ? `driver=file,filename=${disk},discard=unmap` : `driver=null-co,size=${disk},read-zeroes=on`
    const child = spawn('qemu-storage-daemon', [
      '--blockdev', `${node},node-name=f0`,
      '--object', 'iothread,id=iot0',
      '--export', `type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=${directory}/socket,` +
        `writable=${writable ? 'on' : 'off'},iothread=iot0,num-queues=${queues}`
    ], { stdio: ['ignore', 'inherit', 'inherit'] })
    const daemon = new StorageDaemon(directory, child)
    for (let waited = 0; !existsSync(daemon.socketPath); waited += 10) {
      if (waited > 10_000 || child.exitCode !== null) throw new Error('qemu-storage-daemon did not start')
      await sleep(10)
    }
    return daemon
  }

  /** Ends it as a crash would. */
  kill (): void {
    this.#process.kill('SIGKILL')
  }

  /** Stops it, not reading, not answering, until it is killed. */
  freeze (): void {
    this.#process.kill('SIGSTOP')
  }

  thaw (): void {
    this.#process.kill('SIGCONT')
  }

  async stop (): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once('exit', resolve))
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      this.kill()
      await ended
    }
    rmSync(this.#directory, { recursive: true })
  }
}
