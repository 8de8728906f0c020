import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bindUnix, close, listen as listenOn, unixSocket, unixSocketPair } from '@node-vmm/libc'
import { test } from 'uvu'
import { FrontEnd, listen } from '../src/index.ts'
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
  while (listener.session !== undefined) await sleep(1)
  assert.deepEqual(ends, [undefined, undefined])
  await listener.close()
})

test('a front-end that connects and says nothing is hung up on, for the next one', async () => {
  const path = newPath()
  const problems: Error[] = []
  const listener = listen({ path, device: new RecordingDevice(), greetingTimeout: 50, onProblem: (problem) => problems.push(problem) })
  const silent = FrontEnd.connect(path)
  const next = FrontEnd.connect(path)
  assert.equal(await next.getQueueNum(), 2)
  await silent.closed
  assert.match(problems[0]!.message, /said nothing for 50 ms/)
  // One that has spoken may be silent as long as it likes.
  await sleep(120)
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

test('a descriptor that is no socket is refused', () => {
  assert.throws(() => listen({ fd: 0xffff, device: new RecordingDevice() }), { code: 'EBADF' })
})

test.run()
