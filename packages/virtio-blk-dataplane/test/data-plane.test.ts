import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { EventNotifier } from '@node-vmm/event-poll'
import { close, NativeMemory, O_NONBLOCK, O_RDONLY, O_WRONLY, open } from '@node-vmm/libc'
import { inflightRecordBytes, packedInflightRecordBytes, VringError } from '@node-vmm/vring'
import { test } from 'uvu'
import {
  DataPlane, DataPlaneError, type DataPlaneErrorCode, type DataPlaneOptions, type QueueSetup, type TraceEvent, VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK
} from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { quiet } from '../../../test/support/quiet.ts'
import { Guest, type GuestOptions } from './support/guest.ts'
import { Scratch, sectorPattern } from './support/image.ts'
import { throwing } from './support/throwing-engine.ts'

const scratch = new Scratch()
process.on('exit', () => scratch.remove())
const path = scratch.image('disk.img', 64)

const ends: (() => Promise<void> | void)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A data plane that is closed after the test. */
function make (options: Partial<DataPlaneOptions> = {}): DataPlane {
  const plane = DataPlane.create({ path, ...options })
  ends.push(() => plane.close())
  return plane
}

/** A guest that is closed after the test, and after the data plane. */
function guest (options: GuestOptions = {}): Guest {
  const made = new Guest(options)
  ends.unshift(() => made.close())
  return made
}

const descriptors = (): number => readdirSync('/proc/self/fd').length
const fails = (code: DataPlaneErrorCode, text?: RegExp) => (error: unknown): boolean =>
  error instanceof DataPlaneError && error.code === code && error.name === 'DataPlaneError' && (text === undefined || text.test(error.message))

test('what a data plane cannot serve is refused, with what to do about it', () => {
  const before = descriptors()
  const refused: readonly (readonly [Partial<DataPlaneOptions>, DataPlaneErrorCode, RegExp])[] = [
    [{ scsi: true }, 'ERR_SCSI', /switch SCSI passthrough off/],
    [{ format: 'qcow2' }, 'ERR_FORMAT', /qemu-img convert/],
    [{ queues: 0 }, 'ERR_OPTION', /1 to 256.*not 0/],
    [{ queues: 257 }, 'ERR_OPTION', /1 to 256.*not 257/],
    [{ queues: 1.5 }, 'ERR_OPTION', /1\.5/],
    [{ threads: 2 }, 'ERR_OPTION', /threads.*1 to 1.*not 2/],
    [{ queues: 2, threads: 2, queueThreads: [0, 2] }, 'ERR_OPTION', /queueThreads.*not 2/],
    [{ queues: 2, threads: 2, queueThreads: [0] }, 'ERR_OPTION', /each of the 2 queues: not of 1/],
    [{ cpus: [[0], [0]] }, 'ERR_OPTION', /each of the 1 threads: not of 2/],
    [{ serial: 'twenty-one characters' }, 'ERR_OPTION', /up to 20 bytes.*has 21/],
    [{ serial: '€'.repeat(7) }, 'ERR_OPTION', /has 21/]
  ]
  for (const [options, code, text] of refused) assert.throws(() => DataPlane.create({ path, ...options }), fails(code, text))
  assert.throws(() => DataPlane.create({ path: '/no/such/file' }), { code: 'ENOENT', name: 'LinuxError' })
  assert.equal(descriptors(), before)
})

test('a data plane that is switched off does nothing, and every call succeeds', async () => {
  const plane = DataPlane.create({ path: '/no/such/file', format: 'qcow2', scsi: true, dataPlane: false })
  assert.deepEqual(plane.engine, { name: 'none', rejected: [] })
  const player = guest()
  await plane.start([player.setup])
  await plane.start([player.setup])
  await plane.startQueue(0, player.setup)
  assert.equal(player.kick.clear(), false)
  await plane.setCall(0, undefined)
  await plane.pause()
  await plane.drain({ timeout: 0 })
  plane.drainSync({ timeout: 0 })
  plane.resume()
  await plane.setTracer(() => {})
  await plane.stopQueue(0)
  await plane.stop()
  await plane.close()
  await plane.close()
  assert.equal(plane.state, 'closed')
})

