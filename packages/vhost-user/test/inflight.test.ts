// The region for what is in flight: who gets which record of it, and for how long.
import assert from 'node:assert/strict'
import { close, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, fileStatus, getSeals, viewMemory } from '@node-vmm/libc'
import { test } from 'uvu'
import { encodeInflight, FrontEndRequest, type InflightInit, OFFERED_PROTOCOL_FEATURES, ProtocolFeature, TransportFeature } from '../src/index.ts'
import {
  connect, Eventfds, guestMemory, mappings, memoryFile, openDescriptors, PACKED, type Pair, RecordingDevice, ringAddresses,
  startRing, VERSION_1
} from './support/session.ts'

const refusal = { code: 'ERR_VHOST_USER_REFUSED' }
const fds = new Eventfds()
const ram = guestMemory()
/** Bytes of a record for a ring of 128, to the tests' device. */
const RECORD = 2112

async function finish ({ front, session }: Pair): Promise<void> {
  front.close()
  assert.equal(await session.closed, undefined)
}

/** A region for both queues, given to the back-end. */
async function track ({ front }: Pair, queues = 2, queueSize = 128): Promise<InflightInit> {
  const region = await front.getInflightFd(queues, queueSize)
  await front.setInflightFd(region!)
  return region!
}

function recordOf ({ device }: Pair, index: number): Uint8Array {
  const { address, length } = device.queues.get(index)!.inflight!
  return new Uint8Array(viewMemory(address, length))
}

async function restart ({ front }: Pair, index: number): Promise<void> {
  await front.setVringEnable(index, false)
  await front.setVringEnable(index, true)
}

test('a device that keeps no records does not offer a region', async () => {
  const device = new RecordingDevice()
  Object.assign(device, { inflightBytes: undefined })
  const pair = connect({}, device)
  assert.equal(await pair.front.getProtocolFeatures(), OFFERED_PROTOCOL_FEATURES & ~ProtocolFeature.INFLIGHT_SHMFD)
  assert.equal(await pair.front.getInflightFd(1, 128), undefined)
  await finish(pair)
})

