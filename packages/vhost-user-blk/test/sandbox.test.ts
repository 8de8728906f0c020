// The built program in its sandbox, as a user runs it.
import { bindUnix, close, landlockVersion, MSG_DONTWAIT, receiveMessage, unixDatagramSocket } from '@node-vmm/libc'
import { FrontEnd, OFFERED_PROTOCOL_FEATURES } from '@node-vmm/vhost-user'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import { ask } from '../src/control-client.ts'
import { killAll, Program, run } from './support/program.ts'
import { directory, newImage, newPath } from './support/scratch.ts'

const test = suite('sandbox')
test.after.each(killAll)

const isRoot = process.getuid!() === 0
/** Some user without capabilities. */
const OTHER = 65534
const full = isRoot ? ['--sandbox', `--user=${OTHER}:${OTHER}`] : ['--sandbox']
const PATTERN = new Uint8Array(65536).fill(0x5a)

// Another user must be able to read the program, which stands wherever this repository was put.
const isReadable = !isRoot || spawnSync(process.execPath, ['-e', 'fs.readFileSync(process.argv[1])', fileURLToPath(new URL('../dist/cli.js', import.meta.url))], { uid: OTHER, gid: OTHER }).status === 0
if (!isReadable) console.log(`skipped: user ${OTHER} cannot read this repository`)
const sandboxTest = isReadable ? test : test.skip

function place (engine?: string): { image: string, socketPath: string, args: string[] } {
  const [image, socketPath] = [newImage(1 << 20, engine), newPath()]
  return { image, socketPath, args: [`--socket-path=${socketPath}`, `--blk-file=${image}`] }
}

/** What the kernel says of each of its threads, but for those that end meanwhile. */
function threads ({ process: { pid } }: Program): Map<string, string>[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((id) => {
    try {
      return new Map(readFileSync(`/proc/${pid}/task/${id}/status`, 'utf8').split('\n').map((line) => line.split(/:\s+/) as [string, string]))
    } catch {
      return []
    }
  })
}

sandboxTest('control clients are served, and a guest while they are', async () => {
  const { image, socketPath, args } = place()
  const path = newPath()
  const [notified, name] = [unixDatagramSocket(), newPath()]
  bindUnix(notified, name)
  const program = await Program.ready([...args, ...full, `--control=${path}`, '--metrics=0'], { shell: `export NOTIFY_SOCKET=${name}` })
  const [url] = /http:.*/.exec(program.stderr)!
  assert.match(await (await fetch(url)).text(), /^node_vmm_sessions_total\{disk="disk0"\} 0$/m)
  const driver = await BlockDriver.connect({ socketPath })
  assert.deepEqual(await ask(path, { command: 'pause' }), { ok: true, result: { disk: 'disk0', state: 'paused' } })
  assert.deepEqual(await ask(path, { command: 'resume' }), { ok: true, result: { disk: 'disk0', state: 'running' } })
  await driver.write(0, PATTERN)
  assert.deepEqual(await ask(path, { command: 'resize', bytes: 2 << 20 }), { ok: true, result: { disk: 'disk0', capacity: 2 << 20 } })
  assert.equal(statSync(image).size, 2 << 20)
  await driver.close()
  await ask(path, { command: 'quit' })
  assert.deepEqual(await program.ended, { status: 0, signal: null })
  assert.match(program.stderr, /the control socket stays, for the next server to take over/)
  const buffer = Buffer.alloc(64)
  for (const message of ['READY=1\nSTATUS=Serving disk0', 'STOPPING=1\nSTATUS=Completing what is in flight']) {
    assert.equal(buffer.toString('utf8', 0, receiveMessage(notified, buffer, 0, MSG_DONTWAIT)!.length), message)
  }
  close(notified)
})

sandboxTest('a disk of a file of its own is served as well', async () => {
  const [image, file, socketPath] = [newImage(), newPath(), newPath()]
  const program = await Program.ready([`--disk=overlay:base=${image},file=${file}`, `--socket-path=${socketPath}`, ...full])
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, PATTERN)
  await driver.flush()
  assert.deepEqual(await driver.read(0, PATTERN.length), PATTERN)
  await driver.close()
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  assert.ok(readFileSync(image).every((byte) => byte === 0))
})

