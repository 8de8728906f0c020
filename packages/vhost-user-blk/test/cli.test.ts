// The built program, as a user runs it: plain Node, no loader.
import { close, bindUnix, listen, unixSocket, unixSocketPair } from '@node-vmm/libc'
import { FrontEnd, FrontEndRequest, OFFERED_PROTOCOL_FEATURES, ProtocolFeature } from '@node-vmm/vhost-user'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import { HELP } from '../src/options.ts'
import { killAll, Program, run, without } from './support/program.ts'
import { newImage, newPath } from './support/scratch.ts'

const VIRTIO_BLK_F_RO = 1n << 5n
const VIRTIO_BLK_F_DISCARD = 1n << 13n
const VIRTIO_F_RING_PACKED = 1n << 34n
const VIRTIO_F_IN_ORDER = 1n << 35n
const PATTERN = new Uint8Array(4096).fill(0x5a)

const test = suite('cli')
test.after.each(killAll)

function place (image = newImage()): { image: string, socketPath: string, args: string[] } {
  const socketPath = newPath()
  return { image, socketPath, args: [`--socket-path=${socketPath}`, `--blk-file=${image}`] }
}

/** How often the threads of a process have gone to sleep. */
function timesAwake (pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8')
    return sum + Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(status)![1])
  }, 0)
}

async function writeAndRead (socketPath: string): Promise<void> {
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(8192, PATTERN)
  await driver.flush()
  assert.deepEqual(await driver.read(8192, 4096), PATTERN)
  await driver.close()
}

test('says in one line that it is ready, and nothing else', async () => {
  const { image, socketPath, args } = place()
  const program = await Program.ready([...args, '--engine=sync'])
  await program.end()
  assert.equal(program.stdout, `ready: ${image} (1048576 bytes, read-write, 1 queue, sync) on ${socketPath}\n`)
  assert.equal(program.stderr, '')
})

test('without a guest it sleeps, and is not woken', async () => {
  const { args } = place()
  const program = await Program.ready(args)
  // What was to be done at its start ends some time.
  for (const deadline = Date.now() + 60_000; ;) {
    const before = timesAwake(program.process.pid!)
    await sleep(1500)
    if (timesAwake(program.process.pid!) === before) return
    assert.ok(Date.now() < deadline, 'it is woken all the time')
  }
})

test('answers --help, --version and --print-capabilities, whatever else is there', async () => {
  for (const flag of ['--help', '-h']) assert.deepEqual(await run(flag), { status: 0, stdout: `${HELP}\n`, stderr: '' })
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  assert.deepEqual(await run('--version'), { status: 0, stdout: `${version}\n`, stderr: '' })
  const { status, stdout, stderr } = await run('--print-capabilities', '--bogus')
  assert.deepEqual([status, stderr], [0, ''])
  // VHostUserBackendCapabilities of QEMU's docs/interop/vhost-user.json.
  assert.deepEqual(JSON.parse(stdout), { type: 'block', features: ['blk-file', 'read-only'] })
})

test('exits with 2 and the remedy for a command line that is wrong', async () => {
  const { args } = place()
  for (const [wrong, message] of [
    [[], /^vhost-user-blk: which image\? Give --blk-file=IMAGE, or --disk=SPEC\.\nvhost-user-blk: see --help\n$/],
    [['--blk-file=x'], /give either --socket-path=PATH or --fd=N/],
    [[...args, '--num-queues=0'], /--num-queues takes a number from 1 to 256/],
    [[...args, '--engine=fast'], /no engine is called fast/],
    [[...args, '--daemon'], /Unknown option '--daemon'/]
  ] as const) {
    const { status, stdout, stderr } = await run(...wrong)
    assert.deepEqual([status, stdout], [2, ''])
    assert.match(stderr, message)
  }
})

test('exits with 1 and the remedy for what it cannot serve, leaving no socket', async () => {
  const missing = newPath()
  for (const [image, message] of [
    [missing, `open ${missing}: ENOENT, no such file or directory. Create it, for instance: truncate -s 1G ${missing}`],
    [newImage(1000), 'truncate -s'],
    [newImage(0), 'a disk has whole sectors'],
    ['/dev/null', '/dev/null is neither a file nor a block device'],
    ['/', 'name a file or a block device']
  ] as const) {
    const { socketPath, args } = place(image)
    const { status, stdout, stderr } = await run(...args)
    assert.deepEqual([status, stdout], [1, ''])
    assert.match(stderr, /^vhost-user-blk: .*\n$/)
    assert.ok(stderr.includes(message), stderr)
    assert.equal(existsSync(socketPath), false)
  }
})

