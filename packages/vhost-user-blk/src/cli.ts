#!/usr/bin/env node
import type { TraceEvent } from '@node-vmm/virtio-blk-dataplane'
import { readFileSync } from 'node:fs'
import { type Command, HELP, parseCommand, UsageError } from './options.ts'
import { serve, type ServeOptions, type Server } from './serve.ts'

/** As vhost-user back-end programs answer: QEMU, docs/interop/vhost-user.json. */
const CAPABILITIES = { type: 'block', features: ['blk-file', 'read-only'] }

// A guest must not lose its disk because nobody reads the log any more.
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

async function serveUntilAsked ({ options, trace }: Extract<Command, { name: 'serve' }>): Promise<number> {
  const server = await serve({
    ...options,
    log,
    ...(trace && { tracer: logTrace, traceMessages: log })
  })
  const ended = Promise.race([server.closed, signalled('SIGTERM'), signalled('SIGINT')])
  process.on('SIGHUP', () => { void resize(server) })
  console.log(readyLine(server, options))
  const failure = await ended
  await server.close()
  if (failure !== undefined) log(failure.message)
  return failure === undefined ? 0 : 1
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
