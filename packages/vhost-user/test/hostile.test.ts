// What a front-end must not be able to do: end the process, hold it, leak its descriptors or its memory.
import assert from 'node:assert/strict'
import { close, eventfd, memfdCreate, open, O_RDONLY, sendMessage, unixSocketPair } from '@node-vmm/libc'
import { test } from 'uvu'
import {
  BackEndSession, encodeConfig, encodeInflight, encodeLog, encodeMemoryTable, encodeMessage, encodeRegion, encodeU64,
  encodeVringAddress, encodeVringState, FLAG_NEED_REPLY, FLAG_REPLY, type FrontEnd, FrontEndRequest as Request, hasOwnReply,
  type InflightDescription, ProtocolFeature, TransportFeature
} from '../src/index.ts'
import {
  connect, GUEST_BASE, guestMemory, mappings, memoryFile, openDescriptors, type Pair, RecordingDevice, ringAddresses
} from './support/session.ts'

const O_PATH = 0o10000000
const ram = guestMemory()
const fd = eventfd()
const region = ram.descriptions[0]!
const memoryFd = ram.regions[0]!.fd

// Records of two rings of 16.
const INFLIGHT_BYTES = 2 * 320
const inflightFd = memoryFile(INFLIGHT_BYTES)
const roomyFd = memoryFile(0x10000)

const LOGGING = 1n << 32n | TransportFeature.LOG_ALL | TransportFeature.PROTOCOL_FEATURES

type Malformed = readonly [what: string, request: number, payload: Uint8Array, fds?: readonly number[]]

const state = (index: number, num: number): Uint8Array => encodeVringState({ index, num })
const raw = (value: bigint): Uint8Array => encodeU64(value)
const none = new Uint8Array(0)
const inflight = (part: Partial<InflightDescription> = {}): Uint8Array =>
  encodeInflight({ size: INFLIGHT_BYTES, offset: 0, queues: 2, queueSize: 16, ...part })
const log = (size: number, offset = 0): Uint8Array => encodeLog({ size, offset })
const table = (count: number): Uint8Array => encodeMemoryTable(Array.from({ length: count }, (_, index) =>
  ({ ...region, guestAddress: index * 0x1000, userAddress: index * 0x1000, size: 0x1000 })))

