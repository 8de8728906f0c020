import { DISCARD_SEGMENTS_MAX, type IoThreadOptions, POLL_DEFAULT, POLL_MAX, QUEUES_MAX, STOP_TIMEOUT_DEFAULT, VIRTIO_BLK_ID_BYTES } from '@node-vmm/virtio-blk-dataplane'
import { isDeepStrictEqual, parseArgs, type ParseArgsConfig } from 'node:util'
import { readConfig } from './config.ts'
import { CONTROL_COMMANDS, type ControlRequest } from './control.ts'
import type { MetricsAddress } from './metrics.ts'
import type { ServeOptions } from './serve.ts'
import type { PassedSocket } from './systemd.ts'
import { type Account, parseAccount } from './users.ts'

/** What the command line asks for. */
export type Command =
  | {
    readonly name: 'serve'
    readonly disks: readonly NamedDisk[]
    readonly trace: boolean
    /** Path of the file that the trace is written to. */
    readonly traceFile?: string
    /** Whom to become once it listens. */
    readonly user?: Account
    /** Whether to give up what is not needed once it listens. */
    readonly sandbox?: typeof SANDBOXES[number]
    /** Path of the control socket, or its descriptor. */
    readonly control?: string | number
    /** Where Prometheus may ask. */
    readonly metrics?: MetricsAddress
    /** Milliseconds between statistics. */
    readonly statsInterval?: number
    /** Whether what it says is JSON. */
    readonly json: boolean
  }
  | { readonly name: 'control', readonly path: string, readonly request: ControlRequest, readonly json: boolean }
  | { readonly name: 'trace', readonly path: string, readonly json: boolean }
  | { readonly name: 'help' | 'version' | 'print-capabilities' }

/** A disk to serve, under the name that it has in status, statistics and metrics. */
export interface NamedDisk {
  readonly name: string
  readonly options: ServeOptions
  /** What it is, where it is no raw image: see `diskModule`. */
  readonly spec?: string
  /** The thread that it shares with those who name the same. */
  readonly iothread?: NamedThread
}

/** A thread that disks share. */
export interface NamedThread {
  readonly name: string
  readonly options: IoThreadOptions
}

/** The command line cannot be followed; the message says why and what would do. */
export class UsageError extends Error {
  static override readonly name = 'UsageError'
  override readonly name = 'UsageError'
  readonly code = 'ERR_USAGE'
}

/** A day. */
const STOP_SECONDS_MAX = 86_400
const STATS_SECONDS_MAX = 86_400