test('bug: a resume that came before the pause had drained was lost', async () => {
  const plane = make()
  const player = guest()
  await plane.start([player.setup])
  const paused = plane.pause()
  plane.resume()
  await paused
  assert.equal(plane.state, 'running')
  assert.equal((await player.flush()).status, VIRTIO_BLK_S_OK)
  await plane.pause()
  assert.equal(plane.state, 'paused')
})

test('the life-cycle: each state, and calls without effect', async () => {
  const plane = make()
  const player = guest()
  assert.equal(plane.state, 'created')
  assert.deepEqual(await plane.stop(), new Map())
  assert.equal(plane.state, 'created')
  plane.resume()
  await plane.start([player.setup])
  assert.equal(plane.state, 'running')
  plane.resume()
  // Started again while it runs, even with what could not be started: no effect.
  await plane.start([{ ...player.setup, size: 3 }])
  assert.deepEqual((await player.read(5, 512)).data, sectorPattern(5, 1))
  await plane.pause()
  await plane.pause()
  assert.equal(plane.state, 'paused')
  plane.resume()
  assert.equal(plane.state, 'running')
  assert.deepEqual(await plane.stop(), new Map([[0, { availableIndex: 1, usedIndex: 1 }]]))
  assert.equal(plane.state, 'stopped')
  assert.deepEqual(await plane.stop(), new Map())
  await plane.close()
  assert.equal(plane.state, 'closed')
  await plane.close()
})

test('threads that are to be prepared begin before the first queue, and serve it', async () => {
  const threads = (plane: DataPlane): number => plane.drainHandle().wakeFds.length
  const plane = make({ queues: 3, threads: 2 })
  assert.equal(threads(plane), 0)
  await plane.prepare()
  await plane.prepare()
  assert.equal(threads(plane), 2)
  assert.equal(plane.state, 'created')
  const player = guest()
  await plane.start([player.setup])
  assert.deepEqual((await player.read(5, 512)).data, sectorPattern(5, 1))
  assert.equal(threads(plane), 2)
  await plane.stop()
  assert.equal(threads(plane), 0)

  const off = DataPlane.create({ dataPlane: false })
  await off.prepare()
  assert.equal(threads(off), 0)
  await plane.close()
  await assert.rejects(plane.prepare(), fails('ERR_STATE'))
})

test('calls that do not fit the state fail with an error that says so', async () => {
  const plane = make({ queues: 2 })
  const player = guest()
  await assert.rejects(plane.pause(), fails('ERR_STATE', /nothing is served.*created/))
  await assert.rejects(plane.stopQueue(0), fails('ERR_STATE', /queue 0 is not served/))
  await assert.rejects(plane.setCall(0, undefined), fails('ERR_STATE', /queue 0 is not served/))
  for (const index of [2, -1, 0.5]) {
    await assert.rejects(plane.startQueue(index, player.setup), fails('ERR_QUEUE', /queues 0 to 1/))
    await assert.rejects(plane.stopQueue(index), fails('ERR_QUEUE', /queues 0 to 1/))
    assert.throws(() => plane.statistics(index), fails('ERR_QUEUE', /queues 0 to 1/))
  }
  await plane.start([player.setup])
  await assert.rejects(plane.startQueue(0, player.setup), fails('ERR_STATE', /served already/))
  await assert.rejects(plane.stopQueue(1), fails('ERR_STATE', /queue 1 is not served/))
  assert.equal((await player.flush()).status, VIRTIO_BLK_S_OK)
  await plane.stop()
  await assert.rejects(plane.pause(), fails('ERR_STATE', /stopped/))
  await plane.close()
  for (const call of [
    () => plane.start([player.setup]), () => plane.startQueue(0, player.setup), () => plane.stop(), () => plane.stopQueue(0),
    () => plane.setCall(0, undefined), () => plane.setTracer(undefined), () => plane.pause(), async () => plane.resume()
  ]) await assert.rejects(call(), fails('ERR_STATE', /closed/))
})