const refusedRequests: readonly Malformed[] = [
  ['an unknown request', 99, none],
  ['an unknown request with a payload and descriptors', 0xffffffff, new Uint8Array(4096), [fd, fd]],
  ['request 0', 0, none],
  ['a log without LOG_SHMFD', Request.SET_LOG_BASE, new Uint8Array(16), [fd]],
  ['SET_LOG_FD without a descriptor', Request.SET_LOG_FD, none],
  ['SET_LOG_FD with a payload', Request.SET_LOG_FD, raw(0n), [fd]],
  ['SET_STATUS of 9 bits', Request.SET_STATUS, raw(0x100n)],
  ['SET_STATUS too short', Request.SET_STATUS, new Uint8Array(4)],
  ['an in-flight region without its descriptor', Request.SET_INFLIGHT_FD, inflight()],
  ['an in-flight region with two', Request.SET_INFLIGHT_FD, inflight(), [inflightFd, inflightFd]],
  ['an in-flight region too short to be described', Request.SET_INFLIGHT_FD, inflight().subarray(0, 19), [inflightFd]],
  ['an in-flight region of 21 bytes', Request.SET_INFLIGHT_FD, inflight().subarray(0, 21), [inflightFd]],
  ['an in-flight region of no queues', Request.SET_INFLIGHT_FD, inflight({ queues: 0 }), [inflightFd]],
  ['an in-flight region of more queues than there are', Request.SET_INFLIGHT_FD, inflight({ queues: 3 }), [inflightFd]],
  ['an in-flight region of 65535 queues', Request.SET_INFLIGHT_FD, inflight({ queues: 0xffff, queueSize: 0xffff }), [inflightFd]],
  ['an in-flight region of rings without descriptors', Request.SET_INFLIGHT_FD, inflight({ queueSize: 0 }), [inflightFd]],
  ['an in-flight region of rings that are too large', Request.SET_INFLIGHT_FD, inflight({ queueSize: 32769 }), [inflightFd]],
  ['an in-flight region without bytes', Request.SET_INFLIGHT_FD, inflight({ size: 0 }), [inflightFd]],
  ['an in-flight region one byte too small', Request.SET_INFLIGHT_FD, inflight({ size: INFLIGHT_BYTES - 1 }), [inflightFd]],
  ['an in-flight region past the end of its file', Request.SET_INFLIGHT_FD, inflight({ size: INFLIGHT_BYTES + 1 }), [inflightFd]],
  ['an in-flight region beyond its file', Request.SET_INFLIGHT_FD, inflight({ offset: 0x10000 }), [inflightFd]],
  ['an in-flight region that is not aligned', Request.SET_INFLIGHT_FD, inflight({ offset: 8 }), [roomyFd]],
  ['an in-flight region whose end wraps', Request.SET_INFLIGHT_FD, inflight({ offset: Number.MAX_SAFE_INTEGER - 63 }), [inflightFd]],
  ['an in-flight region beyond any address', Request.SET_INFLIGHT_FD, new Uint8Array(24).fill(255), [inflightFd]],
  ['an in-flight region in an eventfd', Request.SET_INFLIGHT_FD, inflight(), [fd]],
  ['SET_OWNER with a payload', Request.SET_OWNER, new Uint8Array(4)],
  ['SET_OWNER with a descriptor', Request.SET_OWNER, none, [fd]],
  ['SET_FEATURES too short', Request.SET_FEATURES, new Uint8Array(4)],
  ['SET_FEATURES too long', Request.SET_FEATURES, new Uint8Array(16)],
  ['SET_FEATURES with a descriptor', Request.SET_FEATURES, raw(0n), [fd]],
  ['SET_VRING_NUM 0', Request.SET_VRING_NUM, state(0, 0)],
  ['SET_VRING_NUM too large', Request.SET_VRING_NUM, state(0, 32769)],
  ['SET_VRING_NUM of a ring that is not there', Request.SET_VRING_NUM, state(2, 16)],
  ['SET_VRING_NUM of ring -1', Request.SET_VRING_NUM, state(0xffffffff, 16)],
  ['SET_VRING_BASE over 16 bits', Request.SET_VRING_BASE, state(0, 65536)],
  ['SET_VRING_ADDR of a ring that is not there', Request.SET_VRING_ADDR, encodeVringAddress({ index: 2, ...ringAddresses() })],
  ['SET_VRING_ADDR too short', Request.SET_VRING_ADDR, new Uint8Array(39)],
  ['SET_VRING_ADDR beyond any address', Request.SET_VRING_ADDR, new Uint8Array(40).fill(255)],
  ['SET_VRING_ENABLE 2', Request.SET_VRING_ENABLE, state(0, 2)],
  ['SET_VRING_ENABLE of a ring that is not there', Request.SET_VRING_ENABLE, state(256, 1)],
  ['SET_VRING_KICK without its descriptor', Request.SET_VRING_KICK, raw(0n)],
  ['SET_VRING_KICK with two', Request.SET_VRING_KICK, raw(0n), [fd, fd]],
  ['SET_VRING_KICK with one, and the flag that says none', Request.SET_VRING_KICK, raw(0x100n), [fd]],
  ['SET_VRING_KICK with none, and the flag', Request.SET_VRING_KICK, raw(0x100n)],
  ['SET_VRING_KICK of a ring that is not there', Request.SET_VRING_KICK, raw(200n), [fd]],
  ['SET_VRING_KICK of a 64-bit ring', Request.SET_VRING_KICK, raw(1n << 32n), [fd]],
  ['SET_VRING_CALL without its descriptor', Request.SET_VRING_CALL, raw(0n)],
  ['SET_VRING_CALL with one, and the flag that says none', Request.SET_VRING_CALL, raw(0x100n), [fd]],
  ['SET_VRING_ERR with two', Request.SET_VRING_ERR, raw(0n), [fd, fd]],
  ['SET_MEM_TABLE without descriptors', Request.SET_MEM_TABLE, table(1)],
  ['SET_MEM_TABLE with too many', Request.SET_MEM_TABLE, table(1), [memoryFd, memoryFd]],
  ['SET_MEM_TABLE with too few', Request.SET_MEM_TABLE, table(3), [memoryFd, memoryFd]],
  ['SET_MEM_TABLE of 33 regions', Request.SET_MEM_TABLE, table(33)],
  ['SET_MEM_TABLE that claims 4 billion regions', Request.SET_MEM_TABLE, Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0)],
  ['SET_MEM_TABLE of an eventfd', Request.SET_MEM_TABLE, table(1), [fd]],
  ['SET_MEM_TABLE, empty', Request.SET_MEM_TABLE, none],
  ['a region past the end of its file', Request.SET_MEM_TABLE, encodeMemoryTable([{ ...region, offset: 0x1000 }]), [memoryFd]],
  ['a region whose end wraps', Request.ADD_MEM_REG, encodeRegion({ ...region, offset: Number.MAX_SAFE_INTEGER }), [memoryFd]],
  ['a region without bytes', Request.ADD_MEM_REG, encodeRegion({ ...region, size: 0 }), [memoryFd]],
  ['ADD_MEM_REG without a descriptor', Request.ADD_MEM_REG, encodeRegion(region)],
  ['ADD_MEM_REG with two', Request.ADD_MEM_REG, encodeRegion(region), [memoryFd, memoryFd]],
  ['REM_MEM_REG of none', Request.REM_MEM_REG, encodeRegion(region)],
  ['REM_MEM_REG with two descriptors', Request.REM_MEM_REG, encodeRegion(region), [memoryFd, memoryFd]],
  ['SET_CONFIG of nothing', Request.SET_CONFIG, encodeConfig({ offset: 32, size: 0, flags: 0, data: none })],
  ['SET_CONFIG beyond 256 bytes', Request.SET_CONFIG, encodeConfig({ offset: 255, size: 2, flags: 0, data: new Uint8Array(2) })],
  ['SET_CONFIG with unknown flags', Request.SET_CONFIG, encodeConfig({ offset: 32, size: 1, flags: 2, data: new Uint8Array(1) })],
  ['SET_BACKEND_REQ_FD without a descriptor', Request.SET_BACKEND_REQ_FD, none]
]

