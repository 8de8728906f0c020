// Real servers, each on a unix socket of its own.
import { existsSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { eventually } from '../../../../test/support/eventually.ts'
import { Running } from '../../../../test/support/processes.ts'
import { path, programs, testWith } from '../../../../test/support/programs.ts'
import { temporaryFolder } from '../../../../test/support/temporary.ts'

export const nbdkitTest = testWith(programs('nbdkit'))
export const qemuTest = testWith(programs('qemu-nbd', 'qemu-img'))

export interface Server {
  readonly uri: string
  readonly process: Running
}

/** nbdkit with this plugin and its parameters. @param socketPath where; @default a new place */
export async function nbdkit (args: readonly string[], socketPath = newSocketPath()): Promise<Server> {
  // nbdkit refuses a socket that is there; the one of a server that was killed is.
  rmSync(socketPath, { force: true })
  const process = await started('nbdkit', (pidFile) => ['--foreground', '--unix', socketPath, '--pidfile', pidFile, ...args])
  return { uri: `nbd+unix:///?socket=${socketPath}`, process }
}

/** nbdkit on a TCP port of 127.0.0.1. */
export async function nbdkitOnTcp (args: readonly string[]): Promise<Server & { port: number }> {
  const port = await freePort()
  const process = await started('nbdkit', (pidFile) => ['--foreground', '--ipaddr', '127.0.0.1', '--port', String(port), '--pidfile', pidFile, ...args])
  return { uri: `nbd://127.0.0.1:${port}`, port, process }
}

/** qemu-nbd with these arguments. */
export async function qemuNbd (args: readonly string[], socketPath = newSocketPath()): Promise<Server> {
  rmSync(socketPath, { force: true })
  const process = await started('qemu-nbd', (pidFile) => ['--persistent', '--socket', socketPath, '--pid-file', pidFile, ...args])
  return { uri: `nbd+unix:///disk?socket=${socketPath}`, process }
}

export function newSocketPath (): string {
  return join(temporaryFolder(), 'socket')
}

/** Both write their process id once they listen. */
async function started (program: 'nbdkit' | 'qemu-nbd', args: (pidFile: string) => string[]): Promise<Running> {
  const pidFile = join(temporaryFolder(), 'pid')
  const process = new Running(program, path(program), args(pidFile))
  await eventually(`${program} is up`, () => existsSync(pidFile) || !process.alive)
  if (!process.alive) throw process.failure('did not start')
  return process
}

async function freePort (): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}
