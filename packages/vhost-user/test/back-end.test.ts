import { close, unixSocketPair } from '@node-vmm/libc'
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { readSync } from 'node:fs'
import { test } from 'uvu'
import {
  BackEndSession, encodeU64, encodeVringState, FLAG_NEED_REPLY, FrontEnd, FrontEndRequest, OFFERED_PROTOCOL_FEATURES,
  ProtocolFeature, TransportFeature
} from '../src/index.ts'
import {
  connect, counter, Eventfds, GUEST_BASE, guestMemory, mappings, openDescriptors, PACKED, type Pair, RecordingDevice,
  ringAddresses, startRing, USER_BASE, VERSION_1
} from './support/session.ts'

const refusal = { code: 'ERR_VHOST_USER_REFUSED' }
const fds = new Eventfds()
const ram = guestMemory()

const started = (pair: Pair, index?: number): ReturnType<typeof startRing> => startRing(pair, ram, fds, index)

async function finish ({ front, session }: Pair): Promise<void> {
  front.close()
  assert.equal(await session.closed, undefined)
}

test('features: the device offers its own, the session adds PROTOCOL_FEATURES, the device sees only what is its', async () => {
  const pair = connect()
  const { front, device } = pair
  assert.equal(await front.getFeatures(), device.features | 1n << 26n | 1n << 30n)
  await front.setFeatures(VERSION_1 | 1n << 30n)
  await front.setFeatures(VERSION_1 | 1n << 30n)
  await front.getFeatures()
  assert.deepEqual(device.look(), ['features 0x100000000'])
  await finish(pair)
})

test('features and protocol features that were not offered are refused', async () => {
  const pair = connect()
  const { front, device, problems } = pair
  await front.setProtocolFeatures(ProtocolFeature.REPLY_ACK)
  await assert.rejects(front.setFeatures(1n << 34n), refusal)
  await assert.rejects(front.setProtocolFeatures(ProtocolFeature.PAGEFAULT), refusal)
  assert.deepEqual(device.look(), [])
  assert.match(problems[0]!, /SET_FEATURES refused: features 0x400000000 were not offered/)
  assert.match(problems[1]!, /PAGEFAULT/)
  await finish(pair)
})

test('protocol features can be restricted, and then are not served', async () => {
  const pair = connect({ protocolFeatures: ProtocolFeature.CONFIG | ProtocolFeature.REPLY_ACK | ProtocolFeature.PAGEFAULT })
  assert.equal(await pair.front.getProtocolFeatures(), ProtocolFeature.CONFIG | ProtocolFeature.REPLY_ACK)
  await pair.front.setProtocolFeatures(ProtocolFeature.CONFIG | ProtocolFeature.REPLY_ACK)
  await assert.rejects(pair.front.resetDevice(), refusal)
  await assert.rejects(pair.front.setStatus(0), refusal)
  assert.equal(await pair.front.getFeatures(), pair.device.features | 1n << 30n, 'no LOG_ALL without LOG_SHMFD')
  await finish(pair)
})

test('queue count and memory slots are told', async () => {
  const pair = connect()
  assert.equal(await pair.front.getQueueNum(), 2)
  assert.equal(await pair.front.getMaxMemSlots(), 509)
  await finish(pair)
})

test('need_reply is answered once REPLY_ACK is agreed: in the very message that agrees to it, as User-Mode Linux expects', async () => {
  const pair = connect()
  const { front } = pair
  await front.send(FrontEndRequest.SET_OWNER, FLAG_NEED_REPLY)
  await front.send(FrontEndRequest.SET_PROTOCOL_FEATURES, FLAG_NEED_REPLY, { payload: encodeU64(ProtocolFeature.REPLY_ACK) })
  const reply = await front.receive()
  assert.deepEqual({ ...reply, payload: [...reply!.payload] }, {
    request: FrontEndRequest.SET_PROTOCOL_FEATURES, isReply: true, needsReply: false, payload: [0, 0, 0, 0, 0, 0, 0, 0], fds: []
  })
  await finish(pair)
})

