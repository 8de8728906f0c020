import { FrontEnd, VhostUserError } from '@node-vmm/vhost-user'
import { type DataPlaneError, QUEUES_MAX, type TraceEvent } from '@node-vmm/virtio-blk-dataplane'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { type Disk, serve, type ServeOptions, type Server } from '../src/index.ts'
import { RingFrontEnd } from './support/ring.ts'
import { newImage, newPath } from './support/scratch.ts'

const test = suite('serve')
const servers: Server[] = []

test.after.each(async () => {
  for (const server of servers.splice(0)) await server.close()
})

async function start (options: Partial<ServeOptions> = {}): Promise<Server & { socketPath: string }> {
  const socketPath = newPath()
  const server = await serve({ path: newImage(), socketPath, ...options })
  servers.push(server)
  return { ...server, socketPath }
}

function openDescriptors (): number {
  return readdirSync('/proc/self/fd').length
}

test('a disk is served until it is closed; then the socket is gone and the image free', async () => {
  const path = newImage()
  const { plane, socketPath, closed, close } = await start({ path, serial: 'api' })
  assert.equal(plane.capacity, 1 << 20)
  const driver = await BlockDriver.connect({ socketPath })
  assert.equal(await driver.getId(), 'api')
  await driver.write(512, new Uint8Array(512).fill(7))
  await driver.close()
  assert.equal(plane.statistics(0).bytesWritten, 512)
  await assert.rejects(serve({ path, socketPath: newPath() }), { code: 'ERR_IMAGE_LOCKED' })

  await close()
  await close()
  assert.equal(await closed, undefined)
  assert.equal(existsSync(socketPath), false)
  assert.equal(readFileSync(path)[512], 7)
  await start({ path })
})

test('it can be disposed of', async () => {
  const { socketPath, ...server } = await start()
  await server[Symbol.asyncDispose]()
  assert.equal(existsSync(socketPath), false)
  assert.equal(server.plane.state, 'closed')
})

test('what cannot be served rejects and leaves nothing open', async () => {
  const path = newImage()
  const taken = await start()
  const before = openDescriptors()
  for (const [options, error] of [
    [{ path: newPath() }, { code: 'ENOENT' }],
    [{ queues: QUEUES_MAX + 1 }, { code: 'ERR_OPTION' }],
    [{ format: 'qcow2' }, { code: 'ERR_FORMAT' }],
    [{ socketPath: taken.socketPath }, { code: 'ERR_VHOST_USER_ADDRESS' }],
    [{ socketPath: `${newPath()}/socket` }, { code: 'ENOENT' }],
    [{ fd: 0 }, { name: 'TypeError', message: 'listen: give either a path or an fd' }]
  ] as [Partial<ServeOptions>, object][]) {
    await assert.rejects(serve({ path, socketPath: newPath(), ...options }), error)
  }
  await assert.rejects(serve({ path }), { name: 'TypeError' })
  assert.equal(openDescriptors(), before)
  await start({ path })
})

test('a signal ends the start, and nothing stays open', async () => {
  const path = newImage()
  const before = openDescriptors()
  const abort = new AbortController()
  const reason = new Error('enough')
  const starting = assert.rejects(serve({ path, socketPath: newPath(), signal: abort.signal }), reason)
  abort.abort(reason)
  await starting
  await assert.rejects(serve({ path, socketPath: newPath(), signal: abort.signal }), reason)
  assert.equal(openDescriptors(), before)
  await start({ path })
})

test('a signal ends the wait of a close, which goes on', async () => {
  let reads = 0
  let answer = (): void => {}
  const answered = new Promise<void>((resolve) => { answer = resolve })
  const disk: Disk = {
    capacity: 1 << 20,
    read: () => {
      reads++
      return answered
    }
  }
  const socketPath = newPath()
  const server = await serve({ disk, socketPath, stopTimeout: 60_000 })
  const driver = await BlockDriver.connect({ socketPath })
  const read = assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_DISCONNECTED' })
  await eventually('the disk is asked', () => reads === 1)
  await assert.rejects(server.close({ signal: AbortSignal.abort(new Error('before')) }), /before/)
  const abort = new AbortController()
  const closed = assert.rejects(server.close({ signal: abort.signal }), /during/)
  abort.abort(new Error('during'))
  await closed
  answer()
  await server.close({ signal: new AbortController().signal })
  await read
  await driver.close()
  assert.equal(server.plane.state, 'closed')
})

