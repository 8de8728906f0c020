// The built program with other disks than one image.
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
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

test('--disk: an NBD export of a real server', async () => {
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
    const program = await Program.ready([`--socket-path=${socketPath}`, `--disk=nbd+unix:///?socket=${nbd}`])
    assert.equal(await writeAndRead(socketPath), 2 << 20)
    assert.deepEqual(await program.end(), { status: 0, signal: null })
  } finally {
    server.kill()
    await ended
  }
})

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

test('--config: where one disk cannot be served, none is', async () => {
  const [root, file] = [newPath(), newPath()]
  writeFileSync(file, JSON.stringify({ disks: [{ 'socket-path': root, 'blk-file': newImage() }, { 'socket-path': newPath(), 'blk-file': newPath() }] }))
  const { status, stdout, stderr } = await run(`--config=${file}`)
  assert.deepEqual([status, stdout, existsSync(root)], [1, '', false])
  assert.match(stderr, /ENOENT/)
})

test.run()
