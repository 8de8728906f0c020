import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { close, sendMessage, unixSocketPair } from '@node-vmm/libc'
import { test } from 'uvu'
import {
  encodeInflight, encodeLog, encodeMessage, encodeU64, encodeVringState, FLAG_NEED_REPLY, FLAG_REPLY, FrontEnd, FrontEndRequest as Request, ProtocolFeature,
  protocolFeatureNames, TransportFeature, type VhostUserErrorCode
} from '../src/index.ts'
import { path as programPath, programs, testWith } from '../../../test/support/programs.ts'
import { connect, Eventfds, guestMemory, memoryFile, openDescriptors, ringAddresses } from './support/session.ts'

/** A front-end whose back-end is the test. */
function alone (timeout = 60_000): { front: FrontEnd, peer: number } {
  const [ours, peer] = unixSocketPair()
  return { front: new FrontEnd(ours, { timeout }), peer }
}

/** Waits for the end, which an idle connection alone would not keep the process alive for. */
async function end (front: FrontEnd): Promise<Error | undefined> {
  const awake = setInterval(() => {}, 1000)
  try {
    return await front.closed
  } finally {
    clearInterval(awake)
  }
}

test('replies that do not fit end the connection', async () => {
  const wrong: readonly (readonly [reply: Uint8Array, code: VhostUserErrorCode])[] = [
    [encodeMessage(Request.GET_QUEUE_NUM, FLAG_REPLY, encodeU64(1n)), 'ERR_VHOST_USER_PROTOCOL'],
    [encodeMessage(Request.GET_FEATURES, 0, encodeU64(1n)), 'ERR_VHOST_USER_PROTOCOL'],
    [encodeMessage(Request.GET_FEATURES, FLAG_REPLY | FLAG_NEED_REPLY, encodeU64(1n)), 'ERR_VHOST_USER_PROTOCOL'],
    [encodeMessage(Request.GET_FEATURES, FLAG_REPLY, new Uint8Array(4)), 'ERR_VHOST_USER_PROTOCOL'],
    [new Uint8Array(12), 'ERR_VHOST_USER_PROTOCOL']
  ]
  const before = openDescriptors()
  for (const [reply, code] of wrong) {
    const { front, peer } = alone()
    sendMessage(peer, reply)
    await assert.rejects(front.getFeatures(), { code })
    await assert.rejects(front.getFeatures(), { code }, 'the first reason is told again')
    close(peer)
  }
  assert.deepEqual(openDescriptors(), before)
})

test('an answer for another ring or another range ends the connection', async () => {
  const { front, peer } = alone()
  sendMessage(peer, encodeMessage(Request.GET_VRING_BASE, FLAG_REPLY, encodeVringState({ index: 1, num: 0 })))
  await assert.rejects(front.getVringBase(0), /ring 1 where ring 0 was asked for/)
  close(peer)
})

test('an acknowledgement of failure is thrown, and the connection goes on', async () => {
  const { front, session } = connect()
  await front.setProtocolFeatures(ProtocolFeature.REPLY_ACK)
  await assert.rejects(front.setVringNum(9, 16), { code: 'ERR_VHOST_USER_REFUSED', message: 'the back-end refused SET_VRING_NUM' })
  assert.equal(await front.getQueueNum(), 2)
  front.close()
  await session.closed
})

test('a back-end that does not answer is given up', async () => {
  const { front, peer } = alone(30)
  await assert.rejects(front.getFeatures(), { code: 'ERR_VHOST_USER_TIMEOUT' })
  await assert.rejects(front.setOwner(), { code: 'ERR_VHOST_USER_TIMEOUT' })
  close(peer)
})

test('a signal ends what waits', async () => {
  const [ours, peer] = unixSocketPair()
  const abort = new AbortController()
  const front = new FrontEnd(ours, { signal: abort.signal })
  const waiting = [front.getFeatures(), front.getQueueNum()]
  await sleep(5)
  abort.abort()
  for (const each of waiting) await assert.rejects(each, { name: 'AbortError' })
  close(peer)
  const [again, other] = unixSocketPair()
  await assert.rejects(new FrontEnd(again, { signal: abort.signal }).getFeatures(), { name: 'AbortError' })
  close(other)
})