test('a resize changes the image and is told to the guest', async () => {
  const path = newImage()
  const { socketPath, resize } = await start({ path })
  const guest = new RingFrontEnd(socketPath)
  await guest.start()
  let told = 0
  await guest.frontEnd.setBackendReqFd(() => { told++ })
  await resize(2 << 20)
  assert.equal(statSync(path).size, 2 << 20)
  await eventually('the guest is told', () => told === 1)
  assert.equal(Buffer.from(await guest.frontEnd.getConfig(0, 8)).readBigUInt64LE(), 4096n)
  guest.close()
  // And without anybody to tell.
  await resize(1 << 20)
  const driver = await BlockDriver.connect({ socketPath })
  assert.equal(driver.config.capacity, 1 << 20)
  await driver.close()
  await assert.rejects(resize(1000), { name: 'DataPlaneError' })
})

test('sessions and refusals are told', async () => {
  const lines: string[] = []
  let sessions = 0
  const { socketPath, close } = await start({ log: (line) => lines.push(line), onSession: () => sessions++, engine: 'sync' })
  const first = new RingFrontEnd(socketPath)
  await first.start()
  await assert.rejects(first.frontEnd.setVringNum(3, 16), VhostUserError)
  first.close()
  await eventually('the session ends', () => lines.length === 3)
  const second = new RingFrontEnd(socketPath)
  await second.start()
  await close()
  second.close()
  assert.deepEqual(lines, [
    'a front-end connected',
    'SET_VRING_NUM refused: there is no ring 3: the device has 1',
    'the session ended: the front-end hung up',
    'a front-end connected',
    'the session ended: the server closes'
  ])
  assert.equal(sessions, 2)
})

test('the threads begin when a front-end connects, before it has a ring', async () => {
  const { plane, socketPath } = await start()
  assert.equal(plane.drainHandle().wakeFds.length, 0)
  const frontEnd = FrontEnd.connect(socketPath)
  await eventually('the thread begins', () => plane.drainHandle().wakeFds.length === 1)
  frontEnd.close()
})

test('what is to come before the threads is waited for, but not by a guest', async () => {
  let go = (): void => {}
  const { plane, socketPath } = await start({ prepareAfter: new Promise<void>((resolve) => { go = resolve }) })
  const frontEnd = FrontEnd.connect(socketPath)
  await frontEnd.getFeatures()
  assert.equal(plane.drainHandle().wakeFds.length, 0)
  go()
  await eventually('the thread begins', () => plane.drainHandle().wakeFds.length === 1)
  frontEnd.close()

  const waiting = await start({ serial: 'waits', prepareAfter: new Promise(() => {}) })
  const driver = await BlockDriver.connect({ socketPath: waiting.socketPath })
  assert.equal(await driver.getId(), 'waits')
  await driver.close()
})

test('a guest that breaks its ring is told of, but cannot fill a log with it', async () => {
  const lines: string[] = []
  const { socketPath } = await start({ log: (line) => lines.push(line) })
  const guest = new RingFrontEnd(socketPath)
  await guest.start()
  guest.misbehave()
  await eventually('the fault is told', () => lines.length === 2)
  assert.match(lines[1]!, /^queue 0 is broken until the guest resets it: the available index went from 0 to 28672/)
  // One that is stopped before its ring was looked at is not told of.
  for (let round = 0; round < 100; round++) await guest.restart()
  guest.close()
  await eventually('the session ends', () => lines.at(-1)!.startsWith('the session ended'))
  assert.equal(lines.filter((line) => line.startsWith('queue 0 is broken')).length, 32)

  // The next session is told of again.
  lines.length = 0
  const next = new RingFrontEnd(socketPath)
  await next.start()
  next.misbehave()
  await eventually('the fault is told', () => lines.length === 2)
  next.close()
})