test('a queue that cannot be started says why by class and code, and leaves nothing behind', async () => {
  const plane = make({ queues: 2 })
  const player = guest()
  const other = guest()
  await plane.start([other.setup])
  const before = descriptors()
  const { setup } = player
  const wrong: readonly (readonly [Partial<QueueSetup>, object])[] = [
    [{ size: 100 }, { name: 'VringError', code: 'ERR_RING_SIZE' }],
    [{ usedAddress: setup.usedAddress + 2 }, { name: 'VringError', code: 'ERR_RING_ALIGNMENT' }],
    [{ descriptorAddress: 0x7fff0000 }, { name: 'VringError', code: 'ERR_RING_MEMORY' }],
    [{ usedAddress: setup.availableAddress & ~3 }, { name: 'VringError', code: 'ERR_RING_OVERLAP' }],
    [{ availableIndex: 65536 }, { name: 'VringError', code: 'ERR_RING_INDEX' }],
    [{ kickFd: 9999 }, { name: 'LinuxError', code: 'EBADF' }],
    [{ callFd: 9999 }, { name: 'LinuxError', code: 'EBADF' }],
    [{ errorFd: 9999 }, { name: 'LinuxError', code: 'EBADF' }],
    [{ kickFd: other.kick.fd }, { name: 'LinuxError', code: 'EEXIST' }]
  ]
  for (const [change, error] of wrong) {
    const title = JSON.stringify(change)
    await assert.rejects(plane.startQueue(1, { ...setup, ...change }), error, title)
    assert.deepEqual([plane.state, plane.engineOf(1), descriptors()], ['running', undefined, before], title)
  }
  await plane.startQueue(1, setup)
  assert.deepEqual((await player.read(5, 512)).data, sectorPattern(5, 1))
  assert.deepEqual((await other.read(6, 512)).data, sectorPattern(6, 1))
})

test('a start that fails at its second queue serves neither', async () => {
  const plane = make({ queues: 2 })
  const [player, other] = [guest(), guest()]
  const before = descriptors()
  await assert.rejects(plane.start([player.setup, { ...other.setup, size: 3 }]),
    (error) => error instanceof VringError && error.code === 'ERR_RING_SIZE' && /power of two.*not 3/.test(error.message))
  assert.deepEqual([plane.state, plane.engineOf(0)], ['stopped', undefined])
  await eventually('all descriptors are closed', () => descriptors() === before)
  await plane.start([player.setup])
  assert.deepEqual((await player.read(5, 512)).data, sectorPattern(5, 1))
})

test('an engine that cannot be opened fails the start with its error', async () => {
  const plane = make({ engine: throwing('open') })
  await assert.rejects(plane.start([guest().setup]), { message: 'no engine today', code: 'ENOTODAY' })
  assert.equal(plane.state, 'created')
})

test('bug: of a queue whose completions cannot be watched the kicks still were, and ended the thread', async () => {
  const plane = make({ queues: 2, engine: throwing('second watch') })
  const [player, other] = [guest(), guest()]
  await plane.start([player.setup])
  await assert.rejects(plane.startQueue(1, other.setup), { code: 'EPERM' })
  other.kick.notify()
  assert.deepEqual((await player.read(5, 512)).data, sectorPattern(5, 1))
  await plane.startQueue(1, other.setup)
  assert.deepEqual((await other.read(6, 512)).data, sectorPattern(6, 1))
})

test('start serves what is in the ring already, though nobody kicks', async () => {
  const player = guest()
  const reads = [1, 2, 3].map((sector) => player.read(sector, 512))
  player.kick.clear()
  await make().start([player.setup])
  assert.deepEqual((await Promise.all(reads)).map(({ data }) => data), [1, 2, 3].map((sector) => sectorPattern(sector, 1)))
})

test('after a stop, the kicks are there that nobody has answered, and no others', async () => {
  const plane = make()
  const player = guest()
  await plane.start([player.setup])
  for (let requests = 0; requests < 5; requests++) await player.flush()
  await plane.stopQueue(0)
  assert.equal(player.kick.clear(), false, 'all were answered')

  await plane.startQueue(0, { ...player.setup, availableIndex: 5, usedIndex: 5 })
  await plane.pause()
  void player.flush()
  assert.equal((await plane.stopQueue(0))?.availableIndex, 5)
  assert.equal(player.kick.clear(), true, 'one was not')
})