test('exits with 1 where it cannot listen, and leaves alone what is there', async () => {
  const file = newPath()
  writeFileSync(file, 'precious')
  for (const [where, message] of [
    [`--socket-path=${newPath()}/socket`, /bind .*ENOENT/],
    [`--socket-path=/${'x'.repeat(150)}`, /1 to 107 bytes/],
    [`--socket-path=${file}`, /is no socket: it is left as it is/],
    ['--fd=77', /EBADF/],
    ['--fd=0', /ENOTSOCK/]
  ] as const) {
    const { status, stderr } = await run(where, `--blk-file=${newImage()}`)
    assert.equal(status, 1)
    assert.match(stderr, message)
  }
  assert.equal(readFileSync(file, 'utf8'), 'precious')
})

test('an image in use is refused, by its file, not by its name', async () => {
  const { image, args } = place()
  await Program.ready(args)
  const link = newPath()
  symlinkSync(image, link)
  for (const again of [place(image), place(link)]) {
    const { status, stderr } = await run(...again.args)
    assert.equal(status, 1)
    assert.match(stderr, /is in use by another process .*Stop it/)
  }
  assert.equal((await run(...place(image).args, '--read-only')).status, 1)
})

test('any number may serve an image read-only; nobody may write it then', async () => {
  const { image, args } = place()
  await Program.ready([...args, '--read-only'])
  await Program.ready([...place(image).args, '--read-only'])
  assert.equal((await run(...place(image).args)).status, 1)
})

const TOOLS = ['qemu-img', 'qemu-io'] as const
const noTools = TOOLS.find((tool) => spawnSync(tool, ['--version']).error !== undefined)

test('QEMU\'s tools do not rely on nor write to an image that is served, share one that is only read, and have it when it is free', async () => {
  if (noTools !== undefined) {
    console.log(`skipped: no ${noTools}: apt-get install qemu-utils`)
    return assert.equal(process.env.CI, undefined)
  }
  const { image, args } = place()
  const ask = (tool: typeof TOOLS[number], ...command: string[]): string => {
    const { status, stderr } = spawnSync(tool, command, { encoding: 'utf8', timeout: 60_000 })
    return status === 0 ? 'works' : /Failed to get .*lock/.exec(stderr)?.[0] ?? stderr
  }
  const all = (): string[] => [
    ask('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', image, newPath()), ask('qemu-io', '-f', 'raw', '-c', 'write 0 512', image)
  ]
  const writer = await Program.ready(args)
  assert.deepEqual(all(), ['Failed to get shared "write" lock', 'Failed to get "write" lock'])
  await writer.end()

  const reader = await Program.ready([...args, '--read-only'])
  assert.deepEqual(all(), ['works', 'Failed to get "write" lock'])
  await reader.end()
  assert.deepEqual(all(), ['works', 'works'])
})

test('raw is raw: an image that begins as a qcow2 with a backing file is served as the bytes that it has', async () => {
  const secret = newPath()
  writeFileSync(secret, Buffer.alloc(1 << 16, 'secret'))
  const image = newImage(1 << 20)
  // The header of version 2: magic, version, where the name of the backing file stands and its length, 64 KiB clusters,
  // a virtual size of 1 GiB, no encryption, two entries of a table that is all zeros, and where the reference counts are.
  const header = Buffer.alloc(1024)
  header.write('QFI\xfb', 0, 'latin1')
  header.writeUInt32BE(2, 4)
  header.writeBigUInt64BE(512n, 8)
  header.writeUInt32BE(secret.length, 16)
  header.writeUInt32BE(16, 20)
  header.writeBigUInt64BE(1n << 30n, 24)
  header.writeUInt32BE(2, 36)
  header.writeBigUInt64BE(1n << 16n, 40)
  header.writeBigUInt64BE(2n << 16n, 48)
  header.writeUInt32BE(1, 56)
  header.write(secret, 512)
  writeFileSync(image, header, { flag: 'r+' })
  // Who guesses takes it for one, and would follow it.
  if (noTools === undefined) assert.ok(spawnSync('qemu-img', ['info', image], { encoding: 'utf8' }).stdout.includes(`backing file: ${secret}`))
  const { socketPath, args } = place(image)
  await Program.ready(args)
  const driver = await BlockDriver.connect({ socketPath })
  assert.equal(driver.config.capacity, 1 << 20)
  assert.deepEqual(Buffer.from(await driver.read(0, 1024)), header)
  assert.ok((await driver.read(1024, 65536)).every((byte) => byte === 0))
  await driver.close()
})