test('a front-end that comes back for ever cannot fill a log either', async () => {
  const lines: string[] = []
  let sessions = 0
  const { socketPath, listener } = await start({ log: (line) => lines.push(line), traceMessages: (line) => { if (line.includes('received request=GET_FEATURES')) sessions++ } })
  for (let round = 0; round < 300; round++) {
    const frontEnd = FrontEnd.connect(socketPath)
    await frontEnd.getFeatures()
    frontEnd.close()
  }
  await eventually('the session ends', () => listener.session === undefined)
  assert.equal(sessions, 300)
  // 600 lines unlimited: what passes at once, and one in ten seconds with the number of those left out.
  assert.ok(lines.length >= 100 && lines.length < 200, `${lines.length} lines`)
})

test('a front-end that shares no memory is told of, with the remedy', async () => {
  const lines: string[] = []
  const { socketPath } = await start({ log: (line) => lines.push(line) })
  const guest = new RingFrontEnd(socketPath)
  await guest.start({ sharesMemory: false })
  guest.close()
  await eventually('the session ends', () => lines.at(-1)!.startsWith('the session ended'))
  const told = lines.filter((line) => line.startsWith('ring'))
  assert.deepEqual(told, ["ring 0 waits for the guest's memory, of which the front-end has shared nothing. QEMU shares it with -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem"])
})

test('permissions and owner of the socket', async () => {
  const ids = { uid: process.getuid!(), gid: process.getgid!() }
  const { socketPath } = await start({ socketMode: 0o660, socketOwner: ids })
  const { mode, uid, gid } = statSync(socketPath, { bigint: true })
  assert.deepEqual([mode & 0o777n, uid, gid], [0o660n, BigInt(ids.uid), BigInt(ids.gid)])
})

test('messages and requests can be traced', async () => {
  const messages: string[] = []
  const events: TraceEvent[] = []
  const { socketPath, close } = await start({ traceMessages: (line) => messages.push(line), tracer: (event) => events.push(event) })
  const driver = await BlockDriver.connect({ socketPath })
  await driver.flush()
  await driver.close()
  await close()
  assert.equal(messages[0], 'vhost_user_message direction=received request=SET_OWNER size=0 fds=0')
  assert.deepEqual(events.map(({ name }) => name), [
    'virtio_blk_data_plane_start', 'vring_setup', 'virtio_blk_data_plane_process_request',
    'virtio_blk_data_plane_complete_request', 'virtio_blk_data_plane_stop'
  ])
})

test('without anybody to tell it serves all the same', async () => {
  const { socketPath } = await start()
  const guest = new RingFrontEnd(socketPath)
  await guest.start()
  guest.misbehave()
  await assert.rejects(guest.frontEnd.setVringNum(3, 16), VhostUserError)
  guest.close()
  const driver = await BlockDriver.connect({ socketPath })
  assert.deepEqual(await driver.read(0, 512), new Uint8Array(512))
  await driver.close()
})

test('closed tells of the death of the data-plane thread', async () => {
  const { socketPath, closed, close } = await start({ engine: { module: new URL('./support/dying-engine.ts', import.meta.url).href } })
  const driver = await BlockDriver.connect({ socketPath })
  const lost = driver.flush().catch((error: unknown) => error)
  const error = await closed as DataPlaneError
  assert.equal(error.code, 'ERR_THREAD')
  assert.match(error.message, /a bug in the engine/)
  await close()
  assert.equal((await lost as { code: string }).code, 'ERR_BLOCK_DISCONNECTED')
  await driver.close()
  assert.equal(existsSync(socketPath), false)
})

test('bug: after listening, and after its end, Node 20 did not follow symbolic links to packages any more', async () => {
  const isFollowed = (name: string): boolean => {
    const path = createRequire(import.meta.url).resolve(name)
    return path === realpathSync.native(path)
  }
  const { close } = await start()
  assert.ok(isFollowed('typescript'))
  await close()
  assert.ok(isFollowed('esbuild'))
})

test.run()