test('stop returns the index, and a start goes on from it, whatever the rings hold', async () => {
  const plane = make()
  const player = guest()
  await plane.start([player.setup])
  for (let round = 0; round < 70; round++) await player.flush()
  assert.deepEqual(await plane.stopQueue(0), { availableIndex: 70, usedIndex: 70 })
  const waiting = player.read(9, 512)
  player.kick.clear()
  await plane.startQueue(0, { ...player.setup, availableIndex: 70, usedIndex: 70 })
  assert.deepEqual((await waiting).data, sectorPattern(9, 1))
  assert.deepEqual(await plane.stop(), new Map([[0, { availableIndex: 71, usedIndex: 71 }]]))
})

test('the indices wrap at 65536', async () => {
  const plane = make()
  const player = guest()
  player.resetRing(65530)
  await plane.start([{ ...player.setup, availableIndex: 65530, usedIndex: 65530 }])
  for (let sector = 0; sector < 20; sector++) assert.deepEqual((await player.read(sector, 512)).data, sectorPattern(sector, 1))
  assert.deepEqual((await plane.stop()).get(0), { availableIndex: 14, usedIndex: 14 })
})

for (const [queues, threads] of [[2, 1], [4, 2]] as const) {
  test(`${queues} queues on ${threads} threads are served side by side, and started and stopped one by one`, async () => {
    const plane = make({ queues, threads })
    const players = Array.from({ length: queues }, guest)
    await plane.start(players.map(({ setup }) => setup))
    const answers = await Promise.all(players.flatMap((player, queue) => Array.from({ length: 8 }, (_, index) => player.read(queue * 8 + index, 512))))
    answers.forEach(({ data }, sector) => assert.deepEqual(data, sectorPattern(sector, 1)))
    const last = queues - 1
    assert.deepEqual(await plane.stopQueue(last), { availableIndex: 8, usedIndex: 8 })
    assert.equal(plane.engineOf(last), undefined)
    assert.notEqual(plane.engineOf(0), undefined)
    const waiting = players[last]!.read(40, 512)
    assert.deepEqual((await players[0]!.read(41, 512)).data, sectorPattern(41, 1))
    assert.equal(players[last]!.ring.inFlight, 1)
    await plane.startQueue(last, { ...players[last]!.setup, availableIndex: 8 })
    assert.deepEqual((await waiting).data, sectorPattern(40, 1))
    assert.equal((await plane.stop()).size, queues)
  })
}

test('the call descriptor of a running queue is replaced', async () => {
  const plane = make()
  const player = guest()
  const other = EventNotifier.create()
  await plane.start([{ ...player.setup, callFd: other.fd }])
  const first = player.read(1, 512)
  await eventually('the guest is interrupted', () => other.clear())
  player.poll()
  assert.deepEqual((await first).data, sectorPattern(1, 1))
  await plane.setCall(0, player.call.fd)
  assert.deepEqual((await player.read(2, 512)).data, sectorPattern(2, 1))
  assert.equal(other.clear(), false)
  await plane.setCall(0, undefined)
  const third = player.read(3, 512)
  await eventually('the third is served', () => player.raw.getUsedIndex() === 3)
  await plane.drain()
  assert.equal(player.call.clear(), false)
  player.poll()
  assert.deepEqual((await third).data, sectorPattern(3, 1))
  await assert.rejects(plane.setCall(0, 9999), { code: 'EBADF', name: 'LinuxError' })
  other.close()
})

for (const packed of [false, true]) {
  test(`bug: nobody interrupted a guest for what a killed device had shown it, ${packed ? 'packed' : 'split'} ring`, async () => {
    const plane = make({ packed })
    const player = guest({ packed })
    const record = new NativeMemory(packed ? packedInflightRecordBytes(player.setup.size) : inflightRecordBytes(player.setup.size))
    const call = EventNotifier.create()
    await plane.start([{ ...player.setup, callFd: call.fd }])
    assert.equal(call.clear(), false)
    await plane.stop()
    await plane.start([{ ...player.setup, callFd: call.fd, inflight: { address: record.address } }])
    assert.equal(call.clear(), true)
    await plane.close()
    call.close()
    record.close()
  })
}

