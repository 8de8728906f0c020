#!/usr/bin/env node
import { ListeningSocket } from '@node-vmm/vhost-user'
import { decodeTrace, IoThread, type Tracer } from '@node-vmm/virtio-blk-dataplane'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { compileAfterBoot } from './compiling.ts'
import { Controls, countersOf } from './control.ts'
import { ask, describe } from './control-client.ts'
import { ControlServer } from './control-server.ts'
import { type Command, HELP, type NamedDisk, type NamedThread, parseCommand, UsageError, usesIoUring } from './options.ts'
import { filedLine, Output } from './output.ts'
import { RateMeter } from './rates.ts'
import { becomeUser, enterSandbox } from './sandbox.ts'
import { serve, type ServeOptions } from './serve.ts'
import type { ServedDisk } from './served-disk.ts'
import { Notifier, takePassedSockets } from './systemd.ts'
import type { TraceFile } from './trace-file.ts'

/** As vhost-user back-end programs answer: QEMU, docs/interop/vhost-user.json. */
const CAPABILITIES = { type: 'block', features: ['blk-file', 'read-only'] }

/** What a sandbox leaves. */
const PATHS = {
  all: 'its own code is all that it can open',
  new: 'its own code is all that data-plane threads can open',
  none: 'no Landlock here, it can read what its user may'
} as const
const IO_URING = {
  none: '',
  node: '; what goes through the io_uring of Node\'s event loop is not filtered',
  any: '; what io_uring does is not filtered'
} as const

// A guest must not lose its disk because nobody reads the log any more. And a terminal is opened for writing at its first
// use: before that is given up.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
let output = new Output(false)
process.exitCode = await main(process.argv.slice(2))

async function main (args: readonly string[]): Promise<number> {
  try {
    return await run(parseCommand(args, takePassedSockets()))
  } catch (error) {
    output.log((error as Error).message)
    if (!(error instanceof UsageError)) return 1
    output.log('see --help')
    return 2
  }
}

async function run (command: Command): Promise<number> {
  switch (command.name) {
    case 'help':
      console.log(HELP)
      return 0
    case 'version':
      console.log(version())
      return 0
    case 'print-capabilities':
      console.log(JSON.stringify(CAPABILITIES, undefined, 2))
      return 0
    case 'control':
      return control(command)
    case 'trace':
      return trace(command)
    case 'serve':
      output = new Output(command.json)
      return serveUntilAsked(command)
  }
}

function version (): string {
  return JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version
}

async function control ({ path, request, json }: Extract<Command, { name: 'control' }>): Promise<number> {
  const answer = await ask(path, request)
  if (!answer.ok) throw new Error(answer.error.message)
  console.log(json ? JSON.stringify(answer.result) : describe(request.command, answer.result))
  return 0
}

// As fast as it is read, and no longer.
async function trace ({ path, json }: Extract<Command, { name: 'trace' }>): Promise<number> {
  const { readTraceFile } = await import('./trace-file.ts')
  for await (const event of readTraceFile(path)) {
    if (!process.stdout.write(filedLine(event, json))) await once(process.stdout, 'drain').catch(() => {})
    if (!process.stdout.writable) break
  }
  return 0
}

type ServeCommand = Extract<Command, { name: 'serve' }>

// What is opened is closed in the opposite order, whatever has failed.
async function serveUntilAsked (command: ServeCommand): Promise<number> {
  const disks = await withModules(command)
  const closes: (() => unknown)[] = []
  let failure: Error | undefined
  try {
    failure = await serveWith({ ...command, disks }, (close) => closes.unshift(close))
  } catch (error) {
    failure = error as Error
  }
  for (const close of closes) {
    try {
      await close()
    } catch (error) {
      failure ??= error as Error
    }
  }
  if (failure !== undefined) output.log(failure.message)
  return failure === undefined ? 0 : 1
}

// What opens other disks than images is loaded for those who have one.
async function withModules ({ disks, sandbox }: ServeCommand): Promise<NamedDisk[]> {
  if (disks.every(({ spec }) => spec === undefined)) return [...disks]
  const { checkSandboxed, parseSpec } = await import('./disk-spec.ts')
  return disks.map((disk) => {
    if (disk.spec === undefined) return disk
    const module = parseSpec(disk.spec)
    if (sandbox !== undefined) checkSandboxed(module.options!)
    return { ...disk, options: { ...disk.options, disk: module } }
  })
}

