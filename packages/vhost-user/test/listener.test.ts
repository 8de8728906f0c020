import assert from 'node:assert/strict'
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bindUnix, close, listen as listenOn, unixSocket, unixSocketPair } from '@node-vmm/libc'
import { test } from 'uvu'
import { FrontEnd, listen } from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { runWithFewDescriptors } from '../../../test/support/few-descriptors.ts'
import { Eventfds, guestMemory, openDescriptors, RecordingDevice, ringAddresses } from './support/session.ts'

const dir = mkdtempSync(join(tmpdir(), 'vhost-user-'))
process.on('exit', () => rmSync(dir, { recursive: true }))
let sockets = 0
const newPath = (): string => join(dir, `${sockets++}.sock`)
const addressError = { code: 'ERR_VHOST_USER_ADDRESS' }

test('the socket is its owner\'s alone, whatever the umask, and goes with the listener', async () => {
  const before = openDescriptors()
  for (const [umask, mode] of [[0, undefined], [0o777, undefined], [0o22, 0o666]] as const) {
    const path = newPath()
    const old = process.umask(umask)
    const listener = listen({ path, device: new RecordingDevice(), ...(mode !== undefined && { mode }) })
    process.umask(old)
    assert.equal(statSync(path).mode & 0o777, mode ?? 0o600)
    assert.equal(await listener.close(), undefined)
    assert.equal(await listener.close(), undefined)
    assert.equal(existsSync(path), false)
  }
  assert.deepEqual(openDescriptors(), before)
})

test('the socket is given to a user and a group before anybody can connect', async () => {
  if (process.getuid!() !== 0) return console.log('skipped: only root may give files away')
  const path = newPath()
  for (const [owner, uid, gid] of [[{ uid: 12345 }, 12345, 0], [{ gid: 23456 }, 0, 23456], [{ uid: 12345, gid: 23456 }, 12345, 23456]] as const) {
    const listener = listen({ path, device: new RecordingDevice(), mode: 0o660, owner })
    const status = statSync(path)
    assert.deepEqual([status.uid, status.gid, status.mode & 0o777], [uid, gid, 0o660])
    await listener.close()
  }
})

test('a socket that may not be given away is not made', () => {
  if (process.getuid!() === 0) return console.log('skipped: root may give everything away')
  const path = newPath()
  const before = openDescriptors()
  assert.throws(() => listen({ path, device: new RecordingDevice(), owner: { uid: 0, gid: 0 } }),
    { ...addressError, message: /cannot be given to user 0 and group 0: EPERM.*Only root may give files away/ })
  assert.equal(existsSync(path), false)
  assert.deepEqual(openDescriptors(), before)
})

test('a socket that may not be removed at the end stays, and that is told', async () => {
  const folder = mkdtempSync(join(dir, 'folder-'))
  const path = join(folder, 'socket')
  const problems: Error[] = []
  const listener = listen({ path, device: new RecordingDevice(), onProblem: (problem) => problems.push(problem) })
  const isRoot = process.getuid!() === 0
  // Root may remove everything, but for as long as it is somebody else.
  chmodSync(dir, 0o755)
  chmodSync(folder, isRoot ? 0o755 : 0o555)
  if (isRoot) process.seteuid!(65534)
  try {
    assert.equal(await listener.close(), undefined)
  } finally {
    if (isRoot) process.seteuid!(0)
    chmodSync(folder, 0o755)
  }
  assert.deepEqual(problems.map(({ message }) => message), [`the socket stays, for the next server to take over: EACCES: permission denied, unlink '${path}'`])
  const next = listen({ path, device: new RecordingDevice() })
  await next.close()
  assert.equal(existsSync(path), false)
})

test('front-ends are served one after the other; the second waits in the backlog', async () => {
  const path = newPath()
  const device = new RecordingDevice()
  const ends: unknown[] = []
  let sessions = 0
  const listener = listen({ path, device, onSession: () => { sessions++ }, onSessionEnd: (failure) => ends.push(failure) })
  const first = FrontEnd.connect(path)
  assert.equal(await first.getQueueNum(), 2)
  const second = FrontEnd.connect(path)
  const waiting = second.getQueueNum()
  await sleep(30)
  assert.equal(sessions, 1)
  first.close()
  assert.equal(await waiting, 2)
  assert.equal(sessions, 2)
  assert.deepEqual(device.look(), ['reset'])
  second.close()
  await eventually('the second has gone', () => listener.session === undefined)
  assert.deepEqual(ends, [undefined, undefined])
  await listener.close()
})

test('a front-end that connects and says nothing is hung up on, for the next one', async () => {
  const path = newPath()
  const problems: Error[] = []
  const listener = listen({ path, device: new RecordingDevice(), greetingTimeout: 500, onProblem: (problem) => problems.push(problem) })
  const silent = FrontEnd.connect(path)
  const next = FrontEnd.connect(path)
  assert.equal(await next.getQueueNum(), 2)
  await silent.closed
  assert.match(problems[0]!.message, /said nothing for 500 ms/)
  // One that has spoken may be silent as long as it likes.
  await sleep(700)
  assert.equal(await next.getQueueNum(), 2)
  next.close()
  await listener.close()
  assert.equal(problems.length, 1)
})

