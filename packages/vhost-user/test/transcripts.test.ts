// What the front-ends that exist send, in their order, against a device that writes down what becomes of it.
import assert from 'node:assert/strict'
import { close, unixSocketPair } from '@node-vmm/libc'
import { test } from 'uvu'
import {
  encodeConfig, encodeInflight, encodeLog, encodeMemoryTable, encodeRegion, encodeU64, encodeVringAddress,
  encodeVringDescriptor, encodeVringState, FLAG_NEED_REPLY, type FrontEnd, FrontEndRequest as Request, hasOwnReply,
  type InflightInit, ProtocolFeature, TransportFeature
} from '../src/index.ts'
import { connect, counter, Eventfds, GUEST_BASE, guestMemory, memoryFile, ringAddresses, USER_BASE } from './support/session.ts'

const FEATURES = 1n << 32n | TransportFeature.PROTOCOL_FEATURES
const LOG_BYTES = 0x8010
const fds = new Eventfds()
const ram = guestMemory()
const table = encodeMemoryTable(ram.descriptions)

type Name = keyof typeof Request
type Step = readonly [name: Name, payload?: Uint8Array | undefined, fds?: readonly number[] | undefined]

/** Sends each step and waits for the reply that this front-end waits for; returns the replies' payloads as hex. */
async function play (front: FrontEnd, steps: readonly Step[], needReply: boolean | readonly Name[] = false): Promise<string[]> {
  const replies: string[] = []
  for (const [name, payload, passed] of steps) {
    const wantsReply = !hasOwnReply(Request[name]) && (needReply === true || (needReply !== false && needReply.includes(name)))
    // LOG_SHMFD is agreed to wherever a log is sent here.
    const ownReply = hasOwnReply(Request[name]) || (name === 'SET_LOG_BASE' && !wantsReply)
    await front.send(Request[name], wantsReply ? FLAG_NEED_REPLY : 0, { ...(payload && { payload }), ...(passed && { fds: passed }) })
    if (!ownReply && !wantsReply) continue
    const reply = await front.receive()
    assert.ok(reply?.isReply, `${name} is answered`)
    assert.equal(reply.request, Request[name])
    if (wantsReply) assert.equal(Buffer.from(reply.payload).toString('hex'), '0000000000000000', name)
    else replies.push(Buffer.from(reply.payload).toString('hex'))
  }
  return replies
}

const state = (index: number, num: number): Uint8Array => encodeVringState({ index, num })
const num = (index: number): Step => ['SET_VRING_NUM', state(index, 128)]
const base = (index: number, at = 0): Step => ['SET_VRING_BASE', state(index, at)]
const addr = (index: number, log = 0n, flags = 0): Step => ['SET_VRING_ADDR', encodeVringAddress({ index, ...ringAddresses(index), log, flags })]
const loggedAddr = (index: number): Step => addr(index, BigInt(GUEST_BASE + index * 0x4000 + 0x2000), 1)
const kick = (index: number, fd = fds.make()): Step => ['SET_VRING_KICK', encodeVringDescriptor({ index, hasFd: true }), [fd]]
const call = (index: number, fd = fds.make()): Step => ['SET_VRING_CALL', encodeVringDescriptor({ index, hasFd: true }), [fd]]
const err = (index: number): Step => ['SET_VRING_ERR', encodeVringDescriptor({ index, hasFd: true }), [fds.make()]]
const enable = (index: number, on: 0 | 1): Step => ['SET_VRING_ENABLE', state(index, on)]
const getBase = (index: number): Step => ['GET_VRING_BASE', state(index, 0)]
const setFeatures = (features: bigint): Step => ['SET_FEATURES', encodeU64(features)]
const setProtocol = (features: bigint): Step => ['SET_PROTOCOL_FEATURES', encodeU64(features)]
const getConfig = (size: number): Step => ['GET_CONFIG', encodeConfig({ offset: 0, size, flags: 0, data: new Uint8Array(size) })]
const memTable: Step = ['SET_MEM_TABLE', table, ram.regions.map(({ fd }) => fd)]
const setStatus = (status: number): Step => ['SET_STATUS', encodeU64(BigInt(status))]
const setInflight = ({ fd, ...region }: InflightInit): Step => ['SET_INFLIGHT_FD', encodeInflight(region), [fd]]
const setLog = (fd: number): Step => ['SET_LOG_BASE', encodeLog({ size: LOG_BYTES, offset: 0 }), [fd]]
const started = (index: number, at = 0, extras = ''): string => {
  const parts = [0, 0x1000, 0x2000].map((part) => (index * 0x4000 + part).toString(16)).join()
  return `start ${index} size 128 at ${parts} base ${at}${extras}`
}

