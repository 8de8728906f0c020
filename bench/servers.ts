import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root } from '../tools/packages.ts'
import { built, PROGRAM } from './build.ts'
import type { Case } from './cases.ts'

/** Where a server finds its image, and where it is to listen. */
export interface Place {
  readonly socket: string
  readonly image: string
}

/** A way to serve a disk. */
export interface ServerKind {
  readonly name: string
  /** Ours, and as other checkouts have it; those that it is to be compared with; and `fio`, which has no ring between itself and the file. */
  readonly side: 'ours' | 'build' | 'qsd' | 'node' | 'fio'
  /** Whether it takes part in a case. */
  serves (which: Case): boolean
  /** The command; undefined for `fio`, which is no server. */
  command? (which: Case, place: Place): string[]
}

/** Bytes of the null disks. */
export const NULL_BYTES = 1 << 30

export const AUTO = 'node-vmm auto'
export const SLEEPING = 'node-vmm no polling'
export const QSD_SLEEPING = 'qsd no polling'

/** The sockets that a server of this case has. */
export function socketsOf ({ side }: ServerKind, which: Case, { socket }: Place): string[] {
  return (side === 'ours' || side === 'build') && isOurScript(which) ? numbered(socket, which.disks) : [socket]
}

/** Names of several, as `serve-many.ts` has them. */
export function numbered (path: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${path}.${index}`)
}

/**
 * All servers that this machine can run, and why not the others.
 *
 * @param builds other checkouts, whose servers take part too
 */
export function findServers (builds: readonly string[]): { servers: ServerKind[], missing: string[] } {
  const servers = [
    ...ourServers(root),
    ...builds.flatMap((checkout) => ourServers(checkout).map((kind): ServerKind => ({ ...kind, name: buildOf(kind.name, checkout), side: 'build' })))
  ]
  const missing: string[] = []
  if (isInstalled('qemu-storage-daemon')) servers.push(daemon('qsd native', 'native'), daemon('qsd io_uring', 'io_uring'), sleepingDaemon, nullDaemon)
  else missing.push('qemu-storage-daemon is not installed (Debian: qemu-system-common, qemu-utils): no comparison with it')
  servers.push(plainNode)
  if (isInstalled('fio')) servers.push(fio)
  else missing.push('fio is not installed: the ceiling is not measured')
  return { servers, missing }
}

/** What a server is called where another checkout has it. */
export function buildOf (name: string, checkout: string): string {
  return `${name} of ${checkout}`
}

function ourServers (checkout: string): ServerKind[] {
  return [
    ours(checkout, AUTO, ['--engine=auto'], () => true),
    ours(checkout, 'node-vmm io_uring', ['--engine=io_uring'], isCompared),
    ours(checkout, 'node-vmm linux-aio', ['--engine=linux-aio'], isCompared),
    ours(checkout, SLEEPING, ['--poll-max-us=0'], (which) => isCompared(which) && which.depth <= 8),
    { name: 'node-vmm', side: 'ours', serves: (which) => which.backing === 'null' && !which.growth, command: (which, place) => script(checkout, which, place) }
  ]
}

function ours (checkout: string, name: string, options: string[], serves: (which: Case) => boolean): ServerKind {
  return {
    name,
    side: 'ours',
    serves: (which) => which.backing !== 'null' && serves(which),
    command (which, place) {
      if (isOurScript(which)) return script(checkout, which, place)
      return [
        process.execPath, join(checkout, PROGRAM), `--socket-path=${place.socket}`, `--blk-file=${place.image}`, '--lock=running',
        `--num-queues=${which.queues}`, ...options, ...(which.packed ? ['--packed'] : []), ...(which.backing === 'disk' ? ['--direct'] : [])
      ]
    }
  }
}

/** Without a null disk, and with one disk only, our server is the program that people run. */
function isOurScript ({ backing, disks }: Case): boolean {
  return backing === 'null' || disks > 1
}

function script (checkout: string, which: Case, { socket, image }: Place): string[] {
  const more = which.backing === 'null' ? ['null'] : []
  return [process.execPath, built('serve-many', checkout), socket, image, String(which.disks), ...more]
}

function daemon (name: string, aio: string, thread = ''): ServerKind {
  return {
    name,
    side: 'qsd',
    serves: isCompared,
    command (which, { socket, image }) {
      const direct = aio === 'native' || which.backing === 'disk'
      return daemonCommand(`driver=file,filename=${image},locking=off,aio=${aio}${direct ? ',cache.direct=on' : ''}`, which.queues, socket, thread)
    }
  }
}

/** Only where a request is alone polling decides on what there is to wait for. */
const sleepingDaemon: ServerKind = {
  ...daemon(QSD_SLEEPING, 'native', ',poll-max-ns=0'),
  serves: (which) => isCompared(which) && which.depth === 1
}

const nullDaemon: ServerKind = {
  name: 'qsd null-co',
  side: 'qsd',
  serves: (which) => which.backing === 'null',
  command: (which, { socket }) => daemonCommand(`driver=null-co,size=${NULL_BYTES},read-zeroes=off`, which.queues, socket)
}

function daemonCommand (node: string, queues: number, socket: string, thread = ''): string[] {
  return [
    'qemu-storage-daemon', '--blockdev', `${node},node-name=disk`, '--object', `iothread,id=thread${thread}`, '--export',
    `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${socket},writable=on,iothread=thread,num-queues=${queues}`
  ]
}

const plainNode: ServerKind = {
  name: 'plain Node',
  side: 'node',
  serves: isCompared,
  command (which, { socket, image }) {
    const direct = which.backing === 'disk' ? ['direct'] : []
    return [process.execPath, built('plain-server'), socket, image, String(which.queues), ...direct]
  }
}

const fio: ServerKind = {
  name: 'fio',
  side: 'fio',
  serves: (which) => isCompared(which) && which.queues === 1 && !which.polls && !which.hugePages
}

/** Null disks have servers of their own, and how our server grows is no comparison. */
function isCompared ({ backing, growth }: Case): boolean {
  return backing !== 'null' && !growth
}

function isInstalled (program: string): boolean {
  return spawnSync(program, ['--version'], { stdio: 'ignore', timeout: 5000 }).status === 0
}
