#!/usr/bin/env node
import type { TraceEvent } from '@node-vmm/virtio-blk-dataplane'
import { readFileSync } from 'node:fs'
import { type Command, HELP, parseCommand, UsageError } from './options.ts'
import { becomeUser, enterSandbox } from './sandbox.ts'
import { serve, type ServeOptions, type Server } from './serve.ts'

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
process.exitCode = await main(process.argv.slice(2))

async function main (args: readonly string[]): Promise<number> {
  try {
    return await run(parseCommand(args))
  } catch (error) {
    log((error as Error).message)
    if (!(error instanceof UsageError)) return 1
    log('see --help')
    return 2
  }
}

async function run (command: Command): Promise<number> {
  switch (command.name) {
    case 'help':
      console.log(HELP)
      return 0
    case 'version':
      console.log(JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version)
      return 0
    case 'print-capabilities':
      console.log(JSON.stringify(CAPABILITIES, undefined, 2))
      return 0
    case 'serve':
      return serveUntilAsked(command)
  }
}

type ServeCommand = Extract<Command, { name: 'serve' }>

async function serveUntilAsked (command: ServeCommand): Promise<number> {
  const { options, trace } = command
  const server = await serve({
    ...options,
    log,
    ...(trace && { tracer: logTrace, traceMessages: log })
  })
  const ended = Promise.race([server.closed, signalled('SIGTERM'), signalled('SIGINT')])
  process.on('SIGHUP', () => { void resize(server) })
  try {
    await giveUpRights(server, command)
  } catch (error) {
    await server.close()
    throw error
  }
  console.log(readyLine(server, options))
  let failure = await ended
  try {
    await server.close()
  } catch (error) {
    failure ??= error as Error
  }
  if (failure !== undefined) log(failure.message)
  return failure === undefined ? 0 : 1
}

// What is to be opened with rights is open, and no guest was served yet.
async function giveUpRights ({ plane }: Server, { user, sandbox }: ServeCommand): Promise<void> {
  if (user !== undefined) becomeUser(user)
  if (sandbox === undefined) return
  const ioUring = plane.engine.name === 'io_uring'
  const { pathsRestricted, ioUring: left, missing } = await enterSandbox({ ioUring, bestEffort: sandbox === 'best-effort' })
  for (const reason of missing) log(`the sandbox goes without ${reason}`)
  log(`in a sandbox: ${PATHS[pathsRestricted]}${IO_URING[left]}`)
}

async function resize (server: Server): Promise<void> {
  try {
    await server.resize()
    log(`the disk has ${server.plane.capacity} bytes now`)
  } catch (error) {
    log(`the disk keeps its size: ${(error as Error).message}`)
  }
}

// Once: the same signal a second time ends the process where it stands, should the drain not end.
function signalled (signal: NodeJS.Signals): Promise<undefined> {
  return new Promise((resolve) => process.once(signal, () => resolve(undefined)))
}

function readyLine ({ plane }: Server, { path, socketPath, fd, readOnly = false }: ServeOptions): string {
  const where = socketPath ?? `fd ${fd}`
  const queues = plane.queues === 1 ? '1 queue' : `${plane.queues} queues`
  return `ready: ${path} (${plane.capacity} bytes, ${readOnly ? 'read-only' : 'read-write'}, ${queues}, ${plane.engine.name}) on ${where}`
}

function logTrace ({ name, ...fields }: TraceEvent): void {
  log([name, ...Object.entries(fields).map(([key, value]) => `${key}=${key.endsWith('Address') ? hex(value) : value}`)].join(' '))
}

function hex (address: number): string {
  return `0x${address.toString(16)}`
}

function log (line: string): void {
  console.error(`vhost-user-blk: ${line}`)
}