test('a hang-up is told as one', async () => {
  const { front, peer } = alone()
  const waiting = front.getFeatures()
  await sleep(5)
  close(peer)
  await assert.rejects(waiting, { code: 'ERR_VHOST_USER_CLOSED' })
  await assert.rejects(front.setOwner(), { code: 'ERR_VHOST_USER_CLOSED' })
})

test('a hang-up is noticed while nothing is asked', async () => {
  const { front, session, device } = connect()
  await front.getFeatures()
  await front.setFeatures(1n << 32n)
  await session.close()
  assert.deepEqual(device.look().at(-1), 'reset')
  const failure = await end(front)
  assert.equal((failure as { code?: string }).code, 'ERR_VHOST_USER_CLOSED')
  await assert.rejects(front.getFeatures(), failure)
})

test('closed tells why: nothing after close, else what the calls were told', async () => {
  const { front, session } = connect()
  front.close()
  assert.equal(await front.closed, undefined)
  await session.closed
  const silent = alone(30)
  await assert.rejects(silent.front.getFeatures(), { code: 'ERR_VHOST_USER_TIMEOUT' })
  assert.match((await silent.front.closed)!.message, /did not answer within 30 ms/)
  close(silent.peer)
  const abort = new AbortController()
  const [ours, peer] = unixSocketPair()
  const aborted = new FrontEnd(ours, { signal: abort.signal })
  abort.abort()
  assert.equal((await aborted.closed)!.name, 'AbortError')
  close(peer)
})

test('what nobody asked for is left for the next reply, which does not fit, and a hang-up behind it is noticed then', async () => {
  const { front, peer } = alone()
  sendMessage(peer, encodeMessage(Request.GET_QUEUE_NUM, FLAG_REPLY, encodeU64(1n)))
  await sleep(10)
  assert.equal((await front.receive())!.request, Request.GET_QUEUE_NUM)
  close(peer)
  assert.match((await end(front))!.message, /hung up/)
})

test('an idle connection does not keep the process alive, and the back-end may hang up as it ends', () => {
  const at = (path: string): string => new URL(path, import.meta.url).href
  const program = `import { close, unixSocketPair } from ${JSON.stringify(at('../../libc/src/index.ts'))}
    import { FrontEnd } from ${JSON.stringify(at('../src/index.ts'))}
    const [ours, peer] = unixSocketPair()
    new FrontEnd(ours)
    process.on('exit', () => close(peer))`
  const { status, signal, stderr } = spawnSync(process.execPath, ['--import', at('../../../tools/ts.mjs'), '--conditions=@node-vmm/source',
    '--input-type=module', '--eval', program], { encoding: 'utf8', timeout: 60_000 })
  assert.deepEqual([status, signal, stderr], [0, null, ''])
})

test('a region without its file, or with two, ends the connection', async () => {
  for (const count of [0, 2]) {
    const before = openDescriptors()
    const { front, peer } = alone()
    const fds = Array.from({ length: count }, () => memoryFile(64))
    sendMessage(peer, encodeMessage(Request.GET_INFLIGHT_FD, FLAG_REPLY, encodeInflight({ size: 64, offset: 0, queues: 1, queueSize: 1 })), fds)
    await assert.rejects(front.getInflightFd(1, 1), { code: 'ERR_VHOST_USER_PROTOCOL', message: `GET_INFLIGHT_FD was answered with ${count} descriptors` })
    for (const fd of [...fds, peer]) close(fd)
    assert.deepEqual(openDescriptors(), before)
  }
})