export const HELP = `Usage: vhost-user-blk --socket-path=PATH --blk-file=IMAGE [options]
       vhost-user-blk --fd=N --blk-file=IMAGE [options]
       vhost-user-blk --socket-path=PATH --disk=SPEC [options]
       vhost-user-blk --config=FILE [options]
       vhost-user-blk control PATH COMMAND [BYTES] [--name=NAME] [--json]
       vhost-user-blk trace FILE [--json]

Serves a raw disk image to a virtual machine over vhost-user, in the foreground, one front-end after the other.

  --socket-path=PATH   unix socket to listen on, created for it and removed at the end
  --socket-mode=OCTAL  permissions of the socket (default 0600): whoever may write to it has the disk
  --socket-owner=USER[:GROUP]  who owns the socket, by name or number (default this user and group)
  --fd=N               socket that this process was given: listening, or connected
  --blk-file=IMAGE     the raw image: a file or a block device; locked while it is served
  --disk=SPEC          instead of an image: another disk, or several on top of each other, as
                       throttle:ops=1000,disk=[overlay:base=base.raw,file=guest.ovl], or an NBD export's URI
  --config=FILE        serve several disks: JSON, {"disks":[{"name":"root","socket-path":PATH,"blk-file":IMAGE}]},
                       each with any of the options from --socket-path to --name, without the dashes
  --lock=WHEN          lock the image while it is open, or only while a guest is running on it: then a second server
                       may be started for the guest to be migrated to (default open)
  --no-follow          refuse an image whose name is a symbolic link
  --read-only          refuse writes; other readers may use the image meanwhile
  --num-queues=N       queues that the guest may use, 1 to ${QUEUES_MAX} (default 1)
  --engine=NAME        mapped (for an image on tmpfs), io_uring+linux-aio (with --direct), io_uring, linux-aio, sync;
                       auto or no-io_uring: the first of these that the image and the host allow (default auto)
  --threads=N          data-plane threads, 1 to the number of queues (default 1)
  --iothread=NAME      with --config: the disks that name the same thread share it, and say the same of --cpus and
                       --poll-max-us (default threads of the disk's own)
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
  --name=NAME          what the disk is called in status, statistics and metrics (default disk0)
  --user=USER[:GROUP]  become this user, by name or number, once the image is open and the socket listens
  --sandbox[=best-effort]  give up then what it does not need: capabilities, most system calls, paths, core dumps;
                       or as much of that as the host has. Uses no-io_uring unless another engine is asked for
  --control=PATH       unix socket for control clients, for this user alone
  --stats[=SECONDS]    print what was done every so many seconds, 1 to ${STATS_SECONDS_MAX} (1 if not said): a table that
                       stays in its place on a terminal, or else lines
  --metrics=[HOST:]PORT  serve metrics to Prometheus, over HTTP at /metrics (HOST is 127.0.0.1 if not said)
  --json               print lines of JSON: that it is ready, the log, statistics, the result of control or trace
  --trace              print each message and each request to standard error
  --trace-file=FILE    write each request to a file, 80 bytes each: trace prints it
  --print-capabilities print what this program can do as JSON, as vhost-user back-ends do
  --help, --version    print this text, or the version

control asks the server that has --control=PATH, for the disk NAME if it has several. COMMAND is one of
${CONTROL_COMMANDS.join(', ')}. resize without BYTES takes over the size that the image has by now.

A socket that systemd passes on takes the place of --socket-path, and one that it calls "control" that of --control.
systemd is told when the program is ready (Type=notify).

One line on standard output says when it is ready. SIGTERM and SIGINT end it, with all requests completed.
SIGHUP has it take over the size that the image has by now, and tell the guest.
Exit status: 0 ended as asked; 1 it could not serve, or not go on; 2 the command line is wrong.`

/** The highest number that a processor can have in a mask of the kernel's. */
const CPU_MAX = 1023
const LOCKS = ['open', 'running'] as const
/** The first is what `--sandbox` means by itself. */
const SANDBOXES = ['full', 'best-effort'] as const
const ENGINES = ['auto', 'no-io_uring', 'mapped', 'io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync'] as const
const IO_URING_ENGINES: readonly string[] = ['io_uring+linux-aio', 'io_uring'] satisfies readonly (typeof ENGINES[number])[]

/** Options of a disk. */
const diskFlags = {
  'socket-path': { type: 'string' },
  'socket-mode': { type: 'string' },
  'socket-owner': { type: 'string' },
  fd: { type: 'string' },
  'blk-file': { type: 'string' },
  disk: { type: 'string' },
  lock: { type: 'string', default: 'open' },
  'no-follow': { type: 'boolean', default: false },
  'read-only': { type: 'boolean', default: false },
  'num-queues': { type: 'string', default: '1' },
  engine: { type: 'string', default: 'auto' },
  threads: { type: 'string', default: '1' },
  iothread: { type: 'string' },
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
  name: { type: 'string', default: 'disk0' }
} as const

/** Options of the program. */
const programFlags = {
  config: { type: 'string' },
  user: { type: 'string' },
  sandbox: { type: 'string' },
  control: { type: 'string' },
  stats: { type: 'string' },
  metrics: { type: 'string' },
  json: { type: 'boolean', default: false },
  trace: { type: 'boolean', default: false },
  'trace-file': { type: 'string' }
} as const

/** What systemd calls the control socket. */
const CONTROL_NAME = 'control'

/** The options whose value may be left out, which parseArgs does not know, and what they mean then. */
const WITHOUT_VALUE = new Map([['--sandbox', `--sandbox=${SANDBOXES[0]}`], ['--stats', '--stats=1']])