test('QEMU', async () => {
  const { front, session, device } = connect()
  const [channel, backEnd] = unixSocketPair()
  const { MQ, CONFIG, REPLY_ACK, BACKEND_REQ, CONFIGURE_MEM_SLOTS, RESET_DEVICE } = ProtocolFeature
  const acknowledged: readonly Name[] = ['SET_BACKEND_REQ_FD', 'ADD_MEM_REG', 'SET_MEM_TABLE']
  const replies = await play(front, [
    ['GET_FEATURES'], ['GET_PROTOCOL_FEATURES'],
    setProtocol(MQ | CONFIG | REPLY_ACK | BACKEND_REQ | CONFIGURE_MEM_SLOTS | RESET_DEVICE),
    ['GET_QUEUE_NUM'], ['GET_MAX_MEM_SLOTS'], ['SET_BACKEND_REQ_FD', undefined, [backEnd]], ['SET_OWNER'], ['GET_FEATURES'],
    call(0), err(0), call(1), err(1), getConfig(57)
  ], acknowledged)
  assert.deepEqual(replies.slice(2, 4), ['0200000000000000', 'fd01000000000000'])
  assert.equal(replies.at(-1)!.length, 2 * (12 + 57))
  assert.deepEqual(device.look(), [])

  // DRIVER_OK, with memory split at 1 MiB.
  const half = { ...ram.descriptions[0]!, size: 0x8000 }
  const other = { guestAddress: GUEST_BASE + 0x8000, size: 0x8000, userAddress: USER_BASE + 0x8000, offset: 0x8000 }
  const { fd } = ram.regions[0]!
  const irq = fds.make()
  await play(front, [
    setFeatures(FEATURES), call(0), call(1), setFeatures(FEATURES),
    ['ADD_MEM_REG', encodeRegion(half), [fd]], ['ADD_MEM_REG', encodeRegion(other), [fd]],
    num(0), base(0), addr(0), kick(0), num(1), base(1), addr(1), kick(1), enable(0, 1), enable(1, 1), call(0, irq), ['GET_FEATURES']
  ], acknowledged)
  assert.deepEqual(device.look(), ['features 0x100000000', started(0), started(1), 'call 0 replaced'])
  assert.equal(counter(irq), 1)

  device.taken = 3
  const bases = await play(front, [enable(0, 0), enable(1, 0), getBase(0), getBase(1)], acknowledged)
  assert.deepEqual(bases, ['0000000003000000', '0100000003000000'])
  assert.deepEqual(device.look(), ['stop 0', 'stop 1'])

  // The guest goes on: resume, or another driver after the firmware's.
  await play(front, [setFeatures(FEATURES), num(0), base(0, 3), addr(0), kick(0), enable(0, 1), ['GET_FEATURES']], acknowledged)
  assert.deepEqual(device.look(), [started(0, 3)])
  assert.notEqual(device.queues.get(0)!.errorFd, undefined, 'QEMU passes it once, at the beginning')
  // QEMU before 7.2 stops without ENABLE 0.
  assert.deepEqual(await play(front, [getBase(0)]), ['0000000006000000'])
  front.close()
  close(channel)
  close(backEnd)
  assert.equal(await session.closed, undefined)
  assert.deepEqual(device.look(), ['stop 0', 'reset'])
})

