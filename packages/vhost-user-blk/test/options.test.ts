import assert from 'node:assert/strict'
import { test } from 'uvu'
import { HELP, parseCommand, UsageError } from '../src/options.ts'
import type { ServeOptions } from '../src/serve.ts'

const least = ['--socket-path=/run/disk.sock', '--blk-file=disk.raw']

function options (...args: string[]): ServeOptions {
  const command = parseCommand(args)
  if (command.name !== 'serve') throw new Error(command.name)
  return command.options
}

function refusal (...args: string[]): string {
  try {
    parseCommand(args)
  } catch (error) {
    assert.ok(error instanceof UsageError)
    assert.equal(error.code, 'ERR_USAGE')
    return error.message
  }
  throw new Error('it was taken')
}

test('an image and a socket are enough', () => {
  assert.deepEqual(parseCommand(least), {
    name: 'serve',
    trace: false,
    options: {
      path: 'disk.raw', socketPath: '/run/disk.sock', readOnly: false, direct: false, queues: 1, engine: 'auto', serial: ''
    }
  })
})

test('each flag reaches the server, with = or as the next argument', () => {
  const disk = { path: 'disk.raw', readOnly: true, direct: true, queues: 256, engine: 'linux-aio', serial: 'exactly twenty bytes' }
  assert.deepEqual(parseCommand([
    '--fd', '3', '--blk-file', 'disk.raw', '--read-only', '--direct', '--num-queues', '256', '--engine', 'linux-aio',
    '--serial', disk.serial, '--trace'
  ]), { name: 'serve', trace: true, options: { ...disk, fd: 3 } })
})

test('each engine is known by its name', () => {
  for (const engine of ['auto', 'io_uring', 'linux-aio', 'sync']) assert.equal(options(...least, `--engine=${engine}`).engine, engine)
  assert.equal(refusal(...least, '--engine=threads'), 'no engine is called threads: use auto, io_uring, linux-aio, sync.')
})

test('an image is needed', () => {
  assert.equal(refusal(), 'which image? Give --blk-file=IMAGE.')
  assert.equal(refusal('--socket-path=s', '--blk-file='), 'which image? Give --blk-file=IMAGE.')
})

test('one of a path and a descriptor is needed, not both', () => {
  const message = 'give either --socket-path=PATH or --fd=N.'
  assert.equal(refusal('--blk-file=disk.raw'), message)
  assert.equal(refusal('--blk-file=disk.raw', '--fd=3', '--socket-path=s'), message)
  assert.equal(refusal('--blk-file=disk.raw', '--socket-path='), '--socket-path takes a path: not "".')
})

test('numbers are checked', () => {
  for (const text of ['0', '257', '1.5', '-1', '0x2', '1e2', '', ' 1', 'two']) {
    assert.equal(refusal(...least, `--num-queues=${text}`), `--num-queues takes a number from 1 to 256: not "${text}".`)
  }
  for (const text of ['-1', '2147483648', 'stdin']) {
    assert.equal(refusal('--blk-file=disk.raw', `--fd=${text}`), `--fd takes a number from 0 to 2147483647: not "${text}".`)
  }
  assert.equal(options('--blk-file=disk.raw', '--fd=0').fd, 0)
})

test('a serial number has 20 bytes at most, however many characters', () => {
  assert.equal(refusal(...least, '--serial=' + 'x'.repeat(21)), '--serial takes up to 20 bytes.')
  assert.equal(refusal(...least, '--serial=' + 'ä'.repeat(11)), '--serial takes up to 20 bytes.')
  assert.equal(options(...least, '--serial=' + 'ä'.repeat(10)).serial, 'ä'.repeat(10))
})

test('what is not an option is refused', () => {
  assert.match(refusal(...least, '--readonly'), /^Unknown option '--readonly'/)
  assert.match(refusal(...least, 'disk2.raw'), /^Unexpected argument 'disk2.raw'/)
  assert.match(refusal(...least, '--read-only=yes'), /^Option '--read-only' does not take an argument/)
  assert.match(refusal(...least, '--serial'), /^Option '--serial <value>' argument missing/)
})

test('a question is answered whatever else is there: the conventions of QEMU and GNU', () => {
  assert.deepEqual(parseCommand(['--print-capabilities', '--bogus', 'x']), { name: 'print-capabilities' })
  assert.deepEqual(parseCommand([...least, '--help']), { name: 'help' })
  assert.deepEqual(parseCommand(['-h']), { name: 'help' })
  assert.deepEqual(parseCommand(['--fd=none', '--version']), { name: 'version' })
})

test('the help names every flag', () => {
  for (const flag of [
    '--socket-path', '--fd', '--blk-file', '--read-only', '--num-queues', '--engine', '--direct', '--serial', '--trace',
    '--print-capabilities', '--help', '--version'
  ]) assert.match(HELP, new RegExp(`^  .*${flag}\\b`, 'm'))
  for (const line of HELP.split('\n')) assert.ok(line.length <= 120, line)
})

test.run()