test('need_reply on a request with its own reply brings that reply only', async () => {
  const pair = connect()
  await pair.front.setProtocolFeatures(ProtocolFeature.REPLY_ACK)
  await pair.front.send(FrontEndRequest.GET_QUEUE_NUM, FLAG_NEED_REPLY)
  assert.equal((await pair.front.receive())!.payload[0], 2)
  assert.equal(await pair.front.getQueueNum(), 2)
  await finish(pair)
})

test('configuration: any range of 256 bytes, zeros beyond the end, the same size back, before anything else was said', async () => {
  const pair = connect()
  const { front, device } = pair
  for (let size = 1; size <= 256; size++) assert.equal((await front.getConfig(0, size)).length, size)
  assert.deepEqual([...await front.getConfig(58, 4)], [59, 60, 0, 0])
  await assert.rejects(front.getConfig(250, 10), refusal)
  await front.setProtocolFeatures(ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG)
  await front.setConfig(32, Uint8Array.of(1))
  await assert.rejects(front.setConfig(0, Uint8Array.of(1, 2), true), refusal)
  assert.deepEqual(device.look(), ['config 32 1', 'config 0 1,2 live'])
  await finish(pair)
})

test('a ring runs once all is known, with guest addresses, and stops at GET_VRING_BASE', async () => {
  const pair = connect()
  const { front, device } = pair
  const { kick, call, error } = await started(pair)
  assert.deepEqual(device.look(), ['features 0x100000000', 'start 0 size 128 at 0,1000,2000 base 5'])
  const queue = device.queues.get(0)!
  assert.equal(queue.features, VERSION_1)
  assert.equal(new Set([queue.kickFd, queue.callFd, queue.errorFd, kick, call, error]).size, 6)
  assert.notEqual(queue.memory.translate(GUEST_BASE, 0x10000, true), 0)
  device.taken = 7
  assert.equal(await front.getVringBase(0), 12)
  assert.equal(await front.getVringBase(0), 12)
  assert.deepEqual(device.look(), ['stop 0'])
  await finish(pair)
  assert.deepEqual(device.look(), ['reset'])
})

test('GET_VRING_BASE of a ring that never ran gives its base', async () => {
  const pair = connect()
  assert.equal(await pair.front.getVringBase(1), 0)
  await pair.front.setVringBase(1, 65535)
  assert.equal(await pair.front.getVringBase(1), 65535)
  await finish(pair)
})

test('all orders of NUM, ADDR, BASE, CALL, KICK, ENABLE end in the same ring', async () => {
  const pair = connect()
  const { front, device } = pair
  await front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  await front.setFeatures(VERSION_1 | TransportFeature.PROTOCOL_FEATURES)
  await front.setMemTable(ram.regions)
  const [kick, call] = [fds.make(), fds.make()]
  const steps = [
    () => front.setVringNum(0, 64), () => front.setVringAddr(0, ringAddresses()), () => front.setVringBase(0, 9),
    () => front.setVringCall(0, call), () => front.setVringKick(0, kick), () => front.setVringEnable(0, true)
  ]
  for (const order of permutations(steps)) {
    for (const step of order) await step()
    await front.getFeatures()
    const { size, base, callFd } = device.queues.get(0)!
    assert.deepEqual([size, base], [64, 9])
    assert.ok(callFd !== undefined || device.look().includes('call 0 replaced'))
    await front.resetDevice()
    await front.setVringCall(0, undefined)
    await front.setFeatures(VERSION_1 | TransportFeature.PROTOCOL_FEATURES)
    device.look()
  }
  await finish(pair)
})

function permutations<T> (items: readonly T[]): T[][] {
  if (items.length <= 1) return [[...items]]
  return items.flatMap((item, index) => permutations(items.toSpliced(index, 1)).map((rest) => [item, ...rest]))
}

test('without PROTOCOL_FEATURES acknowledged a ring needs no enabling', async () => {
  const pair = connect()
  const { front, device } = pair
  await front.setMemTable(ram.regions)
  await front.setVringNum(0, 16)
  await front.setVringAddr(0, ringAddresses())
  await front.setVringKick(0, fds.make())
  await front.getFeatures()
  assert.deepEqual(device.look(), [])
  await front.setFeatures(VERSION_1)
  await front.getFeatures()
  assert.deepEqual(device.look(), ['features 0x100000000', 'start 0 size 16 at 0,1000,2000 base 0'])
  await finish(pair)
})

