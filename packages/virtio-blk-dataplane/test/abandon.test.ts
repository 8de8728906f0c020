// What becomes of a data plane whose disk does not give requests back.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import type { EngineName } from '@node-vmm/ioq'
import { test } from 'uvu'
import { AbandonedError, DataPlane, type DataPlaneOptions, DrainTimeoutError, type EngineModule, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN } from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { BlockingPipe } from './support/blocking-engine.ts'
import { runChild } from './support/child.ts'
import { ENGINES, scratchFor } from './support/engines.ts'
import { faulty } from './support/faulty-engine.ts'
import { Guest, NO_STATUS } from './support/guest.ts'
import { sectorPattern } from './support/image.ts'

const SECTORS = 64
const scratch = scratchFor('io_uring')
let images = 0

/** A data plane on an image of its own, which stays locked once it was given up. */
function make (options: Partial<DataPlaneOptions>): DataPlane {
  return DataPlane.create({ path: scratch.image(`${images++}.img`, SECTORS), ...options })
}

const guests: Guest[] = []
test.after(() => { for (const guest of guests) guest.close() })

/** A guest that is closed at the end: a queue that was given up keeps its descriptors. */
function player (): Guest {
  const guest = new Guest()
  guests.push(guest)
  return guest
}

/** Reads never complete, anything else does. */
const stuck = (engine: 'auto' | EngineName = 'auto'): EngineModule => faulty({ rules: [{ operation: 'read', fault: { kind: 'never' } }] }, engine)

/** A read that may never be answered. */
function startRead (guest: Guest, sector = 0): { status: number, data: number } {
  const [status, data] = [guest.allocate(1), guest.allocate(512)]
  guest.memory.setUint8(status, NO_STATUS)
  guest.send([{ address: guest.header(VIRTIO_BLK_T_IN, sector), length: 16 }], [{ address: data, length: 512 }, { address: status, length: 1 }]).catch(() => {})
  return { status, data }
}

/** Where a guest's memory is in this process. */
const hostAddress = ({ memory }: Guest): number => memory.translate(memory.regions[0]!.guestAddress, 1, true)

function isMapped (address: number): boolean {
  return readFileSync('/proc/self/maps', 'latin1').split('\n').some((line) => {
    const [from, to] = line.split(' ')[0]!.split('-').map((hex) => Number.parseInt(hex, 16)) as [number, number]
    return from <= address && address < to
  })
}

for (const engine of ENGINES) {
  test(`${engine}: a stop is over in time though requests are not, and says which; the next guest is served`, async () => {
    const plane = make({ path: scratchFor(engine).image(`${engine}.img`, SECTORS), queues: 2, engine: stuck(engine) })
    const [well, lost] = [new Guest(), new Guest()]
    const addresses = [well, lost].map(hostAddress)
    await plane.start([well.setup, lost.setup])
    for (let sector = 0; sector < 3; sector++) startRead(lost, sector)
    assert.equal((await well.flush()).status, VIRTIO_BLK_S_OK)
    await eventually('it is in flight', () => plane.inFlight[1] === 3)

    const error = await plane.stop({ timeout: 50 }).then(() => undefined, (thrown: unknown) => thrown)
    assert.ok(error instanceof AbandonedError && error.name === 'AbandonedError' && error.code === 'ERR_ABANDONED')
    assert.match(error.message, /^what was in flight did not end in 50 ms: given up with 3 on queue 1 in flight\. It may still be done/)
    assert.deepEqual([error.queues, error.inFlight], [[1], [0, 3]])
    assert.equal(plane.state, 'stopped')
    assert.deepEqual(plane.inFlight, [0, 0])
    assert.equal(plane.engineOf(1), undefined)
    for (const guest of [well, lost]) guest.close()
    assert.deepEqual(addresses.map(isMapped), [false, true], 'the kernel may still write there')

    const next = player()
    await plane.start([next.setup])
    assert.equal((await next.write(1, sectorPattern(1, 1, 7))).status, VIRTIO_BLK_S_OK)
    assert.equal((await next.flush()).status, VIRTIO_BLK_S_OK)
    await plane.drain({ timeout: 60_000 })
    assert.deepEqual(await plane.stop(), new Map([[0, { availableIndex: 2, usedIndex: 2 }]]))
    await plane.close()
    assert.equal(plane.state, 'closed')
  })
}

test('a close gives up in time, too; the image stays locked, for it may still be written', async () => {
  const path = scratch.image('kept.img', SECTORS)
  const plane = DataPlane.create({ path, engine: stuck(), stopTimeout: 50 })
  const guest = player()
  await plane.start([guest.setup])
  startRead(guest)
  await eventually('it is in flight', () => plane.inFlight[0] === 1)
  await assert.rejects(plane.close(), { code: 'ERR_ABANDONED', inFlight: [1] })
  assert.equal(plane.state, 'closed')
  await plane.close()
  assert.throws(() => DataPlane.create({ path }), { code: 'ERR_IMAGE_LOCKED' })
})