/** @returns what has ended it, unless it was asked to end */
async function serveWith (command: ServeCommand, atEnd: (close: () => unknown) => void): Promise<Error | undefined> {
  const disks: ServedDisk[] = []
  const connected = compileAfterBoot({ requests: () => requestsOf(disks) })
  const traceFile = await openTraceFile(command)
  if (traceFile !== undefined) atEnd(() => traceFile.close())
  atEnd(() => closeDisks(disks))
  const iothreads = new Map<string, IoThread>()
  let rightsAreGone = (): void => {}
  const prepareAfter = new Promise<void>((resolve) => { rightsAreGone = resolve })
  for (const { name, options, spec, iothread } of command.disks) {
    // Which disk, where there are several.
    const log = (line: string): void => output.log(command.disks.length === 1 ? line : `${name}: ${line}`)
    const server = await serve({
      ...options,
      ...(iothread !== undefined && { iothread: shared(iothreads, iothread) }),
      prepareAfter,
      onSession: connected,
      log,
      latency: command.statsInterval !== undefined || command.metrics !== undefined,
      ...tracing(command, log, traceFile?.sinkOf(disks.length))
    })
    const disk = { name, image: options.path ?? spec!, options, server }
    disks.push(disk)
    process.on('SIGHUP', () => { void resize(disk, log) })
  }
  const { asked, quit } = askedToEnd()
  if (command.control !== undefined) {
    const controls = new Controls(version(), disks, quit)
    const control = new ControlServer(controlSocket(command.control), (request) => controls.execute(request))
    atEnd(() => closeControl(control))
  }
  if (command.metrics !== undefined) {
    // Only who asks for it pays for it.
    const { serveMetrics } = await import('./metrics.ts')
    const metrics = await serveMetrics(disks, command.metrics)
    atEnd(() => metrics.close())
    output.log(`metrics at ${metrics.url}`)
  }
  const ended = Promise.race([...disks.map(({ server }) => server.closed), asked])
  const notifier = connectToSystemd()
  await giveUpRights(disks, command)
  rightsAreGone()
  for (const disk of disks) output.ready(disk)
  notify(notifier, { READY: '1', STATUS: `Serving ${disks.map(({ name }) => name).join(', ')}` })
  atEnd(() => notify(notifier, { STOPPING: '1', STATUS: 'Completing what is in flight' }))
  if (command.statsInterval !== undefined) {
    const meter = new RateMeter(() => countersOf(disks))
    const timer = setInterval(() => output.statistics(meter.sample()), command.statsInterval)
    atEnd(() => clearInterval(timer))
  }
  return ended
}

/** How many were completed. Without all that `countersOf` looks up: it is asked several times a second. */
function requestsOf (disks: readonly ServedDisk[]): number {
  let sum = 0
  for (const { server: { plane } } of disks) {
    for (let queue = 0; queue < plane.queues; queue++) sum += plane.statistics(queue).requests
  }
  return sum
}

/** The thread of a name: the first disk to name it has it made. */
function shared (threads: Map<string, IoThread>, { name, options }: NamedThread): IoThread {
  const thread = threads.get(name) ?? new IoThread(options)
  threads.set(name, thread)
  return thread
}

async function openTraceFile ({ traceFile: path, disks }: ServeCommand): Promise<TraceFile | undefined> {
  if (path === undefined) return undefined
  const { TraceFile } = await import('./trace-file.ts')
  return new TraceFile(path, disks.map(({ name }) => name), (error) => output.log(`the trace ends here: ${error.message}`))
}

type Tracing = Pick<ServeOptions, 'tracer' | 'traceMessages'>

/** Where the trace of a disk goes: to the file, to standard error, or to both. */
function tracing ({ trace }: ServeCommand, log: (line: string) => void, file: ReturnType<TraceFile['sinkOf']> | undefined): Tracing {
  const print: Tracer = (event, microseconds) => output.trace(event, microseconds)
  if (!trace) return file === undefined ? {} : { tracer: file }
  if (file === undefined) return { tracer: print, traceMessages: log }
  return {
    tracer: {
      get isFull () { return file.isFull },
      write (records) {
        for (const { event, microseconds } of decodeTrace(records)) print(event, microseconds)
        file.write(records)
      }
    },
    traceMessages: log
  }
}

// Once: the same signal a second time ends the process where it stands, should the drain not end.
function askedToEnd (): { readonly asked: Promise<undefined>, readonly quit: () => void } {
  let quit = (): void => {}
  const asked = new Promise<undefined>((resolve) => { quit = () => resolve(undefined) })
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, quit)
  return { asked, quit }
}

function controlSocket (where: string | number): ListeningSocket {
  return typeof where === 'string' ? ListeningSocket.bind(where) : ListeningSocket.inherit(where)
}

// That systemd does not hear of it is no reason not to serve.
function connectToSystemd (): Notifier | undefined {
  try {
    return Notifier.connect()
  } catch (error) {
    output.log(`systemd cannot be told anything: ${(error as Error).message}`)
    return undefined
  }
}

function notify (notifier: Notifier | undefined, assignments: Readonly<Record<string, string>>): void {
  try {
    notifier?.notify(assignments)
  } catch (error) {
    output.log(`systemd was not told: ${(error as Error).message}`)
  }
}

// In a sandbox the file stays, for the next server to take over.
function closeControl (server: ControlServer): void {
  try {
    server.close()
  } catch (error) {
    output.log(`the control socket stays, for the next server to take over: ${(error as Error).message}`)
  }
}

// What is to be opened with rights is open, and no guest was served yet.
async function giveUpRights (disks: readonly ServedDisk[], { user, sandbox }: ServeCommand): Promise<void> {
  if (user !== undefined) becomeUser(user)
  if (sandbox === undefined) return
  const ioUring = disks.some(({ server }) => usesIoUring(server.plane.engine.name))
  const { pathsRestricted, ioUring: left, missing } = await enterSandbox({ ioUring, bestEffort: sandbox === 'best-effort' })
  for (const reason of missing) output.log(`the sandbox goes without ${reason}`)
  output.log(`in a sandbox: ${PATHS[pathsRestricted]}${IO_URING[left]}`)
}

// At once: a disk that waits for its storage does not keep the others from being flushed, unlocked and gone.
async function closeDisks (disks: readonly ServedDisk[]): Promise<void> {
  const closed = await Promise.allSettled(disks.map(({ server }) => server.close()))
  const failed = closed.find((result) => result.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}

async function resize ({ server }: ServedDisk, log: (line: string) => void): Promise<void> {
  try {
    await server.resize()
    log(`the disk has ${server.plane.capacity} bytes now`)
  } catch (error) {
    log(`the disk keeps its size: ${(error as Error).message}`)
  }
}