test('QEMU: in-flight region, status, pause, migration, and a back-end that dies', async () => {
  const { MQ, CONFIG, REPLY_ACK, INFLIGHT_SHMFD, LOG_SHMFD, STATUS } = ProtocolFeature
  const logging = FEATURES | TransportFeature.LOG_ALL
  const acknowledged: readonly Name[] = ['SET_MEM_TABLE', 'SET_VRING_ENABLE']
  const whileLogging: readonly Name[] = [...acknowledged, 'SET_FEATURES', 'SET_VRING_ADDR']
  const negotiation: Step[] = [
    ['GET_FEATURES'], ['GET_PROTOCOL_FEATURES'], setProtocol(MQ | CONFIG | REPLY_ACK | INFLIGHT_SHMFD | LOG_SHMFD | STATUS),
    ['GET_QUEUE_NUM'], ['SET_OWNER'], ['GET_FEATURES'], call(0), err(0), call(1), err(1), getConfig(57)
  ]
  const { front, session, device } = connect()
  const [offered] = await play(front, negotiation)
  // VIRTIO_F_VERSION_1, PROTOCOL_FEATURES, EVENT_IDX, LOG_ALL and the device's bit 9.
  assert.equal(offered, '0002006401000000')

  // The status is read before it is set, with the bits to add.
  const statuses = await play(front, [setFeatures(FEATURES), ['GET_STATUS'], setStatus(0x8)])
  assert.deepEqual(statuses, ['0000000000000000'])
  const region = (await front.getInflightFd(2, 128))!
  await play(front, [
    setInflight(region), setFeatures(FEATURES), ['GET_STATUS'], memTable, num(0), base(0), addr(0), kick(0), num(1), base(1),
    addr(1), kick(1), enable(0, 1), enable(1, 1), ['GET_STATUS'], setStatus(0xf), call(0), call(1), ['GET_FEATURES']
  ], acknowledged)
  assert.deepEqual(device.look(), ['features 0x100000000', started(0, 0, ' recorded'), started(1, 0, ' recorded'), 'call 0 replaced', 'call 1 replaced'])

  // A migration begins.
  const [first, second] = [memoryFile(LOG_BYTES), memoryFile(LOG_BYTES)]
  const recordedLogged = ' recorded logged'
  assert.deepEqual(await play(front, [setLog(first), setFeatures(logging), ['GET_STATUS'], loggedAddr(0), loggedAddr(1)], whileLogging),
    ['0000000000000000', '0f00000000000000'])
  assert.deepEqual(device.look(), ['stop 0', 'stop 1', 'features 0x100000000', started(0, 0, recordedLogged), started(1, 0, recordedLogged),
    'stop 0', started(0, 0, recordedLogged), 'stop 1', started(1, 0, recordedLogged)])
  assert.equal(device.queues.get(1)!.log!.usedAddress, GUEST_BASE + 0x6000)

  // A pause: the status says reset, but the guest goes on with the same features, memory and call descriptors.
  device.taken = 9
  const bases = await play(front, [enable(0, 0), enable(1, 0), getBase(0), getBase(1), setStatus(0)], acknowledged)
  assert.deepEqual(bases, ['0000000009000000', '0100000009000000'])
  device.taken = 0
  await play(front, [
    setFeatures(logging), ['GET_STATUS'], setStatus(0x8), setInflight(region), setFeatures(logging), ['GET_STATUS'], memTable,
    num(0), base(0, 9), loggedAddr(0), kick(0), num(1), base(1, 9), loggedAddr(1), kick(1), setLog(second),
    enable(0, 1), enable(1, 1), ['GET_STATUS'], setStatus(0xf)
  ], whileLogging)
  assert.deepEqual(device.look(), ['stop 0', 'stop 1', 'features 0x100000000', started(0, 9, recordedLogged), started(1, 9, recordedLogged)])
  assert.notEqual(device.queues.get(0)!.callFd, undefined)

  // It is given up.
  await play(front, [setFeatures(FEATURES), ['GET_STATUS'], addr(0), addr(1), ['GET_FEATURES']])
  assert.deepEqual(device.look(), ['stop 0', 'stop 1', 'features 0x100000000', started(0, 9, ' recorded'), started(1, 9, ' recorded')])

  // The back-end dies; the next one gets the region, and bases from the used rings.
  front.close()
  await session.closed
  const next = connect()
  await play(next.front, negotiation)
  await play(next.front, [
    setFeatures(FEATURES), ['GET_STATUS'], setStatus(0x8), setInflight(region), setFeatures(FEATURES), ['GET_STATUS'], memTable, num(0), base(0, 8),
    addr(0), kick(0), num(1), base(1, 9), addr(1), kick(1), enable(0, 1), enable(1, 1), ['GET_STATUS'], setStatus(0xf)
  ], acknowledged)
  assert.deepEqual(next.device.look(), ['features 0x100000000', started(0, 8, ' recorded'), started(1, 9, ' recorded')])
  next.front.close()
  assert.equal(await next.session.closed, undefined)
  for (const fd of [region.fd, first, second]) close(fd)
})