test('a front-end that breaks the protocol is survived', async () => {
  const path = newPath()
  const ends: (Error | undefined)[] = []
  const listener = listen({ path, device: new RecordingDevice(), onSessionEnd: (failure) => ends.push(failure) })
  const bad = FrontEnd.connect(path)
  await bad.send(1, 0x4)
  assert.equal(await bad.receive(), undefined)
  bad.close()
  const good = FrontEnd.connect(path)
  assert.equal(await good.getQueueNum(), 2)
  assert.match(ends[0]!.message, /a reply/)
  good.close()
  await listener.close()
})

test('a socket whose server died is replaced; one that is served, and a file, are not', async () => {
  const path = newPath()
  const dead = unixSocket()
  bindUnix(dead, path)
  listenOn(dead)
  close(dead)
  const listener = listen({ path, device: new RecordingDevice() })
  assert.throws(() => listen({ path, device: new RecordingDevice() }), addressError)
  assert.throws(() => listen({ path, device: new RecordingDevice() }), /Stop that server, or choose another path/)
  const front = FrontEnd.connect(path)
  assert.equal(await front.getQueueNum(), 2, 'the probes of the others did no harm')
  front.close()
  await listener.close()

  writeFileSync(path, 'precious')
  assert.throws(() => listen({ path, device: new RecordingDevice() }), addressError)
  assert.equal(statSync(path).size, 8)
  assert.throws(() => listen({ path: join(dir, 'x'.repeat(200)), device: new RecordingDevice() }), RangeError)
  assert.throws(() => listen({ path: '/nowhere/at/all', device: new RecordingDevice() }), { code: 'ENOENT' })
  assert.throws(() => listen({ device: new RecordingDevice() }), TypeError)
})

test('a listener removes its own file only', async () => {
  const path = newPath()
  const listener = listen({ path, device: new RecordingDevice() })
  rmSync(path)
  writeFileSync(path, 'another\'s')
  await listener.close()
  assert.equal(existsSync(path), true)
})

test('close drains the running session', async () => {
  const path = newPath()
  const device = new RecordingDevice()
  const fds = new Eventfds()
  const ram = guestMemory()
  const listener = listen({ path, device })
  const front = FrontEnd.connect(path)
  await front.setFeatures(1n << 32n)
  await front.setMemTable(ram.regions)
  await front.setVringNum(0, 16)
  await front.setVringAddr(0, ringAddresses())
  await front.setVringKick(0, fds.make())
  await front.getFeatures()
  assert.equal(listener.notifyConfigChange(), false, 'no channel for it')
  device.look()
  device.onStop = () => sleep(20)
  await listener.close()
  assert.deepEqual(device.look(), ['stop 0', 'reset'])
  assert.equal(existsSync(path), false)
  front.close()
  fds.close()
  ram.close()
})

test('a signal ends the wait of a close, which goes on', async () => {
  const device = new RecordingDevice()
  let letGo = (): void => {}
  const released = new Promise<void>((resolve) => { letGo = resolve })
  device.reset = () => released as unknown as void
  const path = newPath()
  const listener = listen({ path, device })
  const front = FrontEnd.connect(path)
  await front.getFeatures()
  const session = listener.session!
  const before = AbortSignal.abort(new Error('before'))
  await assert.rejects(listener.close({ signal: before }), /before/)
  await assert.rejects(session.close({ signal: before }), /before/)
  const abort = new AbortController()
  const waiting = [listener, session].map((each) => assert.rejects(each.close({ signal: abort.signal }), /during/))
  abort.abort(new Error('during'))
  await Promise.all(waiting)
  letGo()
  assert.equal(await listener.closed, undefined)
  assert.equal(await session.close({ signal: new AbortController().signal }), undefined)
  front.close()
})

test('a device that does not give its queues back ends the listener', async () => {
  const path = newPath()
  const device = new RecordingDevice()
  device.reset = () => { throw new Error('stuck') }
  const listener = listen({ path, device })
  FrontEnd.connect(path).close()
  assert.match((await listener.closed)!.message, /the device failed to reset: stuck/)
  assert.equal(existsSync(path), false)
})

test('a listening socket that was passed on', async () => {
  const path = newPath()
  const fd = unixSocket()
  bindUnix(fd, path)
  listenOn(fd)
  const listener = listen({ fd, device: new RecordingDevice() })
  for (let round = 0; round < 2; round++) {
    const front = FrontEnd.connect(path)
    assert.equal(await front.getQueueNum(), 2)
    front.close()
  }
  await listener.close()
  assert.equal(existsSync(path), true, 'it is not ours to remove')
})

test('a connected socket that was passed on is served once', async () => {
  const [ours, theirs] = unixSocketPair()
  const listener = listen({ fd: theirs, device: new RecordingDevice() })
  const front = new FrontEnd(ours)
  assert.equal(await front.getQueueNum(), 2)
  front.close()
  assert.equal(await listener.closed, undefined)
  assert.equal(await listener.close(), undefined)
})

// The second attempt ended the process: with no descriptor left, Node could not even be asked to watch.
test('a listener outlives a time without descriptors', () => {
  runWithFewDescriptors(new URL('few-descriptors.ts', import.meta.url))
})

test('a descriptor that is no socket is refused', () => {
  assert.throws(() => listen({ fd: 0xffff, device: new RecordingDevice() }), { code: 'EBADF' })
})

test.run()
