// The log of written pages: which rings have it when, and what it must cover.
import assert from 'node:assert/strict'
import { viewMemory } from '@node-vmm/libc'
import { test } from 'uvu'
import {
  encodeLog, encodeMessage, FLAG_NEED_REPLY, FLAG_REPLY, FrontEndRequest, OFFERED_PROTOCOL_FEATURES, ProtocolFeature, TransportFeature
} from '../src/index.ts'
import {
  connect, counter, Eventfds, GUEST_BASE, guestMemory, mappings, memoryFile, type Pair, RecordingDevice, ringAddresses,
  startRing, USER_BASE, VERSION_1
} from './support/session.ts'

const refusal = { code: 'ERR_VHOST_USER_REFUSED' }
const LOGGING = VERSION_1 | TransportFeature.LOG_ALL | TransportFeature.PROTOCOL_FEATURES
const fds = new Eventfds()
const ram = guestMemory()
/** Bytes that the memory needs. */
const SIZE = (GUEST_BASE + 0x10000) / 4096 / 8
const fd = memoryFile(0x20000)

async function finish ({ front, session }: Pair): Promise<void> {
  front.close()
  assert.equal(await session.closed, undefined)
}

test('a device that does not log its writes offers neither LOG_SHMFD nor LOG_ALL', async () => {
  const device = new RecordingDevice()
  device.logsDirtyPages = false
  const pair = connect({}, device)
  const { front } = pair
  assert.equal(await front.getFeatures() & TransportFeature.LOG_ALL, 0n)
  assert.equal(await front.getProtocolFeatures(), OFFERED_PROTOCOL_FEATURES & ~ProtocolFeature.LOG_SHMFD)
  await front.setProtocolFeatures(ProtocolFeature.REPLY_ACK)
  await assert.rejects(front.setFeatures(LOGGING), refusal)
  await assert.rejects(front.tell(FrontEndRequest.SET_LOG_FD, { fds: [fd] }), refusal)
  await finish(pair)
})

test('without LOG_SHMFD agreed on, SET_LOG_BASE is refused and has no reply of its own', async () => {
  const pair = connect()
  await pair.front.send(FrontEndRequest.SET_LOG_BASE, 0, { payload: encodeLog({ size: SIZE, offset: 0 }), fds: [fd] })
  assert.equal(await pair.front.getQueueNum(), 2)
  assert.match(pair.problems[0]!, /SET_LOG_BASE refused: LOG_SHMFD was not agreed on/)
  await finish(pair)
})

test('SET_LOG_BASE is answered with 64 zero bits, asked for or not', async () => {
  const pair = connect()
  const { front } = pair
  await front.setProtocolFeatures(ProtocolFeature.LOG_SHMFD | ProtocolFeature.REPLY_ACK)
  const reply = encodeMessage(FrontEndRequest.SET_LOG_BASE, FLAG_REPLY, new Uint8Array(8))
  for (const flags of [0, FLAG_NEED_REPLY]) {
    await front.send(FrontEndRequest.SET_LOG_BASE, flags, { payload: encodeLog({ size: SIZE, offset: 0 }), fds: [fd] })
    const { request, isReply, needsReply, payload } = (await front.receive())!
    assert.deepEqual([isReply, needsReply], [true, false])
    assert.deepEqual(encodeMessage(request, FLAG_REPLY, payload), reply)
  }
  assert.equal(await front.getQueueNum(), 2)
  await finish(pair)
})

test('a migration: a log, then LOG_ALL, then the used rings, then another log, then none', async () => {
  const before = mappings()
  const pair = connect()
  const { front, device } = pair
  await startRing(pair, ram, fds, 0)
  await startRing(pair, ram, fds, 1)
  device.look()
  const started = 'start 0 size 128 at 0,1000,2000 base 5'
  await front.setLogBase({ fd, size: SIZE })
  assert.deepEqual(device.look(), [], 'nothing is logged yet')

  device.taken = 1
  await front.setFeatures(LOGGING)
  assert.deepEqual(device.look(), [
    'stop 0', 'stop 1', 'features 0x100000000', 'start 0 size 128 at 0,1000,2000 base 6 logged',
    'start 1 size 128 at 4000,5000,6000 base 6 logged'
  ])
  device.taken = 0
  const first = device.queues.get(0)!.log!
  assert.deepEqual([first.length, first.usedAddress, first.address % 8], [SIZE, undefined, 0])

  await front.setVringAddr(0, { ...ringAddresses(), flags: 1, log: BigInt(GUEST_BASE + 0x2000) })
  assert.deepEqual(device.look(), ['stop 0', 'start 0 size 128 at 0,1000,2000 base 6 logged'])
  assert.equal(device.queues.get(0)!.log!.usedAddress, GUEST_BASE + 0x2000)
  await front.setVringAddr(0, { ...ringAddresses(), flags: 1, log: BigInt(GUEST_BASE + 0x2000) })
  assert.deepEqual(device.look(), [], 'that is known')
  assert.equal(device.queues.get(1)!.log!.usedAddress, undefined)

  // Each reading of the log begins with a fresh one: the old one is not written any more when this is answered.
  new Uint8Array(viewMemory(first.address, 1))[0] = 1
  await front.setLogBase({ fd, size: SIZE, offset: 0x10008 })
  assert.deepEqual(device.look().filter((line) => line.startsWith('stop')), ['stop 0', 'stop 1'])
  const second = device.queues.get(0)!.log!
  assert.equal(new Uint8Array(viewMemory(second.address, 1))[0], 0)
  assert.equal(mappings(), before + 1 + 1, 'the memory and one log')

  await front.setVringAddr(0, ringAddresses())
  await front.setFeatures(VERSION_1 | TransportFeature.PROTOCOL_FEATURES)
  assert.deepEqual(device.look().at(-2), started.replace('base 5', 'base 6'))
  await finish(pair)
  assert.equal(mappings(), before)
})