test('ENABLE 0 keeps all, is drained before the next reply, and ENABLE 1 goes on where it stopped', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  device.look()
  device.taken = 3
  device.onStop = () => sleep(30)
  // User-Mode Linux without REPLY_ACK: GET_FEATURES is its barrier.
  await front.send(FrontEndRequest.SET_VRING_ENABLE, 0, { payload: encodeVringState({ index: 0, num: 0 }) })
  await front.getFeatures()
  assert.deepEqual(device.look(), ['stop 0'])
  await front.setVringEnable(0, true)
  assert.deepEqual(device.look(), ['start 0 size 128 at 0,1000,2000 base 8'])
  await finish(pair)
})

test('what changes on a running ring stops it and starts it again', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  const again = ['stop 0', 'start 0 size 128 at 0,1000,2000 base 5']
  device.look()
  await front.setVringKick(0, fds.make())
  assert.deepEqual(device.look(), again)
  await front.setVringErr(0, fds.make())
  assert.deepEqual(device.look(), again)
  await front.setVringAddr(0, { ...ringAddresses(), flags: 1, log: 0x1000n })
  assert.deepEqual(device.look(), [], 'the same addresses, for a log')
  await front.setVringAddr(0, ringAddresses(1))
  assert.deepEqual(device.look(), ['stop 0', 'start 0 size 128 at 4000,5000,6000 base 5'])
  await front.setFeatures(VERSION_1 | 1n << 29n | 1n << 30n)
  assert.deepEqual(device.look(), ['stop 0', 'features 0x120000000', 'start 0 size 128 at 4000,5000,6000 base 5'])
  assert.equal(device.queues.get(0)!.features, VERSION_1 | 1n << 29n)
  await finish(pair)
})

test('a running ring keeps its size, and its base once it has taken buffers', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  await front.setVringNum(0, 128)
  await assert.rejects(front.setVringNum(0, 64), refusal)
  await front.setVringBase(0, 77)
  assert.equal(device.queues.get(0)!.base, 77, 'nothing was taken yet')
  device.taken = 1
  await assert.rejects(front.setVringBase(0, 5), refusal)
  assert.equal(device.queues.get(0)!.base, 78)
  await finish(pair)
})

test('a call descriptor is signalled once when it is set, and replaced on the running ring', async () => {
  const pair = connect()
  const { front, device } = pair
  const { call } = await started(pair)
  assert.equal(counter(call), 1)
  device.look()
  const next = fds.make()
  await front.setVringCall(0, next)
  assert.deepEqual(device.look(), ['call 0 replaced'])
  assert.deepEqual([counter(next), counter(call)], [1, 0])
  await front.setVringCall(0, undefined)
  assert.deepEqual(device.look(), ['call 0 none'])
  await finish(pair)
})

test('kick and call may be sockets or pipes; a full one does not block', async () => {
  const pair = connect()
  const { front } = pair
  const [read, write] = unixSocketPair()
  await front.setVringCall(0, write)
  const bytes = Buffer.alloc(16)
  await front.getFeatures()
  assert.equal(readSync(read, bytes), 8)
  for (let round = 0; round < 300; round++) await front.setVringCall(0, write)
  await front.getFeatures()
  close(read)
  await front.setVringCall(0, write)
  await front.getFeatures()
  close(write)
  await finish(pair)
})

test('a kick without descriptor is refused: there is no polling', async () => {
  const pair = connect()
  await pair.front.setProtocolFeatures(ProtocolFeature.REPLY_ACK)
  await assert.rejects(pair.front.setVringKick(0, undefined), refusal)
  assert.match(pair.problems[0]!, /polled/)
  await finish(pair)
})