for (const [what, request, payload, fds = []] of refusedRequests) {
  test(`refused, and the session goes on: ${what}`, async () => {
    const before = [openDescriptors(), mappings()]
    const { front, session, device, problems } = connect()
    await front.setProtocolFeatures(ProtocolFeature.REPLY_ACK)
    await assert.rejects(front.tell(request, { payload, fds }), { code: 'ERR_VHOST_USER_REFUSED' })
    // Without need_reply there is no answer, and the next one is not mistaken for it.
    await front.send(request, 0, { payload, fds })
    assert.equal(await front.getQueueNum(), 2)
    assert.equal(problems.length, 2)
    assert.match(problems[0]!, / refused: (?!.*undefined)/)
    front.close()
    assert.equal(await session.closed, undefined)
    assert.deepEqual(device.look(), ['reset'])
    assert.deepEqual([openDescriptors(), mappings()], before)
  })
}

const endings: readonly (readonly [what: string, bytes: Uint8Array, fds?: readonly number[]])[] = [
  ['a foreign version', new Uint8Array(12)],
  ['a payload over the limit', encodeMessage(Request.SET_OWNER, 0, new Uint8Array(4097))],
  ['a payload of 4 GiB', Uint8Array.of(3, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255)],
  ['33 descriptors', encodeMessage(Request.SET_MEM_TABLE, 0, table(33)), Array.from({ length: 33 }, () => fd)],
  ['a reply', encodeMessage(Request.GET_FEATURES, FLAG_REPLY, raw(0n))],
  ['GET_VRING_BASE of a ring that is not there', encodeMessage(Request.GET_VRING_BASE, 0, state(2, 0))],
  ['GET_VRING_BASE too short', encodeMessage(Request.GET_VRING_BASE, FLAG_NEED_REPLY, none)],
  ['GET_FEATURES with a payload', encodeMessage(Request.GET_FEATURES, 0, raw(0n))],
  ['GET_FEATURES with a descriptor', encodeMessage(Request.GET_FEATURES, 0, none), [fd]],
  ['GET_STATUS with a payload', encodeMessage(Request.GET_STATUS, 0, raw(0n))],
  ['GET_SHMEM_CONFIG, which was not offered and has a reply', encodeMessage(Request.GET_SHMEM_CONFIG, 0, none)],
  ['half a header', encodeMessage(Request.GET_FEATURES, 0, none).subarray(0, 7), [fd]],
  ['half a payload', encodeMessage(Request.SET_VRING_KICK, 0, raw(0n)).subarray(0, 15), [fd]]
]

