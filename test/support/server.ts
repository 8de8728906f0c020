// The vhost-user-blk server that the guests are given: our program, or, where NODE_VMM_TEST_SERVER is
// `qemu-storage-daemon`, QEMU's. A test that fails with the one and passes with the other tells whose fault it is.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { type EngineName, type EngineSelection, openEngine } from '../../packages/ioq/src/index.ts'
import { close, ftruncate, memfdCreate } from '../../packages/libc/src/index.ts'
import { Running } from './processes.ts'
import { type Need, path, programs } from './programs.ts'
import { temporaryFolder } from './temporary.ts'

export type Engine = EngineSelection | EngineName

export interface ServerOptions {
  readonly image: string
  /** Our program's only: a file for what is written, which the image is left without. */
  readonly overlay?: string
  readonly readOnly?: boolean
  readonly queues?: number
  /** Our program's only, as `direct` is. */
  readonly engine?: Engine
  readonly direct?: boolean
  /** More of our program's options. */
  readonly flags?: readonly string[]
}

export interface Server {
  readonly socket: string
  /** The serial number that the guest must see. */
  readonly serial: string
  readonly program: Running
}

/** Our program, built. */
export const cli = fileURLToPath(new URL('../../packages/vhost-user-blk/dist/cli.js', import.meta.url))
const peer = process.env.NODE_VMM_TEST_SERVER === 'qemu-storage-daemon'
if (peer) console.log('note: guests are served by qemu-storage-daemon')

export const server: Need = peer
  ? programs('qemu-storage-daemon')
  : () => existsSync(cli) ? undefined : `${cli} is not built: node tools/setup.mjs`

/** For tests of what the peer cannot do, or does otherwise. */
export const ourServer: Need = () => peer ? 'not a test of qemu-storage-daemon' : server()

/** Why this host does not let our server have an engine (containers often forbid io_uring); undefined where it does. */
export function engineRefused (engine: Engine): string | undefined {
  if (peer) return undefined
  // One engine takes files in memory only, the others take any.
  const file = memfdCreate('probe')
  ftruncate(file, 512)
  try {
    openEngine(engine, { fd: file, depth: 1 }).engine.close()
    return undefined
  } catch (error) {
    return (error as Error).message
  } finally {
    close(file)
  }
}

/** Serves the image while `body` runs; then the server must end cleanly: drained, status 0, socket removed. */
export async function withServer (options: ServerOptions, body: (server: Server) => Promise<void>): Promise<void> {
  const socket = join(temporaryFolder(), 'vhost.sock')
  const program = peer ? await startPeer(socket, options) : await startOurs(socket, options)
  await whileServing(program, socket, () => body({ socket, serial: peer ? 'vhost_user_blk' : SERIAL, program }))
}

/** Runs `body`; then the server must end cleanly. Where that fails, what the server has printed is shown. */
export async function whileServing (program: Running, socket: string, body: () => Promise<void>): Promise<void> {
  try {
    await body()
    await stop(program, socket)
  } catch (error) {
    (error as Error).message += `\n${program.failure(program.alive ? 'was running' : 'had ended').message}`
    await program.kill()
    throw error
  }
}

const SERIAL = 'node-vmm-0123456789'

/** Our program, ready. */
export async function startOurs (socket: string, options: ServerOptions): Promise<Running> {
  const { image, overlay, readOnly = false, queues = 1, engine = 'auto', direct = false, flags = [] } = options
  return startOurProgram([
    `--socket-path=${socket}`, overlay === undefined ? `--blk-file=${image}` : `--disk=overlay:base=${image},file=${overlay}`, `--num-queues=${queues}`, `--engine=${engine}`,
    `--serial=${SERIAL}`, ...(readOnly ? ['--read-only'] : []), ...(direct ? ['--direct'] : []), ...flags
  ])
}

/** Our program with other options than those of a disk, ready. */
export async function startOurProgram (args: readonly string[]): Promise<Running> {
  const program = new Running('the server', process.execPath, [cli, ...args])
  await program.printed(/\bready\b/, 90)
  return program
}

async function startPeer (socket: string, { image, readOnly = false, queues = 1 }: ServerOptions): Promise<Running> {
  const pidFile = `${socket}.pid`
  const program = new Running('the server', path('qemu-storage-daemon'), [
    '--blockdev', `driver=file,node-name=disk,filename=${image},read-only=${readOnly ? 'on' : 'off'}`,
    '--object', 'iothread,id=thread',
    '--export', 'type=vhost-user-blk,id=export,node-name=disk,iothread=thread,addr.type=unix,' +
      `addr.path=${socket},writable=${readOnly ? 'off' : 'on'},num-queues=${queues}`,
    '--pidfile', pidFile
  ])
  // It writes the file when it is ready.
  for (const deadline = Date.now() + 90_000; !existsSync(pidFile); await sleep(20)) {
    if (!program.alive || Date.now() > deadline) throw program.failure('did not become ready')
  }
  return program
}

/** It must end cleanly. */
export async function stop (program: Running, socket: string): Promise<void> {
  assert.ok(program.alive, 'the server still runs after its guests')
  program.signal('SIGTERM')
  assert.equal(await program.ended(90), { status: 0, signal: null }, 'the server ends cleanly')
  assert.not.ok(existsSync(socket), 'the server removes its socket')
}