test('an aborted signal ends the wait', async () => {
  const plane = make({ engine: stuck() })
  const guest = player()
  await plane.start([guest.setup])
  startRead(guest)
  await eventually('it is in flight', () => plane.inFlight[0] === 1)
  const reason = new Error('enough')
  const abort = new AbortController()
  const stopping = plane.stop({ signal: abort.signal })
  abort.abort(reason)
  await assert.rejects(stopping, { code: 'ERR_ABANDONED', cause: reason })
  await plane.start([player().setup])
  await plane.stop({ signal: AbortSignal.timeout(1e6), timeout: 1e12 })
  await plane.close({ timeout: Infinity })
})

test('one queue that does not stop stops them all: the others well, and asked for, each says what became of it', async () => {
  const plane = make({ queues: 3, threads: 2, engine: faulty({ rules: [{ operation: 'read', at: 0, fault: { kind: 'never' } }] }) })
  const [first, second, third] = [player(), player(), player()]
  await plane.start([first.setup, second.setup, third.setup])
  // Queues 0 and 2 share a thread; the engine of each counts for itself.
  startRead(first)
  await eventually('it is in flight', () => plane.inFlight[0] === 1)
  assert.equal((await third.flush()).status, VIRTIO_BLK_S_OK)
  await assert.rejects(plane.stopQueue(0, { timeout: 50 }), { code: 'ERR_ABANDONED', queues: [0] })
  await assert.rejects(plane.stopQueue(0), { code: 'ERR_ABANDONED', queues: [0] })
  assert.deepEqual(await plane.stopQueue(1), { availableIndex: 0, usedIndex: 0 })
  assert.deepEqual(await plane.stopQueue(2), { availableIndex: 1, usedIndex: 1 })
  await assert.rejects(plane.stopQueue(2), { code: 'ERR_STATE' })
  assert.equal(plane.state, 'stopped')
  await plane.startQueue(0, player().setup)
  assert.deepEqual(await plane.stopQueue(0), { availableIndex: 0, usedIndex: 0 })
  await plane.close()
})

test('a pause that waits without a limit does not hold up a close with one', async () => {
  const plane = make({ engine: stuck() })
  const guest = player()
  await plane.start([guest.setup])
  startRead(guest)
  await eventually('it is in flight', () => plane.inFlight[0] === 1)
  const pausing = plane.pause()
  const draining = plane.drain()
  const closing = plane.close({ timeout: 50 })
  await assert.rejects(pausing, { code: 'ERR_ABANDONED' })
  await assert.rejects(draining, { code: 'ERR_ABANDONED' })
  await assert.rejects(closing, { code: 'ERR_ABANDONED' })
})

test('a thread that hangs in a system call: nothing of what it does afterwards reaches the guest', async () => {
  const pipe = new BlockingPipe(scratch.directory)
  const plane = make({ engine: pipe.engine })
  const guest = player()
  await plane.start([guest.setup])
  assert.equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
  const { status } = startRead(guest)
  await eventually('the thread hangs', () => pipe.hasReader)
  const draining = plane.drain({ timeout: 20 })
  await assert.rejects(draining, (error: unknown) => error instanceof DrainTimeoutError)
  await assert.rejects(plane.stop({ timeout: 50 }), { code: 'ERR_ABANDONED', queues: [0], message: /with a batch being taken in on queue 0 in flight/ })

  // The next guest has the same memory and ring, as one has whose front-end connects again.
  guest.resetRing()
  guest.raw.usedIndex(0)
  guest.raw.availableIndex(0)
  const ring = (): number[] => [guest.raw.getUsedIndex(), guest.raw.getUsedFlags(), guest.memory.getUint8(status)]
  const before = ring()
  assert.equal(before[2], NO_STATUS)
  pipe.release()
  // It goes on, finds that it was given up, and sleeps.
  await eventually('all threads sleep', threadsAsleep)
  assert.deepEqual(ring(), before)
  await plane.start([guest.setup])
  assert.equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
  await plane.close()
})

test('a queue whose thread hangs is not waited for when it starts, either', async () => {
  const pipe = new BlockingPipe(scratch.directory)
  const plane = make({ queues: 2, engine: pipe.engine, stopTimeout: 50 })
  const [hanging, late] = [player(), player()]
  await plane.start([hanging.setup])
  startRead(hanging)
  await eventually('the thread hangs', () => pipe.hasReader)
  await assert.rejects(plane.startQueue(1, late.setup), { code: 'ERR_ABANDONED', queues: [0] })
  await assert.rejects(plane.stopQueue(0), { code: 'ERR_ABANDONED' })
  await assert.rejects(plane.stopQueue(1), { code: 'ERR_STATE' })
  await plane.close()
})

test('a process whose data-plane thread hangs in a system call can end, with the status it wants', async () => {
  const { status, stdout, stderr } = await runChild(new URL('./support/hanging-child.ts', import.meta.url), [scratch.image('hanging.img', 64)], { limit: 60_000 })
  assert.equal(stdout, 'given up\na handler\n', stderr)
  assert.equal(status, 3)
})

/** All threads of this process but this one sleep. */
function threadsAsleep (): boolean {
  return readdirSync('/proc/self/task').filter((id) => Number(id) !== process.pid)
    .every((id) => /\) S /.test(readFileSync(`/proc/self/task/${id}/stat`, 'latin1')))
}

test.run()