/** Answered whatever else is asked for: so say QEMU's conventions for vhost-user back-end programs, and GNU's for all. */
const QUESTIONS = new Map<string, 'help' | 'version' | 'print-capabilities'>([
  ['--help', 'help'], ['-h', 'help'], ['--version', 'version'], ['--print-capabilities', 'print-capabilities']
])

/**
 * @param passed sockets of systemd's
 * @throws UsageError
 */
export function parseCommand (args: readonly string[], passed: readonly PassedSocket[] = []): Command {
  const question = args.find((arg) => QUESTIONS.has(arg))
  if (question !== undefined) return { name: QUESTIONS.get(question)! }
  if (args[0] === 'control') return parseControl(args.slice(1))
  if (args[0] === 'trace') return parseTrace(args.slice(1))

  const values = parse(args, { ...diskFlags, ...programFlags })
  const sandbox = SANDBOXES.find((name) => name === values.sandbox)
  if (sandbox !== values.sandbox) throw new UsageError(`--sandbox takes nothing, or ${SANDBOXES.slice(1).join(' or ')}: not ${JSON.stringify(values.sandbox)}.`)
  if (values.control === '') throw new UsageError('--control takes a path: not "".')
  if (values['trace-file'] === '') throw new UsageError('--trace-file takes a path: not "".')
  const control = values.control ?? passed.find((socket) => socket.name === CONTROL_NAME)?.fd
  return {
    name: 'serve',
    trace: values.trace,
    ...(values['trace-file'] !== undefined && { traceFile: values['trace-file'] }),
    ...(values.user !== undefined && { user: account('--user', values.user) }),
    ...(sandbox !== undefined && { sandbox }),
    json: values.json,
    ...(control !== undefined && { control }),
    ...(values.metrics !== undefined && { metrics: metricsAddress(values.metrics) }),
    ...(values.stats !== undefined && { statsInterval: 1000 * integer('--stats', values.stats, 1, STATS_SECONDS_MAX) }),
    disks: values.config === undefined
      ? [diskOf(inheriting(values, passed), sandbox !== undefined)]
      : disksOf(values.config, args, passed, sandbox !== undefined)
  }
}

type Values = ReturnType<typeof parse<typeof diskFlags>>

// Each disk of the file is taken as if it were on a command line of its own.
function disksOf (file: string, args: readonly string[], passed: readonly PassedSocket[], sandboxed: boolean): NamedDisk[] {
  const ofDisk = (arg: string): boolean => arg.startsWith('--') && Object.hasOwn(diskFlags, optionName(arg))
  const stray = args.find(ofDisk)
  if (stray !== undefined) throw new UsageError(`with --config, --${optionName(stray)} belongs to the disks of the file.`)
  const disks = argumentsOf(file).map((disk, index) => {
    try {
      return diskOf(inheriting(parse([`--name=disk${index}`, ...disk], diskFlags), passed), sandboxed)
    } catch (error) {
      throw new UsageError(`${file}: disks[${index}]: ${(error as Error).message}`)
    }
  })
  const names = disks.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw new UsageError(`${file}: two disks are called ${twice}.`)
  const threads = disks.flatMap(({ iothread = [] }) => iothread)
  const twofold = threads.find((thread) => !isDeepStrictEqual(thread, threads.find(({ name }) => name === thread.name)))
  if (twofold !== undefined) throw new UsageError(`${file}: the disks of iothread ${twofold.name} say different things of cpus or poll-max-us.`)
  return disks
}

function argumentsOf (file: string): string[][] {
  try {
    return readConfig(file)
  } catch (error) {
    throw new UsageError(`--config: ${(error as Error).message}.`)
  }
}

function optionName (arg: string): string {
  return arg.replace(/^--/, '').replace(/=.*/s, '')
}

