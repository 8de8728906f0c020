import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { test } from 'uvu'
import { type Command, HELP, parseCommand, UsageError, usesIoUring } from '../src/options.ts'
import type { ServeOptions } from '../src/serve.ts'
import { newPath } from './support/scratch.ts'

const least = ['--socket-path=/run/disk.sock', '--blk-file=disk.raw']

function options (...args: string[]): ServeOptions {
  const command = parseCommand(args)
  if (command.name !== 'serve') throw new Error(command.name)
  return command.disks[0]!.options
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
    json: false,
    disks: [{
      name: 'disk0',
      options: {
        path: 'disk.raw', socketPath: '/run/disk.sock', noFollow: false, readOnly: false, direct: false, pollMaxMicroseconds: 100, writeThrough: false, discardSegments: 1,
        packed: false, inOrder: false, queues: 1, threads: 1, queueThreads: [], cpus: [], engine: 'auto', stopTimeout: 60_000, serial: '', lock: 'open'
      }
    }]
  })
})

test('each flag reaches the server, with = or as the next argument', () => {
  assert.deepEqual(parseCommand([
    '--fd', '3', '--blk-file', 'disk.raw', '--lock', 'running', '--no-follow', '--read-only', '--direct', '--poll-max-us', '0', '--write-through', '--discard-segments', '0', '--packed',
    '--in-order', '--num-queues', '3', '--threads', '2', '--queue-threads', '0,1,1', '--cpus', '2+3,4', '--engine', 'linux-aio',
    '--serial', 'exactly twenty bytes', '--stop-timeout', '5', '--user', '0:0', '--sandbox', '--trace', '--name', 'root', '--control', 'disk.ctl',
    '--json', '--stats', '--metrics', '9100', '--trace-file', 'disk.trace'
  ]), {
    name: 'serve',
    trace: true,
    traceFile: 'disk.trace',
    user: { uid: 0, gid: 0, primaryGid: 0 },
    sandbox: 'full',
    control: 'disk.ctl',
    json: true,
    metrics: { host: '127.0.0.1', port: 9100 },
    statsInterval: 1000,
    disks: [{
      name: 'root',
      options: {
        path: 'disk.raw', fd: 3, noFollow: true, readOnly: true, direct: true, pollMaxMicroseconds: 0, writeThrough: true, discardSegments: 0, packed: true, inOrder: true,
        queues: 3, threads: 2, queueThreads: [0, 1, 1], cpus: [[2, 3], [4]], engine: 'linux-aio', stopTimeout: 5000, serial: 'exactly twenty bytes',
        lock: 'running'
      }
    }]
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
  for (const engine of ['auto', 'no-io_uring', 'mapped', 'io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync']) assert.equal(options(...least, `--engine=${engine}`).engine, engine)
  assert.equal(refusal(...least, '--engine=threads'), 'no engine is called threads: use auto, no-io_uring, mapped, io_uring+linux-aio, io_uring, linux-aio, sync.')
})

// A sandbox leaves io_uring to those that do.
test('a module in a folder called io_uring does not use io_uring', () => {
  for (const engine of ['io_uring', 'io_uring+linux-aio']) assert.equal(usesIoUring(engine), true)
  for (const engine of ['mapped', 'linux-aio', 'sync', 'file:///srv/io_uring/disk.mjs', 'file:///srv/io_uring+linux-aio']) assert.equal(usesIoUring(engine), false)
})

test('an image is needed', () => {
  assert.equal(refusal(), 'which image? Give --blk-file=IMAGE, or --disk=SPEC.')
  assert.equal(refusal('--socket-path=s', '--blk-file='), 'which image? Give --blk-file=IMAGE, or --disk=SPEC.')
})

test('a disk that is no image has its own options', () => {
  const { disks: [disk] } = parseCommand(['--socket-path=s', '--disk=ram:capacity=1M', '--read-only', '--num-queues=2']) as Extract<Command, { name: 'serve' }>
  assert.equal(disk!.spec, 'ram:capacity=1M')
  const { path, lock, engine, direct, noFollow, readOnly, queues } = disk!.options
  assert.deepEqual([path, lock, engine, direct, noFollow, readOnly, queues], [undefined, undefined, undefined, undefined, undefined, true, 2])
  assert.equal(refusal(...least, '--disk=x'), 'give either --blk-file=IMAGE or --disk=SPEC.')
  for (const flag of ['--no-follow', '--lock=running', '--direct', '--engine=sync', '--threads=2']) {
    assert.equal(refusal('--socket-path=s', '--disk=x', '--num-queues=2', flag),
      `${flag.replace(/=.*/, '')} is for --blk-file: what --disk names has its own options, and one thread.`)
  }
})

test('several disks come from a file, each as from a command line of its own', () => {
  const file = newPath()
  const configure = (config: unknown, ...args: string[]) => {
    writeFileSync(file, JSON.stringify(config))
    return parseCommand([`--config=${file}`, ...args], [{ fd: 3, name: 'data' }]) as Extract<Command, { name: 'serve' }>
  }
  const refused = (config: unknown, ...args: string[]): string => {
    try {
      configure(config, ...args)
    } catch (error) {
      assert.ok(error instanceof UsageError)
      return error.message.replace(file, 'FILE')
    }
    throw new Error('it was taken')
  }
  const [root, data, third] = configure({
    disks: [
      { name: 'root', 'socket-path': 'root.sock', 'blk-file': 'root.raw', 'num-queues': 2, 'read-only': true, packed: false, engine: 'sync' },
      { name: 'data', 'blk-file': 'data.raw' },
      { 'socket-path': 'third.sock', disk: { type: 'ram', capacity: '1M' } }
    ]
  }, '--stats', '--sandbox').disks
  const { path, socketPath, queues, readOnly, packed, engine } = root!.options
  assert.deepEqual([root!.name, path, socketPath, queues, readOnly, packed, engine], ['root', 'root.raw', 'root.sock', 2, true, false, 'sync'])
  assert.deepEqual([data!.options.fd, data!.options.engine], [3, 'no-io_uring'])
  assert.deepEqual([third!.name, third!.spec], ['disk2', '{"type":"ram","capacity":"1M"}'])

  const disk = { 'socket-path': 's', 'blk-file': 'b' }
  assert.equal(refused({ disks: [disk] }, '--serial=x'), 'with --config, --serial belongs to the disks of the file.')
  assert.equal(refused({ disks: [disk, { ...disk, name: 'disk0' }] }), 'FILE: two disks are called disk0.')
  assert.equal(refused({ disks: [disk, { ...disk, 'num-queues': 0 }] }), 'FILE: disks[1]: --num-queues takes a number from 1 to 256: not "0".')
  assert.match(refused({ disks: [{ ...disk, sandbox: true }] }), /^FILE: disks\[0\]: Unknown option '--sandbox'/)
  assert.match(refused({ disks: [] }), /^--config: FILE: "disks" is a list of at least one disk\.$/)

  const shared = { ...disk, iothread: 'io0', 'poll-max-us': 20, cpus: '1' }
  const { options: { threads, cpus, pollMaxMicroseconds }, iothread } = configure({ disks: [disk, shared, { ...shared }] }).disks[2]!
  assert.deepEqual(iothread, { name: 'io0', options: { cpus: [1], pollMaxMicroseconds: 20 } })
  assert.deepEqual([threads, cpus, pollMaxMicroseconds], [undefined, undefined, undefined])
  assert.equal(refused({ disks: [shared, { ...shared, cpus: '0' }] }), 'FILE: the disks of iothread io0 say different things of cpus or poll-max-us.')
  assert.match(refused({ disks: [{ ...shared, threads: 2, 'num-queues': 2, cpus: '1,1' }] }), /: give either --iothread or --threads,/)
  assert.match(refused({ disks: [{ 'socket-path': 's', disk: 'ram:capacity=1M', iothread: 'io0' }] }), /: --iothread is for --blk-file:/)
  assert.match(refused({ disks: [{ ...disk, iothread: '' }] }), /: --iothread takes up to 64 letters,/)
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

test('a socket that systemd passed on takes the place of one that is not named', () => {
  const command = (sockets: Record<string, number>, ...args: string[]) => parseCommand(['--blk-file=disk.raw', ...args],
    Object.entries(sockets).map(([name, fd]) => ({ name, fd }))) as Extract<Command, { name: 'serve' }>
  const fd = (sockets: Record<string, number>, ...args: string[]) => command(sockets, ...args).disks[0]!.options.fd
  assert.equal(fd({ 'disk.socket': 3 }), 3)
  assert.equal(fd({ control: 3, 'disk.socket': 4 }), 4)
  assert.equal(command({ control: 3, 'disk.socket': 4 }).control, 3)
  assert.equal(fd({ root: 3, data: 4 }, '--name=data'), 4)
  assert.throws(() => fd({ root: 3, data: 4 }), { message: 'systemd passed several sockets: name the one for this disk FileDescriptorName=disk0.' })
  assert.throws(() => fd({ control: 3 }), { message: 'give either --socket-path=PATH or --fd=N.' })
  const { disks: [disk], control } = command({ 'disk.socket': 3, control: 4 }, '--socket-path=s', '--control=c')
  assert.deepEqual([disk!.options.socketPath, disk!.options.fd, control], ['s', undefined, 'c'])
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
  assert.equal(options(...least, '--sandbox').engine, 'no-io_uring')
  assert.equal(options(...least, '--sandbox', '--engine=auto').engine, 'no-io_uring')
  for (const engine of ['mapped', 'io_uring+linux-aio', 'io_uring', 'sync']) assert.equal(options(...least, '--sandbox', `--engine=${engine}`).engine, engine)
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

test('a name is one for scripts and labels', () => {
  assert.equal(refusal(...least, '--name=a b'), '--name takes up to 64 letters, digits and any of _.:-: not "a b".')
  assert.equal(refusal(...least, '--control='), '--control takes a path: not "".')
})

test('statistics come every second, or as often as is said', () => {
  const command = (...args: string[]) => parseCommand([...least, ...args]) as Extract<Command, { name: 'serve' }>
  assert.equal(command('--stats').statsInterval, 1000)
  assert.equal(command('--stats=60').statsInterval, 60_000)
  assert.equal(refusal(...least, '--stats=0'), '--stats takes a number from 1 to 86400: not "0".')
})

test('metrics are for this machine alone unless a host is given', () => {
  const metrics = (text: string) => (parseCommand([...least, `--metrics=${text}`]) as Extract<Command, { name: 'serve' }>).metrics
  assert.deepEqual(metrics(':9100'), { host: '127.0.0.1', port: 9100 })
  assert.deepEqual(metrics('0.0.0.0:9100'), { host: '0.0.0.0', port: 9100 })
  assert.deepEqual(metrics('localhost:0'), { host: 'localhost', port: 0 })
  assert.deepEqual(metrics('[::1]:9100'), { host: '::1', port: 9100 })
  for (const text of ['', 'localhost', 'localhost:', '::1:9100', '[::1]', 'a:b', 'http://localhost:9100']) {
    assert.equal(refusal(...least, `--metrics=${text}`), `--metrics takes PORT, HOST:PORT or [IPV6]:PORT: not "${text}".`)
  }
  assert.equal(refusal(...least, '--metrics=65536'), '--metrics takes a number from 0 to 65535: not "65536".')
})

test('control takes a path, a command, and what the command takes', () => {
  const control = (...args: string[]) => parseCommand(['control', ...args])
  assert.deepEqual(control('disk.ctl', 'status'), { name: 'control', path: 'disk.ctl', json: false, request: { command: 'status' } })
  assert.deepEqual(control('disk.ctl', 'resize', '1048576', '--name=root', '--json'), {
    name: 'control', path: 'disk.ctl', json: true, request: { command: 'resize', disk: 'root', bytes: 1048576 }
  })
  assert.deepEqual(control('disk.ctl', 'resize', 'reread'), { name: 'control', path: 'disk.ctl', json: false, request: { command: 'resize', bytes: 'reread' } })
  for (const args of [[], ['disk.ctl'], ['disk.ctl', 'explode'], ['', 'quit']]) {
    assert.equal(refusal('control', ...args), 'control takes the path of a control socket and one of status, stats, resize, pause, resume, quit.')
  }
  assert.equal(refusal('control', 'disk.ctl', 'quit', 'now'), 'control quit takes no "now".')
  assert.equal(refusal('control', 'disk.ctl', 'resize', '1', '2'), 'control resize takes no "2".')
  assert.equal(refusal('control', 'disk.ctl', 'resize', '1G'), 'control resize takes a number from 1 to 9007199254740991: not "1G".')
  assert.match(refusal('control', 'disk.ctl', 'quit', '--force'), /^Unknown option '--force'/)
})

test('trace takes a file', () => {
  assert.deepEqual(parseCommand(['trace', 'disk.trace']), { name: 'trace', path: 'disk.trace', json: false })
  assert.deepEqual(parseCommand(['trace', '--json', 'disk.trace']), { name: 'trace', path: 'disk.trace', json: true })
  for (const args of [[], [''], ['one', 'two']]) assert.equal(refusal('trace', ...args), 'trace takes the path of one file, that --trace-file has written.')
  assert.match(refusal('trace', 'disk.trace', '--name=root'), /^Unknown option '--name'/)
  assert.equal(refusal(...least, '--trace-file='), '--trace-file takes a path: not "".')
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
    '--print-capabilities', '--help', '--version', '--socket-mode', '--socket-owner', '--no-follow', '--user', '--sandbox', '--name', '--control',
    '--json', '--stats', '--metrics', '--trace-file', '--disk', '--config', '--lock', '--poll-max-us', '--stop-timeout'
  ]) assert.match(HELP, new RegExp(`^  .*${flag}\\b`, 'm'))
  for (const line of HELP.split('\n')) assert.ok(line.length <= 120, line)
})

test.run()