test('QEMU 7.2: the status is 0 before it asks where the rings stand', async () => {
  const { front, session, device } = connect()
  await play(front, [['GET_FEATURES'], ['GET_PROTOCOL_FEATURES'], setProtocol(ProtocolFeature.CONFIG | ProtocolFeature.STATUS), ['SET_OWNER'], call(0), err(0)])
  const start = (at: number): Step[] => [
    setFeatures(FEATURES), ['GET_STATUS'], setStatus(0x8), memTable, num(0), base(0, at), addr(0), kick(0), enable(0, 1), ['GET_STATUS'], setStatus(0xf)
  ]
  await play(front, start(0))
  device.taken = 7
  assert.deepEqual(await play(front, [setStatus(0), enable(0, 0), getBase(0)]), ['0000000007000000'])
  await play(front, [...start(7), ['GET_FEATURES']])
  assert.deepEqual(device.look(), ['features 0x100000000', started(0), 'stop 0', 'features 0x100000000', started(0, 7)])
  front.close()
  assert.equal(await session.closed, undefined)
})

test('Cloud Hypervisor: every message acknowledged', async () => {
  const { front, session, device } = connect()
  const { MQ, CONFIG, REPLY_ACK, CONFIGURE_MEM_SLOTS } = ProtocolFeature
  await play(front, [['SET_OWNER'], ['GET_FEATURES'], ['GET_PROTOCOL_FEATURES'], setProtocol(MQ | CONFIG | REPLY_ACK | CONFIGURE_MEM_SLOTS)])
  await play(front, [
    ['GET_QUEUE_NUM'], getConfig(60), setFeatures(FEATURES), memTable, num(0), num(1),
    addr(0), base(0), call(0), kick(0), addr(1), base(1), call(1), kick(1), enable(0, 1), enable(1, 1)
  ], true)
  assert.deepEqual(device.look(), ['features 0x100000000', started(0), started(1)])
  const bases = await play(front, [enable(0, 0), getBase(0), enable(1, 0), getBase(1)], true)
  assert.deepEqual(bases, ['0000000000000000', '0100000000000000'])
  front.close()
  await session.closed
})

test('Cloud Hypervisor: in-flight region and migration, a fresh log for each reading', async () => {
  const { front, session, device } = connect()
  const { MQ, CONFIG, REPLY_ACK, INFLIGHT_SHMFD, LOG_SHMFD } = ProtocolFeature
  await play(front, [['SET_OWNER'], ['GET_FEATURES'], ['GET_PROTOCOL_FEATURES'], setProtocol(MQ | CONFIG | REPLY_ACK | INFLIGHT_SHMFD | LOG_SHMFD)])
  await play(front, [['GET_QUEUE_NUM'], getConfig(60), setFeatures(FEATURES), memTable, num(0), num(1)], true)
  const region = (await front.getInflightFd(2, 128))!
  await play(front, [
    setInflight(region), addr(0), base(0), call(0), kick(0), addr(1), base(1), call(1), kick(1), enable(0, 1), enable(1, 1)
  ], true)
  assert.deepEqual(device.look(), ['features 0x100000000', started(0, 0, ' recorded'), started(1, 0, ' recorded')])

  const logs = [0, 1].map(() => memoryFile(LOG_BYTES))
  await play(front, [setLog(logs[0]!), setFeatures(FEATURES | TransportFeature.LOG_ALL), loggedAddr(0), loggedAddr(1)], true)
  device.look()
  const { address } = device.queues.get(0)!.log!
  await play(front, [setLog(logs[1]!)], true)
  assert.deepEqual(device.look(), ['stop 0', 'stop 1', started(0, 0, ' recorded logged'), started(1, 0, ' recorded logged')])
  assert.notEqual(device.queues.get(0)!.log!.address, address)
  await play(front, [addr(0), addr(1), setFeatures(FEATURES)], true)
  assert.deepEqual(device.look().slice(-2), [started(0, 0, ' recorded'), started(1, 0, ' recorded')])
  front.close()
  assert.equal(await session.closed, undefined)
  for (const fd of [region.fd, ...logs]) close(fd)
})

