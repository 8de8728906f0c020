// The built program with other disks than one image.
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { footprint } from '../../../test/support/footprint.ts'
import { killAll, Program, run } from './support/program.ts'
import { newImage, newPath } from './support/scratch.ts'

const test = suite('disks')
test.after.each(killAll)

const PATTERN = new Uint8Array(4096).fill(0x5a)

async function writeAndRead (socketPath: string): Promise<number> {
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(8192, PATTERN)
  await driver.flush()
  assert.deepEqual(await driver.read(8192, 4096), PATTERN)
  await driver.close()
  return driver.config.capacity
}

test('--disk: a stack of disks is served, and closed at the end', async () => {
  const [image, socketPath] = [newImage(), newPath()]
  const spec = `throttle:ops=1000000,disk=[raw:path=${image}]`
  const program = await Program.ready([`--socket-path=${socketPath}`, `--disk=${spec}`])
  assert.ok(program.stdout.startsWith(`ready: ${spec} (1048576 bytes, read-write, 1 queue, `), program.stdout)
  await writeAndRead(socketPath)
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  assert.deepEqual(new Uint8Array(readFileSync(image).subarray(8192, 12288)), PATTERN)
  assert.equal(existsSync(socketPath), false)
})

test('--disk: a module of one\'s own', async () => {
  const [module, socketPath] = [`${newPath()}.mjs`, newPath()]
  writeFileSync(module, `export const openDisk = ({ size }) => {
    const bytes = Buffer.alloc(Number(size))
    const each = (segments, offset, copy) => segments.reduce((at, segment) => { copy(segment, at); return at + segment.length }, offset)
    return {
      capacity: bytes.length,
      read: (offset, segments) => void each(segments, offset, (segment, at) => segment.set(bytes.subarray(at, at + segment.length))),
      write: (offset, segments) => void each(segments, offset, (segment, at) => bytes.set(segment, at))
    }
  }`)
  const program = await Program.ready([`--socket-path=${socketPath}`, `--disk=module:path=${module},options=[size=65536]`])
  assert.equal(await writeAndRead(socketPath), 65536)
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  const missing = await run(`--socket-path=${socketPath}`, `--disk=module:path=${module}.gone`)
  assert.equal(missing.status, 1)
  assert.match(missing.stderr, /cannot be loaded/)
})