for (const [what, bytes, fds = []] of endings) {
  test(`ends the session, all given back: ${what}`, async () => {
    const before = openDescriptors()
    const [ours, theirs] = unixSocketPair()
    const device = new RecordingDevice()
    const session = new BackEndSession(theirs, device)
    sendMessage(ours, bytes, fds)
    if (what.startsWith('half')) close(ours)
    const failure = await session.closed as Error & { code?: string }
    assert.equal(failure?.code, 'ERR_VHOST_USER_PROTOCOL', String(failure))
    if (!what.startsWith('half')) close(ours)
    assert.deepEqual(device.look(), ['reset'])
    assert.deepEqual(openDescriptors(), before)
  })
}

function startSteps ({ front }: Pair): (() => Promise<void>)[] {
  return [
    () => front.setProtocolFeatures(ProtocolFeature.REPLY_ACK | ProtocolFeature.LOG_SHMFD),
    () => front.setFeatures(1n << 32n | TransportFeature.PROTOCOL_FEATURES),
    () => front.setMemTable(ram.regions),
    ...[0, 1].flatMap((index) => [
      () => front.setVringNum(index, 16),
      () => front.setVringAddr(index, ringAddresses(index)),
      () => front.setVringCall(index, fd),
      () => front.setVringKick(index, fd),
      () => front.setVringEnable(index, true)
    ])
  ]
}

async function start (pair: Pair): Promise<void> {
  for (const step of startSteps(pair)) await step()
}

test('GET_CONFIG that cannot be served is answered with nothing, and the session goes on', async () => {
  const { front, session } = connect()
  for (const payload of [none, new Uint8Array(11), encodeConfig({ offset: 0, size: 257, flags: 0, data: new Uint8Array(257) })]) {
    assert.deepEqual(await front.ask(Request.GET_CONFIG, { payload }), none)
  }
  front.close()
  assert.equal(await session.closed, undefined)
})

test('GET_INFLIGHT_FD that cannot be served is answered with a region of no bytes, as long as the request, and the session goes on', async () => {
  const { front, session, problems } = connect()
  const wrong = [
    inflight({ queues: 0 }), inflight({ queues: 3 }), inflight({ queueSize: 0 }), inflight({ queueSize: 40000 }), none,
    new Uint8Array(24).fill(255)
  ]
  for (const payload of wrong) assert.deepEqual(await front.ask(Request.GET_INFLIGHT_FD, { payload }), new Uint8Array(24))
  assert.deepEqual(await front.ask(Request.GET_INFLIGHT_FD, { payload: inflight({ queues: 0 }).subarray(0, 20) }), new Uint8Array(20))
  assert.equal(problems.length, wrong.length + 1)
  assert.match(problems[1]!, /GET_INFLIGHT_FD refused: records of 3 queues: the device has 2/)
  front.close()
  assert.equal(await session.closed, undefined)
})

