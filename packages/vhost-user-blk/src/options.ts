import { QUEUES_MAX, VIRTIO_BLK_ID_BYTES } from '@node-vmm/virtio-blk-dataplane'
import { parseArgs } from 'node:util'
import type { ServeOptions } from './serve.ts'

/** What the command line asks for. */
export type Command =
  | { readonly name: 'serve', readonly options: ServeOptions, readonly trace: boolean }
  | { readonly name: 'help' | 'version' | 'print-capabilities' }

/** The command line cannot be followed; the message says why and what would do. */
export class UsageError extends Error {
  static override readonly name = 'UsageError'
  override readonly name = 'UsageError'
  readonly code = 'ERR_USAGE'
}

export const HELP = `Usage: vhost-user-blk --socket-path=PATH --blk-file=IMAGE [options]
       vhost-user-blk --fd=N --blk-file=IMAGE [options]

Serves a raw disk image to a virtual machine over vhost-user, in the foreground, one front-end after the other.

  --socket-path=PATH   unix socket to listen on, created with mode 0600 and removed at the end
  --fd=N               socket that this process was given: listening, or connected
  --blk-file=IMAGE     the raw image: a file or a block device; locked while it is served
  --read-only          refuse writes; other readers may use the image meanwhile
  --num-queues=N       queues that the guest may use, 1 to ${QUEUES_MAX} (default 1)
  --engine=NAME        auto, io_uring, linux-aio or sync (default auto: the best that the host allows)
  --direct             bypass the page cache (O_DIRECT)
  --serial=TEXT        the disk's serial number, up to ${VIRTIO_BLK_ID_BYTES} bytes (default none)
  --trace              print each message and each request to standard error
  --print-capabilities print what this program can do as JSON, as vhost-user back-ends do
  --help, --version    print this text, or the version

One line on standard output says when it is ready. SIGTERM, SIGINT and SIGHUP end it, with all requests completed.
Exit status: 0 ended as asked; 1 it could not serve, or not go on; 2 the command line is wrong.`

const ENGINES = ['auto', 'io_uring', 'linux-aio', 'sync'] as const

const flags = {
  'socket-path': { type: 'string' },
  fd: { type: 'string' },
  'blk-file': { type: 'string' },
  'read-only': { type: 'boolean', default: false },
  'num-queues': { type: 'string', default: '1' },
  engine: { type: 'string', default: 'auto' },
  direct: { type: 'boolean', default: false },
  serial: { type: 'string', default: '' },
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
  if (socketPath === '') throw new UsageError('--socket-path takes a path: not "".')
  const engine = ENGINES.find((name) => name === values.engine)
  if (engine === undefined) throw new UsageError(`no engine is called ${values.engine}: use ${ENGINES.join(', ')}.`)
  if (Buffer.byteLength(values.serial) > VIRTIO_BLK_ID_BYTES) throw new UsageError(`--serial takes up to ${VIRTIO_BLK_ID_BYTES} bytes.`)
  return {
    name: 'serve',
    trace: values.trace,
    options: {
      path,
      ...(socketPath === undefined ? { fd: integer('--fd', fd!, 0, 0x7fffffff) } : { socketPath }),
      readOnly: values['read-only'],
      direct: values.direct,
      queues: integer('--num-queues', values['num-queues'], 1, QUEUES_MAX),
      engine,
      serial: values.serial
    }
  }
}

function parse (args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: flags, strict: true, allowPositionals: false }).values
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function integer (flag: string, text: string, lowest: number, highest: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN
  if (!(value >= lowest && value <= highest)) throw new UsageError(`${flag} takes a number from ${lowest} to ${highest}: not ${JSON.stringify(text)}.`)
  return value
}