test('the reply to SET_LOG_BASE may be anything but a failure', async () => {
  const fd = memoryFile(64)
  const answers: readonly (readonly [payload: Uint8Array, isRefusal: boolean])[] = [
    [new Uint8Array(0), false], [encodeU64(0n), false], [encodeU64(64n), false], [encodeLog({ size: 64, offset: 0 }), false], [encodeU64(1n), true]
  ]
  for (const [payload, isRefusal] of answers) {
    const { front, peer } = alone()
    // libvhost-user leaves need_reply set.
    sendMessage(peer, encodeMessage(Request.SET_LOG_BASE, FLAG_REPLY | FLAG_NEED_REPLY, payload))
    const call = front.setLogBase({ fd, size: 64 })
    if (isRefusal) await assert.rejects(call, { code: 'ERR_VHOST_USER_REFUSED' })
    else await call
    front.close()
    close(peer)
  }
  close(fd)
})

test('calls that overlap are answered each with its own', async () => {
  const { front, session } = connect()
  const answers = await Promise.all([front.getQueueNum(), front.getMaxMemSlots(), front.getVringBase(1), front.getConfig(0, 1), front.getQueueNum()])
  assert.deepEqual(answers, [2, 509, 0, Uint8Array.of(1), 2])
  front.close()
  await session.closed
})

test('nobody listens: connect says so', () => {
  const before = openDescriptors()
  assert.throws(() => FrontEnd.connect('/tmp/nobody-is-here.sock'), { code: 'ENOENT' })
  assert.deepEqual(openDescriptors(), before)
})

testWith(programs('qemu-storage-daemon'))('another\'s back-end: qemu-storage-daemon', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'vhost-user-'))
  const path = join(dir, 'sock')
  const daemon = spawn(programPath('qemu-storage-daemon'), ['--blockdev', 'driver=null-co,node-name=f0,size=1073741824,read-zeroes=on',
    '--export', `type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=${path},writable=on,num-queues=2`], { stdio: 'inherit' })
  try {
    // A second front-end after the first: the export serves one at a time, as we do.
    for (let round = 0; round < 2; round++) await talkToDaemon(await connectWhenReady(path))
  } finally {
    daemon.kill()
    rmSync(dir, { recursive: true })
  }
})

async function connectWhenReady (path: string): Promise<FrontEnd> {
  for (let tries = 0; ; tries++) {
    try {
      return FrontEnd.connect(path)
    } catch (error) {
      if (tries === 6000) throw error
      await sleep(10)
    }
  }
}

async function talkToDaemon (front: FrontEnd): Promise<void> {
  const fds = new Eventfds()
  const ram = guestMemory()
  const log = memoryFile(0x10000)
  try {
    await front.setOwner()
    const features = await front.getFeatures()
    assert.notEqual(features & TransportFeature.PROTOCOL_FEATURES, 0n)
    const offered = await front.getProtocolFeatures()
    assert.ok(protocolFeatureNames(offered).includes('CONFIG'), protocolFeatureNames(offered).join())
    await front.setProtocolFeatures(offered & (ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG | ProtocolFeature.MQ | ProtocolFeature.LOG_SHMFD))
    assert.equal(await front.getQueueNum(), 2)
    const config = await front.getConfig(0, 60)
    assert.equal(new DataView(config.buffer).getBigUint64(0, true), 2097152n, 'sectors of 1 GiB')
    await front.setFeatures(1n << 32n | TransportFeature.PROTOCOL_FEATURES)
    await front.setMemTable(ram.regions)
    await front.setVringNum(0, 64)
    await front.setVringBase(0, 0)
    await front.setVringAddr(0, ringAddresses())
    await front.setVringCall(0, fds.make())
    await front.setVringKick(0, fds.make())
    await front.setVringEnable(0, true)
    assert.equal(await front.getVringBase(0), 0)
    if ((offered & ProtocolFeature.LOG_SHMFD) !== 0n) await front.setLogBase({ fd: log, size: 0x10000 })
  } finally {
    close(log)
    front.close()
    fds.close()
    ram.close()
  }
}

test.run()
