import { DISCARD_SEGMENTS_MAX, POLL_DEFAULT, POLL_MAX, QUEUES_MAX, STOP_TIMEOUT_DEFAULT, VIRTIO_BLK_ID_BYTES } from '@node-vmm/virtio-blk-dataplane'
import { parseArgs } from 'node:util'
import type { ServeOptions } from './serve.ts'
import { type Account, parseAccount } from './users.ts'

/** What the command line asks for. */
export type Command =
  | {
    readonly name: 'serve'
    readonly options: ServeOptions
    readonly trace: boolean
    /** Whom to become once it listens. */
    readonly user?: Account
    /** Whether to give up what is not needed once it listens. */
    readonly sandbox?: typeof SANDBOXES[number]
  }
  | { readonly name: 'help' | 'version' | 'print-capabilities' }

/** The command line cannot be followed; the message says why and what would do. */
export class UsageError extends Error {
  static override readonly name = 'UsageError'
  override readonly name = 'UsageError'
  readonly code = 'ERR_USAGE'
}

/** A day. */
const STOP_SECONDS_MAX = 86_400

export const HELP = `Usage: vhost-user-blk --socket-path=PATH --blk-file=IMAGE [options]
       vhost-user-blk --fd=N --blk-file=IMAGE [options]

Serves a raw disk image to a virtual machine over vhost-user, in the foreground, one front-end after the other.

  --socket-path=PATH   unix socket to listen on, created for it and removed at the end
  --socket-mode=OCTAL  permissions of the socket (default 0600): whoever may write to it has the disk
  --socket-owner=USER[:GROUP]  who owns the socket, by name or number (default this user and group)
  --fd=N               socket that this process was given: listening, or connected
  --blk-file=IMAGE     the raw image: a file or a block device; locked while it is served
  --lock=WHEN          lock the image while it is open, or only while a guest is running on it: then a second server
                       may be started for the guest to be migrated to (default open)
  --no-follow          refuse an image whose name is a symbolic link
  --read-only          refuse writes; other readers may use the image meanwhile
  --num-queues=N       queues that the guest may use, 1 to ${QUEUES_MAX} (default 1)
  --engine=NAME        auto, io_uring, linux-aio or sync (default auto: the best that the host allows)
  --threads=N          data-plane threads, 1 to the number of queues (default 1)
  --queue-threads=LIST the thread of each queue, as 0,1,0,1 (default round and round)
  --cpus=LIST          processors to pin each thread to, as 2,3 for two threads or 2+3,4+5 (default not pinned)
  --poll-max-us=N      microseconds that a thread may look at its rings before it sleeps, 0 to ${POLL_MAX} (default ${POLL_DEFAULT})
  --direct             bypass the page cache (O_DIRECT)
  --write-through      make every write stable before it completes, until the guest asks otherwise
  --discard-segments=N segments of one discard or write-zeroes request, 0 to ${DISCARD_SEGMENTS_MAX}; 0 offers neither (default 1)
  --packed             offer packed rings
  --in-order           offer to complete requests in the order in which they came
  --stop-timeout=N     seconds, 1 to ${STOP_SECONDS_MAX}, that requests have for their end when a session or the program ends;
                       then they are given up (default ${STOP_TIMEOUT_DEFAULT / 1000})
  --serial=TEXT        the disk's serial number, up to ${VIRTIO_BLK_ID_BYTES} bytes (default none)
  --user=USER[:GROUP]  become this user, by name or number, once the image is open and the socket listens
  --sandbox[=best-effort]  give up then what it does not need: capabilities, most system calls, paths, core dumps;
                       or as much of that as the host has. Uses linux-aio unless another engine is asked for
  --trace              print each message and each request to standard error
  --print-capabilities print what this program can do as JSON, as vhost-user back-ends do
  --help, --version    print this text, or the version

One line on standard output says when it is ready. SIGTERM and SIGINT end it, with all requests completed.
SIGHUP has it take over the size that the image has by now, and tell the guest.
Exit status: 0 ended as asked; 1 it could not serve, or not go on; 2 the command line is wrong.`

/** The highest number that a processor can have in a mask of the kernel's. */
const CPU_MAX = 1023
const LOCKS = ['open', 'running'] as const
/** The first is what `--sandbox` means by itself. */
const SANDBOXES = ['full', 'best-effort'] as const
const ENGINES = ['auto', 'io_uring', 'linux-aio', 'sync'] as const

const flags = {
  'socket-path': { type: 'string' },
  'socket-mode': { type: 'string' },
  'socket-owner': { type: 'string' },
  fd: { type: 'string' },
  'blk-file': { type: 'string' },
  lock: { type: 'string', default: 'open' },
  'no-follow': { type: 'boolean', default: false },
  'read-only': { type: 'boolean', default: false },
  'num-queues': { type: 'string', default: '1' },
  engine: { type: 'string', default: 'auto' },
  threads: { type: 'string', default: '1' },
  'queue-threads': { type: 'string', default: '' },
  cpus: { type: 'string', default: '' },
  'poll-max-us': { type: 'string', default: String(POLL_DEFAULT) },
  direct: { type: 'boolean', default: false },
  'write-through': { type: 'boolean', default: false },
  'discard-segments': { type: 'string', default: '1' },
  packed: { type: 'boolean', default: false },
  'in-order': { type: 'boolean', default: false },
  'stop-timeout': { type: 'string', default: String(STOP_TIMEOUT_DEFAULT / 1000) },
  serial: { type: 'string', default: '' },
  user: { type: 'string' },
  sandbox: { type: 'string' },
  trace: { type: 'boolean', default: false }
} as const