test('a disk that can only be read is told to be so', async () => {
  const program = await Program.ready([`--socket-path=${newPath()}`, `--disk=raw:path=${newImage()},readOnly=true`])
  assert.match(program.stdout, / \(1048576 bytes, read-only, /)
})

test('--disk with what it does not know, or cannot open', async () => {
  const socketPath = newPath()
  const wrong = await run(`--socket-path=${socketPath}`, '--disk=floppy:drive=A')
  assert.equal(wrong.status, 2)
  assert.match(wrong.stderr, /^vhost-user-blk: --disk: .*there is no type 'floppy'.*\nvhost-user-blk: see --help\n$/)
  const missing = newPath()
  const absent = await run(`--socket-path=${socketPath}`, `--disk=raw:path=${missing}`)
  assert.equal(absent.status, 1)
  assert.ok(absent.stderr.includes(missing) && absent.stderr.includes('ENOENT'), absent.stderr)
  const held = await run(`--socket-path=${socketPath}`, '--disk=nbd://localhost/x', '--sandbox')
  assert.equal(held.status, 2)
  assert.equal(existsSync(socketPath), false)
})

test('NBD exports of a real server: alone, below an overlay, and below a throttle from a file', async () => {
  if (spawnSync('nbdkit', ['--version']).error !== undefined) {
    console.log('skipped: no nbdkit: apt-get install nbdkit')
    return assert.equal(process.env.CI, undefined)
  }
  const [nbd, pidFile, socketPath] = [newPath(), newPath(), newPath()]
  const server = spawn('nbdkit', ['--foreground', '--unix', nbd, '--pidfile', pidFile, 'memory', '2M'], { stdio: 'ignore' })
  const ended = new Promise((resolve) => server.once('exit', resolve))
  try {
    // It writes its process id once it listens.
    await eventually('nbdkit listens', () => existsSync(pidFile))
    const uri = `nbd+unix:///?socket=${nbd}`
    const config = newPath()
    writeFileSync(config, JSON.stringify({ disks: [{ 'socket-path': socketPath, disk: { type: 'throttle', ops: 1e6, disk: { type: 'nbd', uri } } }] }))
    const disk = [`--socket-path=${socketPath}`, `--disk=overlay:base=${uri},file=${newPath()}`]
    assert.equal(await firstWrite(disk, socketPath), 0, 'the overlay reads as the export')
    assert.equal(await firstWrite(disk, socketPath), PATTERN[0], 'the overlay has kept what was written to it')
    assert.equal(await firstWrite([`--config=${config}`], socketPath), 0, 'but did not write the export')
    assert.equal(await firstWrite([`--socket-path=${socketPath}`, `--disk=${uri}`], socketPath), PATTERN[0], 'the throttle did')
  } finally {
    server.kill()
    await ended
  }
})

/** Serves a disk to one front-end. @returns what was where it writes, before it did */
async function firstWrite (args: readonly string[], socketPath: string): Promise<number> {
  const program = await Program.ready(args)
  const driver = await BlockDriver.connect({ socketPath })
  const [before] = await driver.read(8192, 4096)
  await driver.close()
  assert.equal(await writeAndRead(socketPath), 2 << 20)
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  return before!
}

test('--config: several disks, each with its socket and its name, ended together', async () => {
  const [root, data] = [newPath(), newPath()]
  const [image, file, control] = [newImage(), newPath(), newPath()]
  writeFileSync(file, JSON.stringify({
    disks: [
      { name: 'root', 'socket-path': root, 'blk-file': image, engine: 'sync' },
      { name: 'data', 'socket-path': data, disk: { type: 'ram', capacity: '2M' } }
    ]
  }))
  const program = new Program([`--config=${file}`, `--control=${control}`])
  await program.seen(/^ready: .*\nready: .*\n/, 'stdout')
  assert.deepEqual(await Promise.all([root, data].map(writeAndRead)), [1 << 20, 2 << 20])
  await program.seen(/root: a front-end connected/)
  await program.seen(/data: a front-end connected/)
  const { disks } = JSON.parse((await run('control', control, 'stats', '--json')).stdout)
  assert.deepEqual(disks.map(({ name, queues }: any) => [name, queues[0].bytesWritten]), [['root', 4096], ['data', 4096]])
  assert.match((await run('control', control, 'resize')).stderr, /which disk\? There are root, data\./)
  assert.equal((await run('control', control, 'resize', '4194304', '--name=root')).stdout, 'root has 4194304 bytes\n')
  assert.equal(statSync(image).size, 4 << 20)
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  assert.ok(!existsSync(root) && !existsSync(data))
})

test('the disks are closed at the same time: one that waits for a request keeps no other from its end', async () => {
  const [first, stuck, last, file] = [newPath(), newPath(), newPath(), newPath()]
  const ram = { type: 'ram', capacity: '1M' }
  const lost = { type: 'faulty', disk: ram, rules: [{ fault: 'never', operation: 'read' }] }
  const disks = [[first, ram], [stuck, lost], [last, ram]].map(([socket, disk]) => ({ 'socket-path': socket, disk, 'stop-timeout': 86_400 }))
  writeFileSync(file, JSON.stringify({ disks }))
  const program = new Program([`--config=${file}`, '--json', '--stats'])
  await program.seen(/(.*"event":"ready".*\n){3}/, 'stdout')
  const driver = await BlockDriver.connect({ socketPath: stuck })
  const read = driver.read(0, 512).catch((error: Error) => error)
  await program.seen(/"inFlight":1\b/, 'stdout')
  program.process.kill('SIGTERM')
  await eventually('the others are closed', () => !existsSync(first) && !existsSync(last))
  assert.equal((await program.end('SIGKILL')).signal, 'SIGKILL', 'the one that waits has kept it')
  assert.ok(await read instanceof Error)
  await driver.close()
})

test('disks that name the same iothread have one thread, as long as one of them has a guest', async () => {
  const file = newPath()
  const sockets = [newPath(), newPath(), newPath()]
  const polls = (): number => footprint(program.process.pid!).filter((item) => item === 'descriptor of anon_inode:[eventpoll]').length
  const disks = sockets.map((socket, index) => ({ 'socket-path': socket, 'blk-file': newImage(), ...(index > 0 && { iothread: 'io0' }) }))
  writeFileSync(file, JSON.stringify({ disks }))
  const program = await Program.ready([`--config=${file}`])
  const before = polls()
  const drivers: BlockDriver[] = []
  const counts: number[] = []
  for (const socketPath of sockets) {
    drivers.push(await BlockDriver.connect({ socketPath }))
    counts.push(polls())
  }
  const [own, first, second] = counts as [number, number, number]
  assert.deepEqual([own > before, first > own, second === first], [true, true, true], `epoll instances: ${before}, then ${counts}`)
  await Promise.all(drivers.map(async (driver, index) => {
    const bytes = new Uint8Array(4096).fill(1 + index)
    await driver.write(0, bytes)
    assert.deepEqual(await driver.read(0, 4096), bytes)
  }))
  await drivers[1]!.close()
  assert.deepEqual(await drivers[2]!.read(0, 4096), new Uint8Array(4096).fill(3))
  await drivers[2]!.close()
  await drivers[0]!.close()
  assert.deepEqual(await program.end(), { status: 0, signal: null })
})

test('--config: where one disk cannot be served, none is', async () => {
  const [root, file] = [newPath(), newPath()]
  writeFileSync(file, JSON.stringify({ disks: [{ 'socket-path': root, 'blk-file': newImage() }, { 'socket-path': newPath(), 'blk-file': newPath() }] }))
  const { status, stdout, stderr } = await run(`--config=${file}`)
  assert.deepEqual([status, stdout, existsSync(root)], [1, '', false])
  assert.match(stderr, /ENOENT/)
})

test.run()