test('--no-follow refuses a symbolic link, with what to do', async () => {
  const link = newPath()
  const image = newImage()
  symlinkSync(image, link)
  const { status, stderr } = await run(...place(link).args, '--no-follow')
  assert.equal(status, 1)
  assert.match(stderr, /ELOOP.*It is a symbolic link: name the file itself/)
  await Program.ready([...place(image).args, '--no-follow'])
})

test('--socket-mode and --socket-owner, whatever the umask', async () => {
  const [uid, gid] = process.getuid!() === 0 ? [12345, 23456] : [process.getuid!(), process.getgid!()]
  const { socketPath, args } = place()
  const program = await Program.ready([...args, '--socket-mode=0660', `--socket-owner=${uid}:${gid}`], { shell: 'umask 777' })
  const status = statSync(socketPath, { bigint: true })
  assert.deepEqual([status.mode & 0o777n, status.uid, status.gid], [0o660n, BigInt(uid), BigInt(gid)])
  await program.end()
  assert.equal(existsSync(socketPath), false)
})

test('the socket is for its owner only, from its first moment and whatever the umask', async () => {
  for (const umask of ['000', '022', '077', '777']) {
    const { socketPath, args } = place()
    const program = await Program.ready(args, { shell: `umask ${umask}` })
    // bigint: after a plain stat of a socket, Node 20 does not follow symbolic links to packages any more.
    assert.equal(statSync(socketPath, { bigint: true }).mode & 0o777n, 0o600n)
    await program.end()
  }
})

test('the socket of a server that died is taken over, a live one is refused and undisturbed', async () => {
  const { socketPath, args } = place()
  const first = await Program.ready(args)
  assert.deepEqual(await first.end('SIGKILL'), { status: null, signal: 'SIGKILL' })
  assert.ok(existsSync(socketPath))

  await Program.ready(args)
  const { status, stderr } = await run(`--socket-path=${socketPath}`, `--blk-file=${newImage()}`)
  assert.equal(status, 1)
  assert.match(stderr, /somebody listens on .* already\. Stop that server, or choose another path\./)
  await writeAndRead(socketPath)
})

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} ends it with 0 and without its socket, nobody connected`, async () => {
    const { socketPath, args } = place()
    const program = await Program.ready(args)
    assert.deepEqual(await program.end(signal), { status: 0, signal: null })
    assert.equal(existsSync(socketPath), false)
  })

  test(`${signal} ends it with 0 in the middle of a guest's requests; what was done is on the disk`, async () => {
    const { image, socketPath, args } = place()
    const program = await Program.ready(args)
    const driver = await BlockDriver.connect({ socketPath })
    const done = new Set<number>()
    const writers = Array.from({ length: 32 }, async (_, block) => {
      for (;;) {
        await driver.write(block * 4096, PATTERN)
        done.add(block)
      }
    })
    const ends = Promise.allSettled(writers)
    while (done.size < writers.length) await new Promise(setImmediate)
    assert.deepEqual(await program.end(signal), { status: 0, signal: null })
    assert.match(program.stderr, /the session ended: the server closes\n$/)
    for (const end of await ends) assert.equal((end as PromiseRejectedResult).reason.code, 'ERR_BLOCK_DISCONNECTED')
    await driver.close()
    assert.equal(existsSync(socketPath), false)
    assert.ok(readFileSync(image).subarray(0, 32 * 4096).every((byte) => byte === 0x5a))
  })
}