// Who says nothing of a socket means the one that systemd passed on.
function inheriting (values: Values, passed: readonly PassedSocket[]): Values {
  if ((values['socket-path'] ?? values.fd) !== undefined) return values
  const sockets = passed.filter(({ name }) => name !== CONTROL_NAME)
  const named = sockets.filter(({ name }) => name === values.name)
  const [socket, another] = named.length > 0 ? named : sockets
  if (another !== undefined) throw new UsageError(`systemd passed several sockets: name the one for this disk FileDescriptorName=${values.name}.`)
  return socket === undefined ? values : { ...values, fd: String(socket.fd) }
}

function diskOf (values: Values, sandboxed: boolean): NamedDisk {
  const { name, 'socket-path': socketPath, fd, 'blk-file': path, disk } = values
  if (!path && !disk) throw new UsageError('which image? Give --blk-file=IMAGE, or --disk=SPEC.')
  if (path !== undefined && disk !== undefined) throw new UsageError('give either --blk-file=IMAGE or --disk=SPEC.')
  if ((socketPath === undefined) === (fd === undefined)) throw new UsageError('give either --socket-path=PATH or --fd=N.')
  if (fd !== undefined && (values['socket-mode'] ?? values['socket-owner']) !== undefined) {
    throw new UsageError('--socket-mode and --socket-owner are for --socket-path: the socket of --fd is as it was made.')
  }
  if (socketPath === '') throw new UsageError('--socket-path takes a path: not "".')
  if (Buffer.byteLength(values.serial) > VIRTIO_BLK_ID_BYTES) throw new UsageError(`--serial takes up to ${VIRTIO_BLK_ID_BYTES} bytes.`)
  const image = imageOptions(values, sandboxed)
  const queues = integer('--num-queues', values['num-queues'], 1, QUEUES_MAX)
  const threads = integer('--threads', values.threads, 1, queues)
  checkName('--name', name)
  const cpus = list('--cpus', values.cpus, threads, (item) => item.split('+').map((cpu) => integer('--cpus', cpu, 0, CPU_MAX)))
  const pollMaxMicroseconds = integer('--poll-max-us', values['poll-max-us'], 0, POLL_MAX)
  const queueThreads = list('--queue-threads', values['queue-threads'], queues, (item) => integer('--queue-threads', item, 0, threads - 1))
  if (values.iothread !== undefined) checkShared(values)
  return {
    name,
    ...(disk !== undefined && { spec: disk }),
    ...(values.iothread !== undefined && { iothread: { name: values.iothread, options: { cpus: cpus[0], pollMaxMicroseconds } } }),
    options: {
      ...(path !== undefined && { path, ...image }),
      ...(socketPath === undefined ? { fd: integer('--fd', fd!, 0, 0x7fffffff) } : { socketPath }),
      ...(values['socket-mode'] !== undefined && { socketMode: mode('--socket-mode', values['socket-mode']) }),
      ...(values['socket-owner'] !== undefined && { socketOwner: account('--socket-owner', values['socket-owner']) }),
      readOnly: values['read-only'],
      writeThrough: values['write-through'],
      discardSegments: integer('--discard-segments', values['discard-segments'], 0, DISCARD_SEGMENTS_MAX),
      packed: values.packed,
      inOrder: values['in-order'],
      queues,
      ...(values.iothread === undefined && { threads, queueThreads, cpus, pollMaxMicroseconds }),
      stopTimeout: 1000 * integer('--stop-timeout', values['stop-timeout'], 1, STOP_SECONDS_MAX),
      serial: values.serial
    }
  }
}

function checkName (flag: string, name: string): void {
  if (!/^[\w.:-]{1,64}$/.test(name)) throw new UsageError(`${flag} takes up to 64 letters, digits and any of _.:-: not ${JSON.stringify(name)}.`)
}

function checkShared ({ iothread, disk, threads, 'queue-threads': queueThreads }: Values): void {
  checkName('--iothread', iothread!)
  if (disk !== undefined) throw new UsageError('--iothread is for --blk-file: what --disk names has a thread of its own.')
  if (threads !== diskFlags.threads.default || queueThreads !== '') throw new UsageError('give either --iothread or --threads, whose queues are spread over several.')
}