test('rings run without a log until there is one', async () => {
  const pair = connect()
  const { front, device } = pair
  await startRing(pair, ram, fds, 0, LOGGING)
  assert.deepEqual(device.look(), ['features 0x100000000', 'start 0 size 128 at 0,1000,2000 base 5'])
  await front.setLogBase({ fd, size: SIZE })
  assert.deepEqual(device.look(), ['stop 0', 'start 0 size 128 at 0,1000,2000 base 5 logged'])
  await finish(pair)
})

test('a log that does not cover the memory is refused, and the old one goes on', async () => {
  const pair = connect()
  const { front, device } = pair
  await startRing(pair, ram, fds, 0, LOGGING)
  await front.setLogBase({ fd, size: SIZE })
  device.look()
  await assert.rejects(front.setLogBase({ fd, size: SIZE - 1 }), refusal)
  assert.match(pair.problems.at(-1)!, /a log of 32769 bytes does not cover memory that ends at 0x40010000: 32770 are needed/)
  assert.deepEqual(device.look(), [])
  await finish(pair)
})

test('memory does not grow beyond the log of rings that run', async () => {
  const pair = connect()
  const { front, device } = pair
  const { error } = await startRing(pair, ram, fds, 0, LOGGING)
  await front.setLogBase({ fd, size: SIZE })
  device.look()
  const more = { ...ram.regions[0]!, guestAddress: 0x50000000, userAddress: USER_BASE + 0x1000000 }
  await assert.rejects(front.addMemReg(more), refusal)
  await assert.rejects(front.setMemTable([ram.regions[0]!, more]), refusal)
  assert.deepEqual(device.look(), [])
  // What a stopped ring has no log for does not run: a front-end that starts it anew sends the log last.
  await front.setVringEnable(0, false)
  await front.addMemReg(more)
  await assert.rejects(front.setVringEnable(0, true), refusal)
  assert.equal(counter(error), 1)
  await front.setLogBase({ fd, size: 0x50010000 / 32768 })
  assert.deepEqual(device.look().at(-1), 'start 0 size 128 at 0,1000,2000 base 5 logged')
  await finish(pair)
})

test('a used ring that is to be logged beyond the log does not run', async () => {
  const pair = connect()
  const { front, device, problems } = pair
  await startRing(pair, ram, fds, 0, LOGGING)
  await front.setLogBase({ fd, size: SIZE })
  // The end of what the log covers is the end of the memory. The used ring has 1028 bytes; the address need not be memory.
  const end = BigInt(SIZE * 32768)
  await front.setVringAddr(0, { ...ringAddresses(), flags: 1, log: end - 1028n })
  assert.equal(device.queues.get(0)!.log!.usedAddress, Number(end) - 1028)
  for (const log of [end - 1027n, 0xffffffffffffffffn]) {
    await assert.rejects(front.setVringAddr(0, { ...ringAddresses(), flags: 1, log }), refusal)
    assert.match(problems.at(-1)!, /the used ring is to be logged at 0x[0-9a-f]+, beyond a log of 32770 bytes/)
  }
  // Without the flag it is no address: User-Mode Linux sends all ones.
  await front.setVringAddr(0, { ...ringAddresses(), log: 0xffffffffffffffffn })
  assert.equal(device.queues.get(0)!.log!.usedAddress, undefined)
  await finish(pair)
})

test('SET_LOG_FD is taken, and closed: nobody waits for a signal', async () => {
  const pair = connect()
  await pair.front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  const event = fds.make()
  await pair.front.tell(FrontEndRequest.SET_LOG_FD, { fds: [event] })
  await finish(pair)
})

test.run()