for (const engine of ['mapped', 'linux-aio', 'sync', 'io_uring', 'io_uring+linux-aio'] as const) {
  sandboxTest(`a guest is served, engine: ${engine}: again and again, with discards, a resize and a record of what is in flight`, async () => {
    const { image, socketPath, args } = place(engine)
    // What it takes by itself, of an image on a disk.
    const isDefault = engine === 'linux-aio'
    const program = new Program([...args, ...full, ...(isDefault ? [] : [`--engine=${engine}`]), '--num-queues=2', '--threads=2'])
    await Promise.race([program.seen(/^ready/, 'stdout'), program.ended])
    if (program.stdout === '') {
      assert.match(program.stderr, /io_uring_setup|io_setup/)
      return console.log(`note: ${engine} cannot be had here: ${program.stderr.trim()}`)
    }
    assert.ok(program.stdout.includes(`, ${engine})`), program.stdout)
    await program.seen(/^vhost-user-blk: in a sandbox: .*\n/)
    for (let session = 0; session < 3; session++) {
      const driver = await BlockDriver.connect({ socketPath, queues: 2 })
      await driver.write(0, PATTERN)
      await driver.flush()
      assert.deepEqual(await driver.read(0, PATTERN.length), PATTERN)
      await driver.discard(0, 32768)
      await driver.writeZeroes(32768, 32768)
      assert.ok((await driver.read(0, PATTERN.length)).every((byte) => byte === 0))
      expectConfined(program)
      await driver.close()
    }

    const frontEnd = FrontEnd.connect(socketPath)
    await frontEnd.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
    close((await frontEnd.getInflightFd(2, 128))!.fd)
    const told = new Promise<void>((resolve) => { void frontEnd.setBackendReqFd(resolve) })
    await frontEnd.getFeatures()
    truncateSync(image, 3 << 20)
    program.process.kill('SIGHUP')
    await told
    assert.equal(Buffer.from(await frontEnd.getConfig(0, 8)).readBigUInt64LE(), 3n * 2048n)
    frontEnd.close()

    assert.deepEqual(await program.end(), { status: 0, signal: null })
    // It may remove nothing any more; the next one takes it over.
    assert.match(program.stderr, /the socket stays, for the next server to take over: (ENOSYS|EACCES)/)
    assert.ok(existsSync(socketPath))
    await Program.ready(args)
  })
}

function expectConfined (program: Program): void {
  const all = threads(program)
  assert.ok(all.length > 4)
  for (const status of all) {
    assert.deepEqual(['NoNewPrivs', 'Seccomp', 'CapPrm', 'CapEff', 'CapAmb'].map((name) => BigInt(`0x${status.get(name)}`)), [1n, 2n, 0n, 0n, 0n], status.get('Name'))
    if (isRoot) {
      assert.equal(status.get('Uid'), Array(4).fill(OTHER).join('\t'))
      assert.equal(status.get('Groups')!.trim(), '')
    }
  }
  // The threads that it starts now have not even the bounding set, where it was allowed to drop it.
  if (isRoot) assert.equal(BigInt(`0x${all[0]!.get('CapBnd')}`), 0n)
  // Who may not be looked into belongs to root there.
  assert.equal(statSync(`/proc/${program.process.pid}/environ`).uid, 0)
}

