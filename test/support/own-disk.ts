// The disk of one's own that the README shows, in a project as a newcomer makes it.
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { eventually } from './eventually.ts'
import { Running } from './processes.ts'
import { readmeBlocks } from './readme.ts'
import { temporaryFolder } from './temporary.ts'

const readme = fileURLToPath(new URL('../../README.md', import.meta.url))
const program = fileURLToPath(new URL('../../packages/vhost-user-blk', import.meta.url))

/** What the README has one type, in the order of its way to one's own disk. */
export interface Path {
  readonly install: string
  readonly disk: string
  readonly guest: string
  readonly inGuest: string
}

export function readPath (): Path {
  const [install, guest, inGuest] = readmeBlocks(readme, 'sh')
  const disk = readmeBlocks(readme, 'ts').find((code) => code.includes('await serve('))
  return { install: install!, disk: disk!, guest: guest!, inGuest: inGuest! }
}

/** A project in which the built program is installed, and the disk is served by plain Node. */
export async function serveOwnDisk (): Promise<{ folder: string, socket: string, server: Running }> {
  const folder = temporaryFolder()
  mkdirSync(join(folder, 'node_modules/@node-vmm'), { recursive: true })
  symlinkSync(program, join(folder, 'node_modules/@node-vmm/vhost-user-blk'))
  writeFileSync(join(folder, 'disk.mjs'), readPath().disk)
  const socket = join(folder, 'disk.sock')
  const server = new Running('the disk', 'sh', ['-c', 'cd "$0" && exec "$1" disk.mjs', folder, process.execPath])
  await eventually('the disk is served', () => existsSync(socket) || !server.alive)
  if (!server.alive) throw server.failure('ended')
  return { folder, socket, server }
}