test('a region is a file of zeros whose size nobody changes, with a record for each queue', async () => {
  const pair = connect()
  const region = (await pair.front.getInflightFd(2, 128))!
  assert.deepEqual({ ...region, fd: 0 }, { fd: 0, size: 2 * RECORD, offset: 0, queues: 2, queueSize: 128 })
  assert.equal(fileStatus(region.fd).size, 2 * RECORD)
  assert.equal(getSeals(region.fd), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
  await pair.front.setInflightFd(region)
  await startRing(pair, ram, fds, 1)
  assert.ok(recordOf(pair, 1).every((byte) => byte === 0))
  close(region.fd)
  await finish(pair)
})

test('the answer has as many bytes as the question: 24 as a C structure, or 20', async () => {
  const pair = connect()
  for (const [length, reply] of [
    [24, '8010000000000000' + '0000000000000000' + '0200' + '8000' + '00000000'],
    [20, '8010000000000000' + '0000000000000000' + '0200' + '8000']
  ] as const) {
    const payload = encodeInflight({ size: 0, offset: 0, queues: 2, queueSize: 128 }, length)
    assert.equal(payload.length, length)
    assert.equal(Buffer.from(await pair.front.ask(FrontEndRequest.GET_INFLIGHT_FD, { payload })).toString('hex'), reply)
  }
  await finish(pair)
})

test('each queue has its own record, which the next process finds as it was', async () => {
  const before = mappings()
  const first = connect()
  const region = await track(first)
  await startRing(first, ram, fds, 0)
  await startRing(first, ram, fds, 1)
  assert.deepEqual([0, 1].map((index) => first.device.queues.get(index)!.inflight!.address % 64), [0, 0])
  recordOf(first, 0).fill(7)
  recordOf(first, 1).fill(9)
  await finish(first)
  assert.equal(mappings(), before)

  const second = connect()
  await second.front.setInflightFd(region)
  await startRing(second, ram, fds, 0)
  await startRing(second, ram, fds, 1)
  assert.deepEqual([0, 1].map((index) => recordOf(second, index).every((byte) => byte === 7 + 2 * index)), [true, true])
  close(region.fd)
  await finish(second)
})

test('a ring keeps its record as long as it runs: the next start has the new one', async () => {
  const pair = connect()
  const { front, device } = pair
  const before = mappings()
  const old = await track(pair)
  await startRing(pair, ram, fds, 0)
  await startRing(pair, ram, fds, 1)
  device.look()
  recordOf(pair, 0)[0] = 1
  const next = await track(pair)
  assert.deepEqual(device.look(), [])
  assert.equal(mappings(), before + 1 + 2, 'the memory, and both regions')
  await restart(pair, 0)
  assert.equal(recordOf(pair, 0)[0], 0)
  assert.equal(mappings(), before + 1 + 2, 'ring 1 has the old one')
  await restart(pair, 1)
  assert.equal(mappings(), before + 1 + 1)
  // A refused one changes nothing.
  await assert.rejects(front.setInflightFd({ ...next, size: RECORD }), refusal)
  await restart(pair, 0)
  assert.notEqual(device.queues.get(0)!.inflight, undefined)
  close(old.fd)
  close(next.fd)
  await finish(pair)
})

test('queues beyond the region have no record', async () => {
  const pair = connect()
  const region = await track(pair, 1)
  await startRing(pair, ram, fds, 0)
  await startRing(pair, ram, fds, 1)
  assert.notEqual(pair.device.queues.get(0)!.inflight, undefined)
  assert.equal(pair.device.queues.get(1)!.inflight, undefined)
  close(region.fd)
  await finish(pair)
})

test('a ring larger than the region is for does not run unrecorded', async () => {
  const pair = connect()
  const region = await track(pair, 2, 64)
  await assert.rejects(startRing(pair, ram, fds), refusal)
  assert.match(pair.problems.at(-1)!, /ring 0 cannot start: a ring of 128, but the in-flight region is for rings of 64/)
  await pair.front.setVringNum(0, 64)
  assert.equal(pair.device.queues.get(0)!.inflight!.length, 1088)
  close(region.fd)
  await finish(pair)
})

test('a region may be larger than needed and begin anywhere aligned in its file', async () => {
  const pair = connect()
  const fd = memoryFile(0x5000)
  await pair.front.setInflightFd({ fd, size: 0x4000, offset: 64, queues: 2, queueSize: 128 })
  await startRing(pair, ram, fds, 1)
  recordOf(pair, 1)[0] = 1
  await finish(pair)
  // Seen from a region that begins where the second record did.
  const other = connect()
  await other.front.setInflightFd({ fd, size: 0x4000, offset: 64 + RECORD, queues: 2, queueSize: 128 })
  await startRing(other, ram, fds, 0)
  assert.equal(recordOf(other, 0)[0], 1)
  close(fd)
  await finish(other)
})

test('a device that keeps no records of packed rings says so, and such rings run without', async () => {
  const device = new RecordingDevice()
  device.features |= PACKED
  const pair = connect({}, device)
  const { front, problems } = pair
  const split = (await front.getInflightFd(2, 128))!
  await front.setFeatures(VERSION_1 | PACKED | TransportFeature.PROTOCOL_FEATURES)
  assert.equal(await front.getInflightFd(2, 128), undefined)
  await front.setInflightFd(split)
  await startRing(pair, ram, fds, 0, VERSION_1 | PACKED)
  assert.equal(device.queues.get(0)!.inflight, undefined)
  assert.deepEqual(problems, [])
  close(split.fd)
  await finish(pair)
})

test('features that need larger records than the region has stop the rings: they do not run unrecorded', async () => {
  const device = new RecordingDevice()
  device.inflightBytes = (queueSize, features) => (features & 1n << 29n) === 0n ? 64 * queueSize : 128 * queueSize
  const pair = connect({}, device)
  const region = await track(pair)
  await startRing(pair, ram, fds, 1)
  await pair.front.setFeatures(VERSION_1 | 1n << 29n | TransportFeature.PROTOCOL_FEATURES)
  assert.equal(device.queues.size, 0)
  assert.match(pair.problems.at(-1)!, /ring 1 cannot start: the in-flight region has 16384 bytes: record 1 ends at 32768/)
  close(region.fd)
  await finish(pair)
})

test('a reset forgets the region: what is in it is not of the rings to come', async () => {
  const before = mappings()
  const pair = connect()
  for (const reset of [() => pair.front.setStatus(0), () => pair.front.resetDevice()]) {
    const region = await track(pair)
    await startRing(pair, ram, fds)
    assert.equal(mappings(), before + 2)
    await reset()
    assert.equal(mappings(), before + 1, 'the memory is kept')
    await startRing(pair, ram, fds)
    assert.equal(pair.device.queues.get(0)!.inflight, undefined)
    close(region.fd)
  }
  await finish(pair)
})

test('a queue that cannot be stopped keeps its record and its log mapped', async () => {
  const before = mappings()
  const pair = connect()
  const region = await track(pair)
  const log = memoryFile(0x10000)
  await startRing(pair, ram, fds, 0, VERSION_1 | TransportFeature.LOG_ALL)
  await pair.front.setLogBase({ fd: log, size: 0x10000 })
  pair.device.onStop = async () => { throw new Error('stuck') }
  pair.front.close()
  assert.match((await pair.session.closed)!.message, /stuck/)
  assert.equal(mappings(), before + 3)
  close(region.fd)
  close(log)
})

test('a hundred sessions with regions, logs and changes of memory leave nothing behind', async () => {
  const descriptors = openDescriptors()
  const mapped = mappings()
  for (let round = 0; round < 100; round++) {
    const own = new Eventfds()
    const pair = connect()
    const { front } = pair
    const region = await track(pair)
    await startRing(pair, ram, own, 0, VERSION_1 | TransportFeature.LOG_ALL)
    const logs = [0, 1].map(() => memoryFile(0x20000))
    for (const fd of logs) await front.setLogBase({ fd, size: 0x20000 })
    const again = await track(pair)
    await front.setVringAddr(0, { ...ringAddresses(), flags: 1, log: 0x40002000n })
    const more = { ...ram.regions[0]!, guestAddress: 0x90000000, userAddress: 0x100000 }
    await front.addMemReg(more)
    await front.setFeatures(VERSION_1 | TransportFeature.PROTOCOL_FEATURES)
    await front.remMemReg(more)
    await front.setMemTable(ram.regions)
    if (round % 2 === 0) await front.setStatus(0)
    assert.deepEqual(pair.problems, [])
    for (const fd of [region.fd, again.fd, ...logs]) close(fd)
    own.close()
    await finish(pair)
  }
  assert.deepEqual(openDescriptors(), descriptors)
  assert.equal(mappings(), mapped)
})

test.run()