test('statistics count what a queue did, across stops', async () => {
  const plane = make({ queues: 2 })
  const player = guest()
  await plane.startQueue(1, player.setup)
  await player.read(0, 1024)
  await player.write(10, sectorPattern(10, 3))
  await player.flush()
  await player.read(64, 512)
  await player.request(77, 0)
  const counted = plane.statistics(1)
  assert.deepEqual({ ...counted, kicks: 0, interrupts: 0 }, { requests: 5, errors: 2, bytesRead: 1024, bytesWritten: 1536, kicks: 0, interrupts: 0 })
  assert.ok(counted.kicks >= 1 && counted.kicks <= 5, `${counted.kicks} kicks`)
  assert.ok(counted.interrupts >= player.interrupts && counted.interrupts <= 5, `${counted.interrupts} interrupts`)
  await plane.stopQueue(1)
  await plane.startQueue(1, { ...player.setup, availableIndex: 5 })
  await player.flush()
  assert.equal(plane.statistics(1).requests, 6)
  assert.equal(plane.statistics(0).requests, 0)
})

test('the trace events of a life, with the names of old', async () => {
  const events: TraceEvent[] = []
  const plane = make({ tracer: (event) => events.push(event) })
  const player = guest()
  await plane.start([player.setup])
  await player.read(3, 1024)
  await player.read(64, 512)
  const { availableIndex } = (await plane.stop()).get(0)!
  const { descriptorAddress, availableAddress, usedAddress } = player.layout
  assert.equal(availableIndex, 2)
  assert.deepEqual(events.map((event) => ({ ...event, head: undefined })), [
    { name: 'virtio_blk_data_plane_start', queues: 1 },
    { name: 'vring_setup', queue: 0, descriptorAddress, availableAddress, usedAddress, index: 0 },
    { name: 'virtio_blk_data_plane_process_request', queue: 0, readable: 1, writable: 2 },
    { name: 'virtio_blk_data_plane_complete_request', queue: 0, result: 1024 },
    { name: 'virtio_blk_data_plane_process_request', queue: 0, readable: 1, writable: 2 },
    { name: 'virtio_blk_data_plane_complete_request', queue: 0, result: 0 },
    { name: 'virtio_blk_data_plane_stop' }
  ].map((event) => ({ ...event, head: undefined })))
  const heads = events.flatMap((event) => 'head' in event ? [event.head] : [])
  assert.equal(heads[0], heads[1])
  assert.equal(heads[2], heads[3])
})

test('tracing is switched on and off while requests run', async () => {
  const events: TraceEvent[] = []
  const plane = make()
  const player = guest()
  await plane.start([player.setup])
  await player.flush()
  await plane.setTracer((event) => events.push(event))
  await player.flush()
  await plane.setTracer(undefined)
  await player.flush()
  await plane.stop()
  assert.deepEqual(events.map(({ name }) => name), ['virtio_blk_data_plane_process_request', 'virtio_blk_data_plane_complete_request'])
})

test('a guest whose kicks come by a pipe is served, also what it sent before the start', async () => {
  const fifo = join(scratch.directory, 'kick')
  spawnSync('mkfifo', [fifo])
  const read = open(fifo, O_RDONLY | O_NONBLOCK)
  const write = open(fifo, O_WRONLY)
  const player = guest()
  const plane = make()
  const early = player.read(1, 512)
  await plane.start([{ ...player.setup, kickFd: read }])
  assert.deepEqual((await early).data, sectorPattern(1, 1))
  const late = player.read(2, 512)
  EventNotifier.fromFd(write).notify()
  assert.deepEqual((await late).data, sectorPattern(2, 1))
  // The other side is gone: the thread does not spin, and serves on what it is told of.
  close(write)
  await quiet()
  await plane.stop()
  close(read)
})