/** What is about a file, or about how the kernel is asked for its blocks: refused for what is no file. */
function imageOptions (values: Values, sandboxed: boolean): Pick<ServeOptions, 'noFollow' | 'lock' | 'direct' | 'engine'> {
  const engine = ENGINES.find((name) => name === values.engine)
  if (engine === undefined) throw new UsageError(`no engine is called ${values.engine}: use ${ENGINES.join(', ')}.`)
  const lock = LOCKS.find((name) => name === values.lock)
  if (lock === undefined) throw new UsageError(`--lock takes ${LOCKS.join(' or ')}: not ${JSON.stringify(values.lock)}.`)
  const said = (['no-follow', 'lock', 'direct', 'engine', 'threads'] as const).find((name) => values[name] !== diskFlags[name].default)
  if (values.disk !== undefined && said !== undefined) throw new UsageError(`--${said} is for --blk-file: what --disk names has its own options, and one thread.`)
  return {
    noFollow: values['no-follow'],
    lock,
    direct: values.direct,
    // io_uring's operations pass by every filter of system calls: who wants both has to say so.
    engine: sandboxed && engine === 'auto' ? 'no-io_uring' : engine
  }
}

/** Whether the engine that a disk reports needs io_uring. A disk of one's own reports the URL of its module, whatever is in that. */
export function usesIoUring (engine: string): boolean {
  return IO_URING_ENGINES.includes(engine)
}

function parseControl (args: readonly string[]): Command {
  const { values: { json, name }, positionals: [path = '', command, bytes, ...rest] } = parseWith(args, { json: { type: 'boolean', default: false }, name: { type: 'string' } })
  const known = CONTROL_COMMANDS.find((one) => one === command)
  if (path === '' || known === undefined) throw new UsageError(`control takes the path of a control socket and one of ${CONTROL_COMMANDS.join(', ')}.`)
  if (rest.length > 0 || (bytes !== undefined && known !== 'resize')) throw new UsageError(`control ${known} takes no ${JSON.stringify(rest[0] ?? bytes)}.`)
  const size = bytes === undefined || bytes === 'reread' ? bytes : integer('control resize', bytes, 1, Number.MAX_SAFE_INTEGER)
  return {
    name: 'control',
    path,
    json,
    request: { command: known, ...(name !== undefined && { disk: name }), ...(size !== undefined && { bytes: size }) }
  }
}

function parseTrace (args: readonly string[]): Command {
  const { values: { json }, positionals: [path = '', ...rest] } = parseWith(args, { json: { type: 'boolean', default: false } })
  if (path === '' || rest.length > 0) throw new UsageError('trace takes the path of one file, that --trace-file has written.')
  return { name: 'trace', path, json }
}

function parseWith<const Options extends NonNullable<ParseArgsConfig['options']>> (args: readonly string[], options: Options) {
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: true })
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function parse<Flags extends typeof diskFlags> (args: readonly string[], options: Flags) {
  try {
    const spelled = args.map((arg) => WITHOUT_VALUE.get(arg) ?? arg)
    return parseArgs({ args: spelled, options, strict: true, allowPositionals: false }).values
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function integer (flag: string, text: string, lowest: number, highest: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN
  if (!(value >= lowest && value <= highest)) throw new UsageError(`${flag} takes a number from ${lowest} to ${highest}: not ${JSON.stringify(text)}.`)
  return value
}

/** `PORT`, `HOST:PORT` or `[IPv6]:PORT`. */
function metricsAddress (text: string): MetricsAddress {
  const [, ipv6, host, port] = /^(?:\[([0-9a-fA-F:.%\w]+)\]:|([^:[\]]+):|:?)(\d{1,5})$/.exec(text) ?? []
  if (port === undefined) throw new UsageError(`--metrics takes PORT, HOST:PORT or [IPV6]:PORT: not ${JSON.stringify(text)}.`)
  return { host: ipv6 ?? host ?? '127.0.0.1', port: integer('--metrics', port, 0, 65535) }
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