/** Answered whatever else is asked for: so say QEMU's conventions for vhost-user back-end programs, and GNU's for all. */
const QUESTIONS = new Map<string, 'help' | 'version' | 'print-capabilities'>([
  ['--help', 'help'], ['-h', 'help'], ['--version', 'version'], ['--print-capabilities', 'print-capabilities']
])

/** @throws UsageError */
export function parseCommand (args: readonly string[]): Command {
  const question = args.find((arg) => QUESTIONS.has(arg))
  if (question !== undefined) return { name: QUESTIONS.get(question)! }

  const values = parse(args)
  const { 'socket-path': socketPath, fd, 'blk-file': path } = values
  if (path === undefined || path === '') throw new UsageError('which image? Give --blk-file=IMAGE.')
  if ((socketPath === undefined) === (fd === undefined)) throw new UsageError('give either --socket-path=PATH or --fd=N.')
  if (fd !== undefined && (values['socket-mode'] ?? values['socket-owner']) !== undefined) {
    throw new UsageError('--socket-mode and --socket-owner are for --socket-path: the socket of --fd is as it was made.')
  }
  if (socketPath === '') throw new UsageError('--socket-path takes a path: not "".')
  const sandbox = SANDBOXES.find((name) => name === values.sandbox)
  if (sandbox !== values.sandbox) throw new UsageError(`--sandbox takes nothing, or ${SANDBOXES.slice(1).join(' or ')}: not ${JSON.stringify(values.sandbox)}.`)
  const engine = ENGINES.find((name) => name === values.engine)
  if (engine === undefined) throw new UsageError(`no engine is called ${values.engine}: use ${ENGINES.join(', ')}.`)
  if (Buffer.byteLength(values.serial) > VIRTIO_BLK_ID_BYTES) throw new UsageError(`--serial takes up to ${VIRTIO_BLK_ID_BYTES} bytes.`)
  const lock = LOCKS.find((name) => name === values.lock)
  if (lock === undefined) throw new UsageError(`--lock takes ${LOCKS.join(' or ')}: not ${JSON.stringify(values.lock)}.`)
  const queues = integer('--num-queues', values['num-queues'], 1, QUEUES_MAX)
  const threads = integer('--threads', values.threads, 1, queues)
  return {
    name: 'serve',
    trace: values.trace,
    ...(values.user !== undefined && { user: account('--user', values.user) }),
    ...(sandbox !== undefined && { sandbox }),
    options: {
      path,
      ...(socketPath === undefined ? { fd: integer('--fd', fd!, 0, 0x7fffffff) } : { socketPath }),
      ...(values['socket-mode'] !== undefined && { socketMode: mode('--socket-mode', values['socket-mode']) }),
      ...(values['socket-owner'] !== undefined && { socketOwner: account('--socket-owner', values['socket-owner']) }),
      noFollow: values['no-follow'],
      readOnly: values['read-only'],
      lock,
      direct: values.direct,
      pollMaxMicroseconds: integer('--poll-max-us', values['poll-max-us'], 0, POLL_MAX),
      writeThrough: values['write-through'],
      discardSegments: integer('--discard-segments', values['discard-segments'], 0, DISCARD_SEGMENTS_MAX),
      packed: values.packed,
      inOrder: values['in-order'],
      queues,
      threads,
      queueThreads: list('--queue-threads', values['queue-threads'], queues, (item) => integer('--queue-threads', item, 0, threads - 1)),
      cpus: list('--cpus', values.cpus, threads, (item) => item.split('+').map((cpu) => integer('--cpus', cpu, 0, CPU_MAX))),
      // io_uring's operations pass by every filter of system calls: who wants both has to say so.
      engine: sandbox !== undefined && engine === 'auto' ? 'linux-aio' : engine,
      stopTimeout: 1000 * integer('--stop-timeout', values['stop-timeout'], 1, STOP_SECONDS_MAX),
      serial: values.serial
    }
  }
}

function parse (args: readonly string[]) {
  try {
    // The one option whose value may be left out, which parseArgs does not know.
    const spelled = args.map((arg) => arg === '--sandbox' ? `--sandbox=${SANDBOXES[0]}` : arg)
    return parseArgs({ args: spelled, options: flags, strict: true, allowPositionals: false }).values
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function integer (flag: string, text: string, lowest: number, highest: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN
  if (!(value >= lowest && value <= highest)) throw new UsageError(`${flag} takes a number from ${lowest} to ${highest}: not ${JSON.stringify(text)}.`)
  return value
}

function mode (flag: string, text: string): number {
  if (!/^[0-7]{1,4}$/.test(text) || parseInt(text, 8) > 0o777) throw new UsageError(`${flag} takes an octal number up to 0777: not ${JSON.stringify(text)}.`)
  return parseInt(text, 8)
}

function account (flag: string, text: string): Account {
  try {
    return parseAccount(text)
  } catch (error) {
    throw new UsageError(`${flag}: ${(error as Error).message}.`)
  }
}

/** The items of a list, one for each queue or thread; none where nothing was said. */
function list<Item> (flag: string, text: string, length: number, parseItem: (item: string) => Item): Item[] {
  if (text === '') return []
  const items = text.split(',').map(parseItem)
  if (items.length !== length) throw new UsageError(`${flag} takes ${length} items: not the ${items.length} of ${JSON.stringify(text)}.`)
  return items
}