test('the disk is cut and extended while it runs', async () => {
  const image = scratch.image('resized.img', 64)
  const plane = make({ path: image, queues: 2, threads: 2 })
  const [player, other] = [guest(), guest()]
  await plane.start([player.setup, other.setup])
  const status = async (from: Guest, sector: number): Promise<number> => (await from.read(sector, 512)).status
  const config = (): bigint => new DataView(plane.config.buffer).getBigUint64(0, true)
  assert.equal(await status(player, 64), VIRTIO_BLK_S_IOERR)

  await plane.resize(128 * 512)
  assert.deepEqual([plane.capacity, config(), statSync(image).size], [65536, 128n, 65536])
  for (const each of [player, other]) assert.deepEqual((await each.read(127, 512)).data, new Uint8Array(512))

  const reads = Array.from({ length: 16 }, (_, index) => player.read(index * 8, 512))
  await plane.resize(32 * 512)
  assert.deepEqual([plane.capacity, config(), statSync(image).size], [16384, 32n, 16384])
  // Those that were in time have their data, the others fail: nothing in between.
  for (const [index, { status: answer, data }] of (await Promise.all(reads)).entries()) {
    if (answer === VIRTIO_BLK_S_OK) assert.deepEqual(data, index < 8 ? sectorPattern(index * 8, 1) : new Uint8Array(512))
    else assert.ok(index * 8 >= 32)
  }
  for (const each of [player, other]) assert.deepEqual([await status(each, 31), await status(each, 32)], [VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR])

  // What somebody else did to the file is taken over.
  truncateSync(image, 40 * 512)
  await plane.resize()
  assert.equal(plane.capacity, 40 * 512)
  assert.deepEqual([await status(player, 39), await status(player, 40)], [VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR])

  for (const bytes of [0, -512, 100, 513, NaN, 2 ** 53]) await assert.rejects(plane.resize(bytes), fails('ERR_OPTION', /whole sectors/))
  assert.deepEqual([plane.capacity, statSync(image).size], [20480, 20480])
  assert.equal(await status(player, 39), VIRTIO_BLK_S_OK)
})

test('write-through is switched while it runs', async () => {
  const plane = make()
  const player = guest()
  await plane.start([player.setup])
  const seen: [boolean, number][] = []
  for (const writeThrough of [true, false]) {
    await plane.setWriteThrough(writeThrough)
    seen.push([plane.writeThrough, plane.config[32]!])
    assert.equal((await player.write(20, sectorPattern(20, 1))).status, VIRTIO_BLK_S_OK)
  }
  assert.deepEqual(seen, [[true, 0], [false, 1]])
  const through = make({ path: scratch.image('through.img', 8), writeThrough: true })
  assert.deepEqual([through.writeThrough, through.config[32]], [true, 0])
})

test('locked only while it runs, an image goes from one data plane to the other', async () => {
  const image = scratch.image('handed-over.img', 8)
  const [first, second] = [make({ path: image, lock: 'running' }), make({ path: image, lock: 'running' })]
  const [player, other] = [guest(), guest()]
  await first.start([player.setup])
  await assert.rejects(second.start([other.setup]), fails('ERR_IMAGE_LOCKED', /in use/))
  assert.throws(() => DataPlane.create({ path: image }), fails('ERR_IMAGE_LOCKED'))
  assert.equal((await player.write(3, sectorPattern(3, 1, 1))).status, VIRTIO_BLK_S_OK)
  await first.stop()
  await second.start([other.setup])
  assert.deepEqual((await other.read(3, 512)).data, sectorPattern(3, 1, 1))
  await assert.rejects(first.start([player.setup]), fails('ERR_IMAGE_LOCKED'))
  await second.stop()
  // A start that fails later gives the lock back.
  await assert.rejects(first.start([{ ...player.setup, size: 3 }]), { code: 'ERR_RING_SIZE' })
  await DataPlane.create({ path: image }).close()
})

test('disposal closes', async () => {
  const plane = DataPlane.create({ path })
  const player = guest()
  await plane.start([player.setup])
  await plane[Symbol.asyncDispose]()
  assert.equal(plane.state, 'closed')
  await DataPlane.create({ path }).close()
})

test('a life leaves no descriptor behind', async () => {
  const player = guest()
  const live = async (): Promise<void> => {
    const plane = DataPlane.create({ path, queues: 2 })
    await plane.start([player.setup])
    await player.flush()
    await plane.close()
    player.resetRing()
  }
  await live()
  const before = descriptors()
  await live()
  await live()
  await eventually('all descriptors are closed', () => descriptors() === before)
})

test.run()