// 64 KiB of memory from GUEST_BASE on.
const LOG_BYTES = (GUEST_BASE + 0x10000) / 4096 / 8
const wrongLogs: readonly (readonly [what: string, payload: Uint8Array, bytes: number | undefined])[] = [
  ['too small for the memory', log(LOG_BYTES - 1), LOG_BYTES],
  ['without bytes', log(0), LOG_BYTES],
  ['past the end of its file', log(LOG_BYTES + 1), LOG_BYTES],
  ['beyond its file', log(LOG_BYTES, 0x10000), LOG_BYTES],
  ['that is not aligned', log(LOG_BYTES, 4), 2 * LOG_BYTES],
  ['whose end wraps', log(LOG_BYTES, Number.MAX_SAFE_INTEGER - 7), LOG_BYTES],
  ['beyond any address', new Uint8Array(16).fill(255), LOG_BYTES],
  ['described too shortly', new Uint8Array(8), LOG_BYTES],
  ['without its descriptor', log(LOG_BYTES), undefined]
]

for (const [what, payload, bytes] of wrongLogs) {
  test(`a log ${what}: refused where a refusal is heard, and else the end, for the front-end would rely on it`, async () => {
    const before = [openDescriptors(), mappings()]
    const fds = bytes === undefined ? [] : [memoryFile(bytes)]
    for (const accepted of [ProtocolFeature.LOG_SHMFD | ProtocolFeature.REPLY_ACK, ProtocolFeature.LOG_SHMFD]) {
      const { front, session } = connect()
      await front.setProtocolFeatures(accepted)
      await front.setMemTable(ram.regions)
      if (accepted !== ProtocolFeature.LOG_SHMFD) {
        await assert.rejects(front.tell(Request.SET_LOG_BASE, { payload, fds }), { code: 'ERR_VHOST_USER_REFUSED' })
        assert.equal(await front.getQueueNum(), 2)
      }
      await assert.rejects(front.ask(Request.SET_LOG_BASE, { payload, fds }), { code: 'ERR_VHOST_USER_CLOSED' })
      assert.match((await session.closed)!.message, /^SET_LOG_BASE has no answer: (?!undefined)/)
    }
    for (const each of fds) close(each)
    assert.deepEqual([openDescriptors(), mappings()], before)
  })
}

test('a hang-up while queues run stops them, at every point of a session', async () => {
  const before = [openDescriptors(), mappings()]
  for (let count = 0; count <= 13; count++) {
    const pair = connect()
    const steps = startSteps(pair)
    assert.equal(steps.length, 13)
    for (const step of steps.slice(0, count)) await step()
    // The next one is on its way, unanswered.
    const next = steps[count]?.().catch(() => {})
    pair.front.close()
    await next
    assert.equal(await pair.session.closed, undefined)
    assert.equal(pair.device.queues.size, 0)
    assert.equal(pair.device.look().at(-1), 'reset')
  }
  assert.deepEqual([openDescriptors(), mappings()], before)
})

test('descriptors that are no use for kicks are refused or left to the device, and closed', async () => {
  const before = openDescriptors()
  const path = open('/', O_RDONLY | O_PATH)
  const pair = connect()
  await start(pair)
  await assert.rejects(pair.front.setVringKick(0, path), { code: 'ERR_VHOST_USER_REFUSED' })
  await assert.rejects(pair.front.setVringCall(0, path), { code: 'ERR_VHOST_USER_REFUSED' })
  assert.equal(pair.device.queues.size, 2, 'both still run')
  const file = memfdCreate('no-kick')
  await pair.front.setVringCall(0, file)
  pair.front.close()
  assert.equal(await pair.session.closed, undefined)
  close(file)
  close(path)
  assert.deepEqual(openDescriptors(), before)
})

test('a back-end channel that is no socket, or closed, costs only itself', async () => {
  const before = openDescriptors()
  const { front, session, problems } = connect()
  await front.setProtocolFeatures(ProtocolFeature.BACKEND_REQ | ProtocolFeature.CONFIG | ProtocolFeature.REPLY_ACK)
  await front.tell(Request.SET_BACKEND_REQ_FD, { fds: [fd] })
  session.notifyConfigChange()
  assert.equal(await front.getQueueNum(), 2)
  assert.match(problems[0]!, /ENOTSOCK/)
  assert.equal(session.notifyConfigChange(), false)
  const [ours, theirs] = unixSocketPair()
  await front.tell(Request.SET_BACKEND_REQ_FD, { fds: [theirs] })
  close(ours)
  close(theirs)
  session.notifyConfigChange()
  assert.equal(await front.getQueueNum(), 2)
  front.close()
  assert.equal(await session.closed, undefined)
  assert.deepEqual(openDescriptors(), before)
})