test('a ring that cannot start signals its error descriptor, and can be mended', async () => {
  const pair = connect()
  const { front, device, problems } = pair
  device.refuseStart = true
  const { error } = await started(pair).catch(() => ({ error: -1 }))
  assert.equal(error, -1, 'ENABLE was answered as failed')
  assert.match(problems.at(-1)!, /ring 0 cannot start: the ring is crooked/)
  const errorFd = fds.make()
  await front.setVringErr(0, errorFd).catch(() => {})
  assert.equal(counter(errorFd), 1)
  await assert.rejects(front.setVringAddr(0, { descriptor: 0, available: 0, used: 0 }), refusal)
  assert.match(problems.at(-1)!, /descriptor table of a ring of 128 \(2048 bytes at user address 0x0\) is in no memory region/)
  assert.equal(counter(errorFd), 1)
  device.refuseStart = false
  await front.setVringAddr(0, ringAddresses())
  assert.deepEqual(device.look().at(-1), 'start 0 size 128 at 0,1000,2000 base 5')
  await finish(pair)
})

test('a memory table replaces memory under running rings: stopped, resolved again, started where they stopped', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  device.look()
  device.taken = 2
  const before = device.queues.get(0)!.memory
  await front.setMemTable([{ ...ram.regions[0]!, guestAddress: GUEST_BASE + 0x100000 }])
  assert.deepEqual(device.look(), ['stop 0', 'start 0 size 128 at 100000,101000,102000 base 7'])
  assert.throws(() => before.retain(), { code: 'ERR_RELEASED' })
  await finish(pair)
})

test('a memory table that cannot be mapped changes nothing', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  device.look()
  await assert.rejects(front.setMemTable([{ ...ram.regions[0]!, offset: 0x100000 }]), refusal)
  await assert.rejects(front.setMemTable([ram.regions[0]!, ram.regions[0]!]), refusal)
  await assert.rejects(front.setMemTable([{ ...ram.regions[0]!, size: 0 }]), refusal)
  assert.deepEqual(device.look(), [])
  await finish(pair)
})

test('regions are added and removed one by one', async () => {
  const pair = connect()
  const { front, device } = pair
  const error = (await started(pair)).error
  device.look()
  const more = { ...ram.regions[0]!, guestAddress: 0x90000000, userAddress: USER_BASE + 0x1000000 }
  await front.addMemReg(more)
  assert.equal(device.queues.get(0)!.memory.regions.length, 2)
  await assert.rejects(front.addMemReg(more), refusal)
  await assert.rejects(front.remMemReg({ ...more, size: 0x1000 }), refusal)
  // Some front-ends send the file again; the offset does not count.
  await front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  await front.remMemReg({ ...more, offset: 0x123000 })
  assert.equal(device.queues.get(0)!.memory.regions.length, 1)
  device.look()
  await front.remMemReg(ram.regions[0]!)
  assert.deepEqual(device.look(), ['stop 0'])
  assert.equal(counter(error), 1, 'the ring lost its memory')
  await front.addMemReg(ram.regions[0]!)
  assert.deepEqual(device.look(), ['start 0 size 128 at 0,1000,2000 base 5'])
  await finish(pair)
})

test('there are 509 slots', async () => {
  const pair = connect()
  await pair.front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  for (let slot = 0; slot < 509; slot++) {
    await pair.front.addMemReg({ fd: ram.regions[0]!.fd, size: 0x1000, guestAddress: slot * 0x1000 })
  }
  await assert.rejects(pair.front.addMemReg({ fd: ram.regions[0]!.fd, size: 0x1000, guestAddress: 0x1000000 }), refusal)
  await finish(pair)
})

test('RESET_DEVICE stops all and forgets all but memory, call and error descriptors', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  device.look()
  await front.resetDevice()
  assert.deepEqual(device.look(), ['stop 0', 'reset'])
  assert.equal(await front.getVringBase(0), 0)
  await front.setFeatures(VERSION_1 | 1n << 30n)
  await front.setVringNum(0, 32)
  await front.setVringAddr(0, ringAddresses())
  await front.setVringKick(0, fds.make())
  await front.setVringEnable(0, true)
  const queue = device.queues.get(0)!
  assert.deepEqual([queue.size, queue.base, queue.callFd !== undefined, queue.errorFd !== undefined], [32, 0, true, true])
  await finish(pair)
})