test('SIGHUP: the disk has the size that its image has by now, and the guest is told', async () => {
  const { image, socketPath, args } = place()
  const program = await Program.ready(args)
  const frontEnd = FrontEnd.connect(socketPath)
  await frontEnd.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  const told = new Promise<void>((resolve) => { void frontEnd.setBackendReqFd(resolve) })
  await frontEnd.getFeatures()
  truncateSync(image, 3 << 20)
  program.process.kill('SIGHUP')
  await told
  assert.equal(Buffer.from(await frontEnd.getConfig(0, 8)).readBigUInt64LE(), 3n * 2048n)
  await program.seen(/the disk has 3145728 bytes now\n/)

  truncateSync(image, 1000)
  program.process.kill('SIGHUP')
  await program.seen(/the disk keeps its size: .*1000/)
  frontEnd.close()
  assert.deepEqual(await program.end(), { status: 0, signal: null })
})

test('control asks the server, and tells it what to do', async () => {
  const { image, args } = place()
  const path = newPath()
  const program = await Program.ready([...args, `--control=${path}`, '--engine=sync', '--name=root'])
  const control = (...command: string[]) => run('control', path, ...command)
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  const status = await control('status')
  assert.ok(status.stdout.startsWith(`version ${version}, process ${program.process.pid}, `), status.stdout)
  assert.ok(status.stdout.includes(`root: ${image} (1048576 bytes, read-write, 1 queue, sync)`), status.stdout)
  const stats = JSON.parse((await control('stats', '--json')).stdout)
  assert.deepEqual(stats.disks.map(({ name, queues }: any) => [name, queues.length, queues[0].requests]), [['root', 1, 0]])

  assert.deepEqual(await control('resize', '2097152', '--name=root'), { status: 0, stdout: 'root has 2097152 bytes\n', stderr: '' })
  assert.equal(statSync(image).size, 2 << 20)
  const refused = await control('resize', '1000')
  assert.deepEqual([refused.status, refused.stdout], [1, ''])
  assert.match(refused.stderr, /^vhost-user-blk: .*1000/)
  assert.deepEqual((await control('pause')).status, 1)

  assert.deepEqual(await control('quit'), { status: 0, stdout: 'it ends\n', stderr: '' })
  assert.deepEqual(await program.ended, { status: 0, signal: null })
  assert.equal(existsSync(path), false)
  const nobody = await control('status')
  assert.equal(nobody.status, 1)
  assert.match(nobody.stderr, /no answer from .*ENOENT.*Is a server running with --control=/)
  assert.equal((await control('explode')).status, 2)
})

test('a disk that is paused is still given back', async () => {
  const { socketPath, args } = place()
  const path = newPath()
  const program = await Program.ready([...args, `--control=${path}`])
  const driver = await BlockDriver.connect({ socketPath })
  assert.equal((await run('control', path, 'pause')).stdout, 'disk0 is paused\n')
  const lost = driver.write(0, PATTERN)
  lost.catch(() => {})
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  await assert.rejects(lost, { code: 'ERR_BLOCK_DISCONNECTED' })
  await driver.close()
})

test('where the control socket cannot be, nothing is served', async () => {
  const { socketPath, args } = place()
  const path = newPath()
  writeFileSync(path, 'precious')
  const { status, stdout, stderr } = await run(...args, `--control=${path}`)
  assert.deepEqual([status, stdout, existsSync(socketPath)], [1, '', false])
  assert.match(stderr, /is no socket: it is left as it is/)
})

test('--packed, --in-order, --threads and --cpus serve', async () => {
  const { socketPath, args } = place()
  await Program.ready([...args, '--packed', '--in-order', '--num-queues=2', '--threads=2', '--cpus=0,0'])
  await writeAndRead(socketPath)
  const driver = await BlockDriver.connect({ socketPath, queues: 2 })
  await Promise.all(Array.from({ length: 64 }, (_, block) => driver.write(block * 4096, PATTERN)))
  assert.deepEqual(await driver.read(63 * 4096, 4096), PATTERN)
  await driver.close()
  const frontEnd = FrontEnd.connect(socketPath)
  const offered = await frontEnd.getFeatures()
  for (const feature of [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]) assert.notEqual(offered & feature, 0n)
  frontEnd.close()
})

test('--write-through and --discard-segments=0 reach the guest', async () => {
  const { socketPath, args } = place()
  await Program.ready([...args, '--write-through', '--discard-segments=0'])
  const frontEnd = FrontEnd.connect(socketPath)
  const features = await frontEnd.getFeatures()
  assert.equal(features & VIRTIO_BLK_F_DISCARD, 0n)
  assert.equal((await frontEnd.getConfig(32, 1))[0], 0)
  frontEnd.close()
})