test('problems without end are told 32 times', async () => {
  const { front, session, problems } = connect()
  for (let count = 0; count < 100; count++) await front.send(99, 0)
  await front.getQueueNum()
  assert.equal(problems.length, 32)
  front.close()
  await session.closed
})

test('a peer that does not read its replies holds nobody but itself', async () => {
  const [ours, theirs] = unixSocketPair()
  const session = new BackEndSession(theirs, new RecordingDevice())
  const ask = Buffer.concat(Array.from({ length: 1000 }, () => encodeMessage(Request.GET_FEATURES, 0, none)))
  sendMessage(ours, ask)
  sendMessage(ours, ask)
  await new Promise((resolve) => setTimeout(resolve, 50))
  close(ours)
  assert.equal(await session.closed, undefined)
})

test('random messages: the session answers or ends, and gives everything back', async () => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 0x7fffffff)
  console.log(`\nnote: SEED=${seed}`)
  let x = seed
  const random = (below: number): number => {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0
    return (x >>> 8) % below
  }
  const payloads = (): Uint8Array => {
    const shapes = [none, raw(BigInt(random(4))), raw(LOGGING), state(random(3), random(3)), state(0, random(70000)), table(random(4)), encodeRegion(region),
      encodeVringAddress({ index: random(3), ...ringAddresses(random(2)), flags: random(2), log: BigInt(random(0x50000000)) }),
      inflight({ queues: random(4), queueSize: 8 * random(4), size: 64 * random(11) }), log(8 * random(4200)),
      encodeMemoryTable([region]), raw(1n << BigInt(random(64))),
      encodeConfig({ offset: random(300), size: random(20), flags: random(3), data: new Uint8Array(20) }), new Uint8Array(random(200)).fill(random(256))]
    return shapes[random(shapes.length)]!
  }
  const migrate = async (front: FrontEnd): Promise<void> => {
    await front.setInflightFd({ fd: inflightFd, size: INFLIGHT_BYTES, offset: 0, queues: 1 + random(2), queueSize: 16 })
    await front.setLogBase({ fd: roomyFd, size: LOG_BYTES + random(3) })
    await front.setFeatures(LOGGING)
  }
  const unanswered = Object.values(Request).filter((request) => !hasOwnReply(request))
  const before = [openDescriptors(), mappings()]
  const starts: string[] = []
  for (let round = 0; round < 60; round++) {
    const pair = connect()
    if (random(2) === 0) await start(pair)
    for (let count = 0; count < 80; count++) {
      const fds = Array.from({ length: random(3) }, () => [fd, memoryFd, inflightFd, roomyFd][random(4)]!)
      // What ends a session is rare, so that most messages find one.
      const request = random(40) === 0 ? random(46) : unanswered[random(unanswered.length)]!
      await pair.front.send(request, random(100) === 0 ? FLAG_REPLY : 0, { payload: payloads(), fds }).catch(() => {})
      if (random(4) === 0) await start(pair).then(() => migrate(pair.front)).catch(() => {})
    }
    await new Promise((resolve) => setImmediate(resolve))
    pair.front.close()
    await pair.session.closed
    assert.equal(pair.device.queues.size, 0)
    starts.push(...pair.device.look().filter((line) => line.startsWith('start')))
  }
  const kinds = ['', 'recorded', 'logged'].map((kind) => starts.filter((line) => line.includes(kind)).length)
  assert.ok(kinds[0]! > 60 && kinds[1]! > 0 && kinds[2]! > 0, `${kinds} starts: the messages do not get deep`)
  assert.deepEqual([openDescriptors(), mappings()], before)
})

test.run()
