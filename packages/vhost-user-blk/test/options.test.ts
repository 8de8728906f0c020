import assert from 'node:assert/strict'
import { test } from 'uvu'
import { type Command, HELP, parseCommand, UsageError } from '../src/options.ts'
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
      path: 'disk.raw', socketPath: '/run/disk.sock', noFollow: false, readOnly: false, direct: false, pollMaxMicroseconds: 100, writeThrough: false, discardSegments: 1,
      packed: false, inOrder: false, queues: 1, threads: 1, queueThreads: [], cpus: [], engine: 'auto', stopTimeout: 60_000, serial: '', lock: 'open'
    }
  })
})

test('each flag reaches the server, with = or as the next argument', () => {
  assert.deepEqual(parseCommand([
    '--fd', '3', '--blk-file', 'disk.raw', '--lock', 'running', '--no-follow', '--read-only', '--direct', '--poll-max-us', '0', '--write-through', '--discard-segments', '0', '--packed',
    '--in-order', '--num-queues', '3', '--threads', '2', '--queue-threads', '0,1,1', '--cpus', '2+3,4', '--engine', 'linux-aio',
    '--serial', 'exactly twenty bytes', '--stop-timeout', '5', '--user', '0:0', '--sandbox', '--trace'
  ]), {
    name: 'serve',
    trace: true,
    user: { uid: 0, gid: 0, primaryGid: 0 },
    sandbox: 'full',
    options: {
      path: 'disk.raw', fd: 3, noFollow: true, readOnly: true, direct: true, pollMaxMicroseconds: 0, writeThrough: true, discardSegments: 0, packed: true, inOrder: true,
      queues: 3, threads: 2, queueThreads: [0, 1, 1], cpus: [[2, 3], [4]], engine: 'linux-aio', stopTimeout: 5000, serial: 'exactly twenty bytes',
      lock: 'running'
    }
  })
})

test('threads are not more than queues, and lists have an item for each', () => {
  const four = [...least, '--num-queues=4', '--threads=2']
  assert.equal(refusal(...least, '--threads=2'), '--threads takes a number from 1 to 1: not "2".')
  assert.equal(refusal(...four, '--queue-threads=0,1'), '--queue-threads takes 4 items: not the 2 of "0,1".')
  assert.equal(refusal(...four, '--queue-threads=0,1,2,0'), '--queue-threads takes a number from 0 to 1: not "2".')
  assert.equal(refusal(...four, '--cpus=0'), '--cpus takes 2 items: not the 1 of "0".')
  assert.equal(refusal(...four, '--cpus=0,1+'), '--cpus takes a number from 0 to 1023: not "".')
  assert.equal(refusal(...least, '--discard-segments=257'), '--discard-segments takes a number from 0 to 256: not "257".')
})

test('each engine is known by its name', () => {
  for (const engine of ['auto', 'io_uring', 'linux-aio', 'sync']) assert.equal(options(...least, `--engine=${engine}`).engine, engine)
  assert.equal(refusal(...least, '--engine=threads'), 'no engine is called threads: use auto, io_uring, linux-aio, sync.')
})

test('an image is needed', () => {
  assert.equal(refusal(), 'which image? Give --blk-file=IMAGE.')
  assert.equal(refusal('--socket-path=s', '--blk-file='), 'which image? Give --blk-file=IMAGE.')
})

test('the image is locked while it is open, or while a guest runs', () => {
  assert.equal(options(...least, '--lock=running').lock, 'running')
  assert.equal(refusal(...least, '--lock=never'), '--lock takes open or running: not "never".')
})

test('one of a path and a descriptor is needed, not both', () => {
  const message = 'give either --socket-path=PATH or --fd=N.'
  assert.equal(refusal('--blk-file=disk.raw'), message)
  assert.equal(refusal('--blk-file=disk.raw', '--fd=3', '--socket-path=s'), message)
  assert.equal(refusal('--blk-file=disk.raw', '--socket-path='), '--socket-path takes a path: not "".')
})

test('the socket has permissions and an owner; one that was passed on has them already', () => {
  const { socketMode, socketOwner } = options(...least, '--socket-mode=660', '--socket-owner=0:4242')
  assert.equal(socketMode, 0o660)
  assert.deepEqual(socketOwner, { uid: 0, gid: 4242, primaryGid: 0 })
  assert.equal(options(...least, '--socket-mode=0600').socketMode, 0o600)
  for (const text of ['', '8', '0o600', '1777', '00600', 'rw']) {
    assert.equal(refusal(...least, `--socket-mode=${text}`), `--socket-mode takes an octal number up to 0777: not "${text}".`)
  }
  assert.equal(refusal(...least, '--socket-owner=no-such-user'), '--socket-owner: no user "no-such-user" in /etc/passwd: give its number if another directory has it.')
  for (const flag of ['--socket-mode=600', '--socket-owner=0']) {
    assert.equal(refusal('--fd=3', '--blk-file=x', flag), '--socket-mode and --socket-owner are for --socket-path: the socket of --fd is as it was made.')
  }
})

test('a sandbox is full unless the best effort is asked for, and leaves io_uring only where that was', () => {
  const command = (...args: string[]) => parseCommand([...least, ...args]) as Extract<Command, { name: 'serve' }>
  assert.equal(command().sandbox, undefined)
  assert.equal(command('--sandbox').sandbox, 'full')
  assert.equal(command('--sandbox=best-effort').sandbox, 'best-effort')
  assert.equal(refusal(...least, '--sandbox=some'), '--sandbox takes nothing, or best-effort: not "some".')
  assert.equal(command('--sandbox').options.engine, 'linux-aio')
  for (const engine of ['io_uring', 'sync']) assert.equal(command('--sandbox', `--engine=${engine}`).options.engine, engine)
})

test('a user to become is looked up at once', () => {
  assert.equal(refusal(...least, '--user=no-such-user:0'), '--user: no user "no-such-user" in /etc/passwd: give its number if another directory has it.')
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
    '--socket-path', '--fd', '--blk-file', '--read-only', '--num-queues', '--engine', '--threads', '--queue-threads', '--cpus',
    '--direct', '--write-through', '--discard-segments', '--packed', '--in-order', '--serial', '--trace',
    '--print-capabilities', '--help', '--version', '--socket-mode', '--socket-owner', '--no-follow', '--user', '--sandbox'
  ]) assert.match(HELP, new RegExp(`^  .*${flag}\\b`, 'm'))
  for (const line of HELP.split('\n')) assert.ok(line.length <= 120, line)
})

test.run()