test('front-ends are served one after the other: the second waits', async () => {
  const { socketPath, args } = place()
  const program = await Program.ready(args)
  const first = FrontEnd.connect(socketPath)
  await first.getFeatures()
  const second = FrontEnd.connect(socketPath)
  let answered = false
  const answer = second.getFeatures().then((features) => {
    answered = true
    return features
  })
  await first.getFeatures()
  assert.equal(answered, false)
  first.close()
  assert.notEqual(await answer, 0n)
  second.close()
  await program.seen(/(a front-end connected\n.*the session ended: the front-end hung up\n.*){2}/)
})

test('--fd: a socket that listens already, as systemd passes it, is served and stays', async () => {
  const { socketPath, image } = place()
  const socket = unixSocket()
  bindUnix(socket, socketPath)
  listen(socket)
  const program = await Program.ready(['--fd=3', `--blk-file=${image}`], { fds: [socket] })
  assert.match(program.stdout, / on fd 3\n$/)
  await writeAndRead(socketPath)
  await writeAndRead(socketPath)
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  assert.ok(existsSync(socketPath))
  close(socket)
})

test('--fd: a socket that is connected already is served once', async () => {
  const [ours, theirs] = unixSocketPair()
  const program = await Program.ready(['--fd=3', `--blk-file=${newImage()}`], { fds: [theirs] })
  close(theirs)
  const frontEnd = new FrontEnd(ours)
  assert.equal(await frontEnd.getFeatures() & VIRTIO_BLK_F_RO, 0n)
  frontEnd.close()
  assert.deepEqual(await program.ended, { status: 0, signal: null })
})

test('each engine serves', async () => {
  for (const engine of ['mapped', 'io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync'] as const) {
    const { socketPath } = place()
    const program = new Program([`--socket-path=${socketPath}`, `--blk-file=${newImage(1 << 20, engine)}`, `--engine=${engine}`])
    await Promise.race([program.seen(/^ready/, 'stdout'), program.ended])
    if (program.stdout === '') {
      console.log(`note: ${engine} cannot be had here: ${program.stderr.trim()}`)
      assert.match(program.stderr, /io_uring_setup|io_setup/)
      continue
    }
    assert.ok(program.stdout.includes(`, ${engine})`), program.stdout)
    await writeAndRead(socketPath)
    await program.end()
  }
})

test('without io_uring, as in most containers, auto says so and takes the next; asked for by name it is refused', async () => {
  const { socketPath, args } = place()
  const program = await Program.ready(args, { nodeFlags: without('ioUringSetup') })
  assert.match(program.stdout, /, (linux-aio|sync)\) on /)
  await program.seen(/^vhost-user-blk: using (linux-aio|sync), not io_uring: io_uring_setup .*EPERM.*io_uring is disabled on this host/)
  await writeAndRead(socketPath)
  await program.end()

  const named = new Program([...args, '--engine=io_uring'], { nodeFlags: without('ioUringSetup') })
  assert.equal((await named.ended).status, 1)
  assert.match(named.stderr, /io_uring is disabled on this host/)
})

for (const [what, call, engine, reason] of [
  ['io_uring', 'ioUringSetup', 'linux-aio', /io_uring is disabled on this host/], ['Linux AIO', 'ioSetup', 'io_uring', /A seccomp filter forbids it/]
] as const) {
  test(`without ${what}, direct I/O is by the other one alone, and the reason is said once`, async () => {
    const { socketPath, args } = place()
    const program = new Program([...args, '--direct'], { nodeFlags: without(call) })
    await Promise.race([program.seen(/^ready/, 'stdout'), program.ended])
    if (program.stdout === '') return console.log(`note: no direct I/O here: ${program.stderr.trim()}`)
    assert.ok(program.stdout.includes(`, ${engine})`), program.stdout)
    await writeAndRead(socketPath)
    await program.end()
    const said = program.stderr.split('\n').filter((line) => line.includes(' not io'))
    assert.equal(said.length, 1, program.stderr)
    assert.ok(said[0]!.startsWith(`vhost-user-blk: using ${engine}, not io_uring+linux-aio: `))
    assert.match(said[0]!, reason)
  })
}