for (const engine of ['linux-aio', 'io_uring'] as const) {
  test(`what it may do no more, it cannot do, engine: ${engine}`, () => {
    const folder = mkdtempSync(join(directory, 'folder-'))
    const { stdout, stderr, status } = spawnSync(process.execPath, [fileURLToPath(new URL('./support/sandboxed-child.mjs', import.meta.url)), folder, engine],
      { encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL' })
    assert.equal(status, 0, stderr)
    const { report, calls, arguments: wrong, ways, reading } = JSON.parse(stdout)
    const hasLandlock = landlockVersion() > 0
    assert.deepEqual(readdirSync(folder), ['file'])
    assert.equal(readFileSync(join(folder, 'file'), 'utf8'), 'here before')

    const { io_uring_setup: ioUring, ...others } = calls
    assert.deepEqual(new Set(Object.values(others)), new Set([38]), JSON.stringify(others))
    assert.ok(Object.keys(others).length >= 40)
    assert.equal(ioUring === 38, engine !== 'io_uring')
    assert.deepEqual(new Set(Object.values(wrong)), new Set([1]), JSON.stringify(wrong))
    for (const [way, code] of Object.entries(ways)) assert.match(code as string, /^(ENOSYS|EPERM|EACCES)$/, way)

    assert.deepEqual(reading, {
      'its own code': 'done',
      'its own code, by a thread of the pool': 'done',
      'another file': hasLandlock ? 'EACCES' : 'done',
      'another file, by a new thread': hasLandlock ? 'EACCES' : 'done'
    })
    assert.equal(report.pathsRestricted, !hasLandlock ? 'none' : landlockVersion() < 8 ? 'new' : 'all')
    assert.ok(engine === 'io_uring' ? report.ioUring === 'any' : report.ioUring !== 'any')
    assert.equal(report.missing.length, isRoot ? 1 : 0, String(report.missing))
  })
}

test('what is missing is refused, before anything has changed, or told where the best effort will do', async () => {
  if (!isRoot) return console.log('skipped: nothing is missing for a user without capabilities')
  const { socketPath, args } = place()
  const { status, stdout, stderr } = await run(...args, '--sandbox')
  assert.deepEqual([status, stdout], [1, ''])
  assert.match(stderr, /^vhost-user-blk: the sandbox lacks the drop of capabilities: \d+ of \d+ threads have some.*have it become one.*Ask for the best effort/)
  assert.equal(existsSync(socketPath), false)

  const program = await Program.ready([...args, '--sandbox=best-effort'])
  await program.seen(/^vhost-user-blk: the sandbox goes without the drop of capabilities: .*\nvhost-user-blk: in a sandbox: /)
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, PATTERN)
  const [main] = threads(program)
  assert.deepEqual([main!.get('Seccomp'), BigInt(`0x${main!.get('CapEff')}`)], ['2', 0n])
  await driver.close()
})

sandboxTest('--user without --sandbox: it serves as that user what it has opened as another, and removes its socket only where it may', async () => {
  if (!isRoot) {
    const { status, stderr } = await run(...place().args, '--user=0:0')
    assert.equal(status, 1)
    return assert.match(stderr, /cannot become user 0 with group 0: .*Only root may/)
  }
  const { image, socketPath, args } = place()
  chmodSync(image, 0o600)
  const program = await Program.ready([...args, `--user=${OTHER}:${OTHER}`])
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, PATTERN)
  for (const status of threads(program)) {
    assert.deepEqual([status.get('Uid'), status.get('Gid')], [Array(4).fill(OTHER).join('\t'), Array(4).fill(OTHER).join('\t')])
    assert.equal(BigInt(`0x${status.get('CapEff')}`), 0n)
  }
  await driver.close()
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  assert.match(program.stderr, /the socket stays.*EACCES/)
  assert.deepEqual(readFileSync(image).subarray(0, PATTERN.length), Buffer.from(PATTERN))
})

test('a user of whom only a number is known needs a group', async () => {
  const { status, stderr } = await run(...place().args, '--user=4242424')
  assert.equal(status, 1)
  assert.match(stderr, /user 4242424 is not in \/etc\/passwd: say which group, as 4242424:GROUP/)
})

test('where no data-plane thread could start, the program says so at once, not when a guest connects', async () => {
  if (landlockVersion() === 0) return console.log('skipped: no Landlock here')
  const preloaded = `${newPath()}.cjs`
  writeFileSync(preloaded, '')
  const { socketPath, args } = place()
  const program = new Program([...args, '--sandbox=best-effort'], { nodeFlags: ['--require', preloaded] })
  assert.deepEqual(await program.ended, { status: 1, signal: null })
  assert.equal(program.stdout, '')
  assert.match(program.stderr, /no data-plane thread can start in the sandbox: .*(?:EACCES|permission denied).*named as readable/)
  assert.ok(existsSync(socketPath))
})

test.run()