test('crosvm: no message acknowledged, a queue enabled at once, any slice of the configuration', async () => {
  const { front, session, device } = connect()
  const [channel, backEnd] = unixSocketPair()
  const { MQ, CONFIG, REPLY_ACK, BACKEND_REQ } = ProtocolFeature
  const slice = encodeConfig({ offset: 8, size: 4, flags: 0, data: new Uint8Array(4) })
  const replies = await play(front, [
    ['SET_OWNER'], ['GET_FEATURES'], ['GET_PROTOCOL_FEATURES'], setProtocol(MQ | CONFIG | REPLY_ACK | BACKEND_REQ),
    ['SET_BACKEND_REQ_FD', undefined, [backEnd]], ['GET_QUEUE_NUM'], setFeatures(FEATURES), memTable,
    num(0), addr(0), base(0), call(0), kick(0), enable(0, 1), num(1), addr(1), base(1), call(1), kick(1), enable(1, 1),
    ['GET_CONFIG', slice], enable(0, 0), getBase(0), enable(1, 0), getBase(1)
  ])
  assert.equal(replies.at(-3), '080000000400000000000000' + '090a0b0c')
  assert.deepEqual(device.look(), ['features 0x100000000', started(0), started(1), 'stop 0', 'stop 1'])
  front.close()
  close(channel)
  close(backEnd)
  await session.closed
})

test('Firecracker: CONFIG only, no acknowledgements, closes when it is done', async () => {
  const { front, session, device } = connect()
  await play(front, [
    ['SET_OWNER'], ['GET_FEATURES'], ['GET_PROTOCOL_FEATURES'], setProtocol(ProtocolFeature.CONFIG), getConfig(60),
    setFeatures(FEATURES), memTable, num(0), addr(0), base(0), call(0), kick(0), enable(0, 1), getConfig(60)
  ])
  assert.deepEqual(device.look(), ['features 0x100000000', started(0)])
  front.close()
  assert.equal(await session.closed, undefined)
  assert.deepEqual(device.look(), ['stop 0', 'reset'])
})

test('User-Mode Linux: stream sockets as descriptors, room in the table, no GET_VRING_BASE, a barrier', async () => {
  const { front, session, device } = connect()
  const [channel, backEnd] = unixSocketPair()
  const [callRead, callWrite] = unixSocketPair()
  const { REPLY_ACK, BACKEND_REQ, CONFIG } = ProtocolFeature
  await play(front, [['SET_OWNER'], ['GET_FEATURES'], ['GET_PROTOCOL_FEATURES']])
  const roomy = new Uint8Array(8 + 2 * 32)
  roomy.set(table)
  await play(front, [
    setProtocol(REPLY_ACK | BACKEND_REQ | CONFIG), ['SET_BACKEND_REQ_FD', undefined, [backEnd]], setFeatures(FEATURES),
    getConfig(12), getConfig(60), getConfig(24), ['SET_MEM_TABLE', roomy, memTable[2]],
    call(0, callWrite), num(0), base(0), addr(0, 0xffffffffffffffffn), kick(0), enable(0, 1)
  ], true)
  assert.deepEqual(device.look(), ['features 0x100000000', started(0)])
  device.taken = 5
  await play(front, [enable(0, 0), ['GET_FEATURES']], true)
  assert.deepEqual(device.look(), ['stop 0'])
  // The module is loaded again: a new ring from index 0.
  await play(front, [setFeatures(FEATURES), memTable, call(0, callWrite), num(0), base(0), addr(0), kick(0), enable(0, 1)], true)
  assert.deepEqual(device.look(), [started(0)])
  front.close()
  assert.equal(await session.closed, undefined)
  for (const fd of [channel, backEnd, callRead, callWrite]) close(fd)
})

test.run()