test('a ring that only lacks the guest\'s memory is told of once, with the remedy, and starts when it comes', async () => {
  const { front, device, problems } = connect()
  const ram = guestMemory()
  const fds = new Eventfds()
  await front.setFeatures(VERSION_1)
  for (const index of [0, 1]) {
    await front.setVringNum(index, 16)
    await front.setVringAddr(index, ringAddresses(index))
    assert.equal(problems.length, index)
    await front.setVringKick(index, fds.make())
    await front.getFeatures()
    assert.equal(problems.length, 1)
  }
  assert.match(problems[0]!, /^ring 0 waits for the guest's memory, of which the front-end has shared nothing\. QEMU shares it with .*share=on/)
  await front.setMemTable(ram.regions)
  await front.getFeatures()
  assert.equal(device.queues.size, 2)
  assert.equal(problems.length, 1)
  front.close()
  fds.close()
  ram.close()
})

test('status: kept, and 0 stops and forgets all that RESET_DEVICE does, but not what the guest has set in the device', async () => {
  const pair = connect()
  const { front, device } = pair
  assert.equal(await front.getStatus(), 0)
  await started(pair)
  await front.setStatus(0xf)
  assert.equal(await front.getStatus(), 0xf)
  await assert.rejects(front.setStatus(0x100), refusal)
  device.look()
  await front.setStatus(0)
  assert.deepEqual(device.look(), ['stop 0'], 'no reset: a paused guest finds its write cache as it was')
  assert.equal(await front.getStatus(), 0)
  // Features are forgotten; memory, call descriptor and where the ring stands are not.
  assert.equal(await front.getVringBase(0), 5)
  await front.setVringNum(0, 32)
  await front.setVringAddr(0, ringAddresses())
  await front.setVringKick(0, fds.make())
  await front.setVringEnable(0, true)
  assert.deepEqual(device.look(), [])
  await front.setFeatures(VERSION_1 | 1n << 30n)
  assert.deepEqual(device.look(), ['features 0x100000000', 'start 0 size 32 at 0,1000,2000 base 5'])
  assert.notEqual(device.queues.get(0)!.callFd, undefined)
  await front.setStatus(0xf)
  await front.resetDevice()
  assert.equal(await front.getStatus(), 0)
  await finish(pair)
})

test('a packed ring: any size, areas of its own sizes, four numbers as its base', async () => {
  const pair = connect()
  const { front, device } = pair
  device.features |= PACKED
  await front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  await front.setMemTable(ram.regions)
  await front.setVringNum(0, 100)
  // Driver and device area are the memory's last 8 bytes.
  const last = USER_BASE + 0xfff8
  await front.setVringAddr(0, { descriptor: USER_BASE, available: last, used: last + 4 })
  await front.setVringKick(0, fds.make())
  await front.setVringEnable(0, true)
  await front.setFeatures(VERSION_1 | PACKED | 1n << 30n)
  assert.deepEqual(device.look(), ['features 0x500000000', `start 0 size 100 at 0,fff8,fffc base ${0x80008000}`])
  device.taken = 3
  assert.equal(await front.getVringBase(0), 0x80008003)
  // Before the features are known, too, and above 2^31.
  await front.setVringBase(0, 0xffe38060)
  await front.setVringKick(0, fds.make())
  assert.equal(device.queues.get(0)!.base, 0xffe38060)
  device.taken = 0
  assert.equal(await front.getVringBase(0), 0xffe38060)
  await assert.rejects(front.setVringAddr(0, { descriptor: last, available: last, used: last + 8 }).then(() => front.setVringKick(0, fds.make())), refusal)
  assert.match(pair.problems.at(-1)!, /descriptor ring of a ring of 100 \(1600 bytes/)
  await finish(pair)
})

test('a packed ring\'s base is none for a split ring', async () => {
  const pair = connect()
  const { front, device, problems } = pair
  await front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  await assert.rejects(front.setVringBase(0, 0x10000), refusal)
  device.features |= PACKED
  await front.setVringBase(0, 0x80008000)
  assert.equal(await front.getVringBase(0), 0x80008000)
  await front.setMemTable(ram.regions)
  await front.setVringNum(0, 128)
  await front.setVringAddr(0, ringAddresses())
  await front.setVringKick(0, fds.make())
  await front.setVringEnable(0, true)
  await front.setFeatures(VERSION_1 | 1n << 30n)
  assert.match(problems.at(-1)!, /ring 0 cannot start: base 0x80008000 is one of a packed ring/)
  await assert.rejects(front.setVringBase(0, 0x10000), refusal)
  await front.setVringBase(0, 7)
  assert.deepEqual(device.look().at(-1), 'start 0 size 128 at 0,1000,2000 base 7')
  await finish(pair)
})

test('SET_OWNER and RESET_OWNER change nothing', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  device.look()
  await front.setOwner()
  await front.setOwner()
  await front.tell(FrontEndRequest.RESET_OWNER)
  assert.deepEqual(device.look(), [])
  await finish(pair)
})

test('a change of the configuration space is told over the back-end\'s own channel', async () => {
  const pair = connect()
  const { front, session } = pair
  assert.equal(session.notifyConfigChange(), false)
  await front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  let told = 0
  let wake = (): void => {}
  const change = new Promise<void>((resolve) => { wake = resolve })
  await front.setBackendReqFd(() => { told += 100 })
  await front.setBackendReqFd(() => { told++; wake() })
  assert.equal(session.notifyConfigChange(), true)
  await change
  assert.equal(told, 1)
  await finish(pair)
})

test('a message is served only when the one before has ended', async () => {
  const pair = connect()
  const { front, device } = pair
  await started(pair)
  device.look()
  let release = (): void => {}
  device.onStop = () => new Promise((resolve) => { release = resolve })
  const base = front.getVringBase(0)
  const config = front.getConfig(0, 4)
  await sleep(30)
  assert.deepEqual(device.look(), [])
  release()
  assert.equal(await base, 5)
  assert.equal((await config).length, 4)
  await finish(pair)
})

test('close ends the session, drained', async () => {
  const pair = connect()
  await started(pair)
  pair.device.look()
  pair.device.onStop = () => sleep(20)
  assert.equal(await pair.session.close(), undefined)
  assert.deepEqual(pair.device.look(), ['stop 0', 'reset'])
  await assert.rejects(pair.front.getFeatures(), { code: 'ERR_VHOST_USER_CLOSED' })
  pair.front.close()
})

test('a queue that cannot be stopped ends the session; its memory stays mapped', async () => {
  const before = mappings()
  const pair = connect()
  await started(pair)
  pair.device.onStop = async () => { throw new Error('3 requests do not end') }
  await assert.rejects(pair.front.getVringBase(0), { code: 'ERR_VHOST_USER_CLOSED' })
  const failure = await pair.session.closed
  assert.match(failure!.message, /the device failed to stop queue 0: 3 requests do not end/)
  assert.equal((failure as { code?: string }).code, 'ERR_VHOST_USER_DEVICE')
  assert.equal(mappings(), before + 1)
})

test('messages can be watched', async () => {
  const seen: string[] = []
  const [ours, theirs] = unixSocketPair()
  const session = new BackEndSession(theirs, new RecordingDevice(), {
    onMessage: (direction, name, size, count) => seen.push(`${direction} ${name} ${size} ${count}`)
  })
  const front = new FrontEnd(ours)
  await front.getFeatures()
  await front.setVringCall(0, fds.make())
  front.close()
  await session.closed
  assert.deepEqual(seen, ['received GET_FEATURES 0 0', 'sent GET_FEATURES 8 0', 'received SET_VRING_CALL 8 1'])
})

test('a whole session leaves no descriptor and no mapping behind', async () => {
  const [descriptors, mapped] = [openDescriptors(), mappings()]
  for (let round = 0; round < 3; round++) {
    const pair = connect()
    await started(pair)
    await started(pair, 1)
    await pair.front.setBackendReqFd(() => {})
    await finish(pair)
    fds.close()
  }
  assert.ok(openDescriptors().length <= descriptors.length, openDescriptors().join())
  assert.equal(mappings(), mapped)
})

test.run()