test('--direct bypasses the page cache', async () => {
  const { socketPath, args } = place()
  const program = new Program([...args, '--direct'])
  await Promise.race([program.seen(/^ready/, 'stdout'), program.ended])
  if (program.stdout === '') {
    console.log(`note: no direct I/O here: ${program.stderr.trim()}`)
    assert.match(program.stderr, /direct/i)
    return
  }
  await writeAndRead(socketPath)
})

test('--read-only: the guest is told, and what it writes all the same is refused', async () => {
  const { image, socketPath, args } = place()
  const program = await Program.ready([...args, '--read-only'])
  assert.match(program.stdout, /, read-only,/)
  const driver = await BlockDriver.connect({ socketPath })
  assert.equal(driver.config.readOnly, true)
  assert.deepEqual(await driver.read(0, 512), new Uint8Array(512))
  await driver.flush()
  await driver.close()
  // One that did not accept the feature, and knows nothing of it.
  const ignorant = await BlockDriver.connect({ socketPath, features: 0n })
  await assert.rejects(ignorant.write(0, PATTERN), { code: /ERR_BLOCK_(IO|READ_ONLY)/ })
  await ignorant.close()
  assert.ok(readFileSync(image).every((byte) => byte === 0))
})

test('--serial and --num-queues reach the guest', async () => {
  const { socketPath, args } = place()
  const program = await Program.ready([...args, '--serial=my disk 0001', '--num-queues=3'])
  assert.match(program.stdout, /, 3 queues,/)
  const driver = await BlockDriver.connect({ socketPath, queues: 3 })
  assert.equal(driver.config.queues, 3)
  assert.equal(await driver.getId(), 'my disk 0001')
  await driver.close()
})

test('--trace shows messages and requests by their old names', async () => {
  const { socketPath, args } = place()
  const program = await Program.ready([...args, '--trace'])
  await writeAndRead(socketPath)
  await program.end()
  for (const line of [
    /^vhost-user-blk: vhost_user_message direction=received request=GET_FEATURES size=0 fds=0$/m,
    /^vhost-user-blk: vhost_user_message direction=sent request=GET_FEATURES size=8 fds=0$/m,
    /^vhost-user-blk: virtio_blk_data_plane_start queues=1$/m,
    /^vhost-user-blk: vring_setup queue=0 descriptorAddress=0x[0-9a-f]+ availableAddress=0x[0-9a-f]+ usedAddress=0x[0-9a-f]+ index=0$/m,
    /^vhost-user-blk: virtio_blk_data_plane_process_request queue=0 readable=2 writable=1 head=\d+$/m,
    /^vhost-user-blk: virtio_blk_data_plane_complete_request queue=0 head=\d+ result=4096$/m,
    /^vhost-user-blk: virtio_blk_data_plane_stop$/m
  ]) assert.match(program.stderr, line)
})

test('what a front-end does wrong is told, and does not end its session', async () => {
  const { socketPath, args } = place()
  const program = await Program.ready(args)
  const frontEnd = FrontEnd.connect(socketPath)
  await frontEnd.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES & ProtocolFeature.REPLY_ACK)
  await assert.rejects(frontEnd.setVringNum(7, 128), { code: 'ERR_VHOST_USER_REFUSED' })
  await assert.rejects(frontEnd.tell(FrontEndRequest.SET_LOG_BASE), { code: 'ERR_VHOST_USER_REFUSED' })
  assert.notEqual(await frontEnd.getFeatures(), 0n)
  frontEnd.close()
  await program.seen(/the front-end hung up/)
  assert.match(program.stderr, /^vhost-user-blk: SET_VRING_NUM refused: there is no ring 7: the device has 1$/m)
  assert.match(program.stderr, /^vhost-user-blk: SET_LOG_BASE refused: /m)
})

test('bug: the server died when nobody read its log any more', async () => {
  const { socketPath, args } = place()
  const program = await Program.ready([...args, '--trace'])
  program.process.stdout!.destroy()
  program.process.stderr!.destroy()
  await writeAndRead(socketPath)
  await writeAndRead(socketPath)
  assert.deepEqual(await program.end(), { status: 0, signal: null })
})

test.run()
