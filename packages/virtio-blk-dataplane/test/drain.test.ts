import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { EngineName } from '@node-vmm/ioq'
import type { Fault } from '@node-vmm/ioq/testing'
import { test } from 'uvu'
import { DataPlane, type DataPlaneOptions, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK } from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { runChild } from './support/child.ts'
import { ENGINES, scratchFor } from './support/engines.ts'
import { faulty, Hold } from './support/faulty-engine.ts'
import { Guest, type GuestOptions } from './support/guest.ts'
import { sectorPattern } from './support/image.ts'
import { Load } from './support/load.ts'

const SECTORS = 1024
/** For what always ends, in milliseconds: however slow the machine, a wait that is over then waits for ever. */
const timeout = 60_000
const scratch = scratchFor('io_uring')
const path = imageFor('io_uring')
test.before.each(() => { for (const engine of ENGINES) scratchFor(engine).image('disk.img', SECTORS) })

/** The image, where an engine can serve it. */
function imageFor (engine: EngineName): string {
  return join(scratchFor(engine).directory, 'disk.img')
}

const ends: (() => Promise<void> | void)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

function make (options: Partial<DataPlaneOptions> = {}): DataPlane {
  const plane = DataPlane.create({ path, ...options })
  ends.push(() => plane.close())
  return plane
}

function player (options: GuestOptions = {}): Guest {
  const made = new Guest(options)
  ends.unshift(() => made.close())
  return made
}

/** A running data plane with one guest. */
async function serve (options: Partial<DataPlaneOptions> = {}, guestOptions: GuestOptions = {}): Promise<{ plane: DataPlane, guest: Guest }> {
  const plane = make(options)
  const guest = player(guestOptions)
  await plane.start([guest.setup])
  return { plane, guest }
}

/** Waits until a data plane has so many requests in flight on its first queue: those that a `Hold` keeps there. */
async function inFlight (plane: DataPlane, requests: number): Promise<void> {
  await eventually(`${requests} requests are in flight`, () => plane.inFlight[0] === requests)
}

/** Whether a promise is not settled, even after a while. */
async function isPending (promise: Promise<unknown>): Promise<boolean> {
  return await Promise.race([promise, sleep(20).then(() => 'pending')]) === 'pending'
}

const sleep = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))

for (const [engine, eventIdx] of [['mapped', true], ['io_uring', true], ['linux-aio', false], ['sync', true]] as const) {
  const path = imageFor(engine)

  test(`${engine}: drains end under a guest that never stops sending`, async () => {
    const { plane, guest } = await serve({ path, engine }, { eventIdx })
    const load = new Load(guest, 16)
    for (let round = 0; round < 30; round++) {
      await plane.drain({ timeout })
      plane.drainSync({ timeout })
      await load.advance()
    }
    await load.stop()
  })

  test(`${engine}: hundreds of pauses under load lose no request and serve none twice`, async () => {
    const { plane, guest } = await serve({ path, engine }, { eventIdx })
    const load = new Load(guest, 16)
    for (let round = 0; round < 200; round++) {
      await plane.pause({ timeout })
      assert.deepEqual(plane.inFlight, [0])
      plane.resume()
      // Sometimes in the middle of a batch, sometimes before it is taken in.
      if (round % 3 !== 0) await load.advance()
    }
    await load.stop()
    assert.ok(load.answered >= 130, `${load.answered} requests meanwhile`)
    assert.equal(plane.statistics(0).requests, load.answered)
    assert.deepEqual((await plane.stop()).get(0), { availableIndex: load.answered & 0xffff, usedIndex: load.answered & 0xffff })
  })

  test(`${engine}: paused, nothing is taken in and nothing completes, and the image is the caller's`, async () => {
    const { plane, guest } = await serve({ path, engine }, { eventIdx })
    const load = new Load(guest, 8)
    await load.advance(50)
    await plane.pause()
    const before = plane.statistics(0)
    const used = guest.raw.getUsedIndex()
    guest.poll()
    const id = guest.getId()
    const read = guest.read(900, 512)
    await sleep(60)
    assert.deepEqual({ ...plane.statistics(0), kicks: 0 }, { ...before, kicks: 0 })
    assert.equal(guest.raw.getUsedIndex(), used)
    assert.ok(guest.ring.inFlight >= 2, 'the guest waits')
    const file = openSync(path, 'r+')
    writeSync(file, sectorPattern(900, 1, 5), 0, 512, 900 * 512)
    closeSync(file)
    plane.resume()
    assert.equal((await id).status, VIRTIO_BLK_S_OK)
    assert.deepEqual((await read).data, sectorPattern(900, 1, 5))
    await load.stop()
  })
}

test('another thread drains, while the guest goes on sending', async () => {
  const { plane, guest } = await serve()
  const load = new Load(guest, 16)
  await load.advance()
  const worker = new Worker(new URL('./support/drain-worker.ts', import.meta.url), { workerData: plane.drainHandle() })
  const [message] = await once(worker, 'message') as [string]
  assert.equal(message, 'drained')
  await load.stop()
})

test('a drain waits for what completes late, as do several at once, and a blocking one', async () => {
  const [first, second] = [new Hold(), new Hold()]
  const { plane, guest } = await serve({ engine: faulty({ rules: [{ at: 0, fault: first.fault }, { at: 1, fault: second.fault }] }) })
  const read = guest.read(1, 512)
  await inFlight(plane, 1)
  const drains = [plane.drain(), plane.drain(), plane.drain({ timeout })]
  for (const drain of drains) assert.ok(await isPending(drain))
  first.letGo()
  await Promise.all(drains)
  assert.deepEqual((await read).data, sectorPattern(1, 1))
  const another = guest.read(2, 512)
  await inFlight(plane, 1)
  second.letGoMeanwhile()
  plane.drainSync({ timeout })
  assert.ok(second.isOver)
  assert.deepEqual((await another).data, sectorPattern(2, 1))
})

test('two pauses at once: both wait, one resume ends them', async () => {
  const hold = new Hold()
  const { plane, guest } = await serve({ engine: faulty({ rules: [{ operation: 'read', fault: hold.fault }] }) })
  const read = guest.read(1, 512)
  await inFlight(plane, 1)
  const pauses = [plane.pause(), plane.pause()]
  for (const pause of pauses) assert.ok(await isPending(pause))
  assert.equal(plane.state, 'running')
  hold.letGo()
  await Promise.all(pauses)
  assert.equal(plane.state, 'paused')
  plane.resume()
  assert.deepEqual((await read).data, sectorPattern(1, 1))
  assert.deepEqual((await guest.read(2, 512)).data, sectorPattern(2, 1))
})

test('a pause that is out of time is none, and a later one works', async () => {
  const hold = new Hold()
  const { plane, guest } = await serve({ engine: faulty({ rules: [{ operation: 'read', fault: hold.fault }] }) })
  const read = guest.read(1, 512)
  await inFlight(plane, 1)
  await assert.rejects(plane.pause({ timeout: 30 }), { code: 'ERR_TIMEOUT', inFlight: [1] })
  assert.equal(plane.state, 'running')
  assert.equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
  const later = plane.pause({ timeout })
  assert.ok(await isPending(later))
  hold.letGo()
  await later
  guest.poll()
  assert.deepEqual((await read).data, sectorPattern(1, 1))
  plane.resume()
  assert.equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
})

test('a queue that is started while paused waits for the resume; stopped while paused, it can be started again', async () => {
  const plane = make({ queues: 2 })
  const [guest, other] = [player(), player()]
  await plane.start([guest.setup])
  await plane.pause()
  const read = other.read(3, 512)
  await plane.startQueue(1, other.setup)
  assert.equal(plane.state, 'paused')
  await sleep(30)
  assert.equal(other.raw.getUsedIndex(), 0)
  assert.deepEqual(await plane.stopQueue(0), { availableIndex: 0, usedIndex: 0 })
  plane.resume()
  assert.deepEqual((await read).data, sectorPattern(3, 1))
  await plane.pause()
  assert.deepEqual(await plane.stop(), new Map([[1, { availableIndex: 1, usedIndex: 1 }]]))
  assert.equal(plane.state, 'stopped')
  await plane.start([guest.setup])
  assert.equal(plane.state, 'running')
  assert.deepEqual((await guest.read(4, 512)).data, sectorPattern(4, 1))
})

test('stop completes what is in flight, all of it, and says from where to go on', async () => {
  const hold = new Hold()
  const { plane, guest } = await serve({ engine: faulty({ rules: [{ fault: hold.fault }] }) })
  const reads = Array.from({ length: 20 }, (_, sector) => guest.read(sector, 512))
  await inFlight(plane, 20)
  const stopped = plane.stop()
  assert.ok(await isPending(stopped))
  hold.letGo()
  assert.deepEqual((await stopped).get(0), { availableIndex: 20, usedIndex: 20 })
  guest.poll()
  const answers = await Promise.all(reads)
  answers.forEach(({ data }, sector) => assert.deepEqual(data, sectorPattern(sector, 1)))
})

test('stop, close and drain while it starts; drain and pause while it closes', async () => {
  const guest = player()
  const plane = make()
  const starting = plane.start([guest.setup])
  const drained = plane.drain({ timeout })
  const [, states] = await Promise.all([starting, plane.stop(), drained])
  assert.equal(states.size, 1)
  assert.equal(plane.state, 'stopped')

  const again = plane.start([guest.setup])
  await Promise.all([again, plane.close()])
  assert.equal(plane.state, 'closed')

  const hold = new Hold()
  const late = make({ engine: faulty({ rules: [{ fault: hold.fault }] }) })
  guest.resetRing()
  await late.start([guest.setup])
  const read = guest.read(1, 512)
  await inFlight(late, 1)
  const closing = late.close()
  const paused = assert.rejects(late.pause(), { code: 'ERR_STATE' })
  const emptied = late.drain({ timeout })
  assert.ok(await isPending(Promise.race([closing, emptied])))
  hold.letGo()
  await Promise.all([emptied, paused, closing])
  guest.poll()
  assert.deepEqual((await read).data, sectorPattern(1, 1))
})

test('a request that never completes: whoever waits is told which queue and how many, and the rest goes on', async () => {
  const { status, stdout, stderr } = await runChild(new URL('./support/never-child.ts', import.meta.url), [scratch.image('never.img', 64)])
  assert.equal(stdout, 'as it should be\n', stderr)
  assert.equal(status, 0)
})

const faults: readonly (readonly [title: string, fault: Fault])[] = [
  ['completions that are late', { kind: 'late', milliseconds: 3 }],
  ['completions in another order', { kind: 'reorder' }],
  ['transfers that are short', { kind: 'short' }],
  ['submissions that are refused for now', { kind: 'again' }]
]
for (const engine of ENGINES) {
  const path = imageFor(engine)

  test(`${engine}: the guest sees nothing of ${faults.map(([title]) => title).join(', ')}`, async () => {
    const rules = faults.map(([, fault]) => ({ fault, probability: 0.2 }))
    const { plane, guest } = await serve({ path, engine: faulty({ rules, seed: 42 }, engine) })
    assert.ok(plane.engineOf(0)!.name.startsWith(`faulty ${engine} (`))
    const load = new Load(guest, 16)
    for (let round = 0; round < 20; round++) {
      await load.advance(5)
      await plane.drain({ timeout })
    }
    await load.stop()
    assert.equal(plane.statistics(0).errors, 0)
  })

  test(`${engine}: errors of the disk reach the guest, each request's its own`, async () => {
    const { plane, guest } = await serve({
      path,
      engine: faulty({
        rules: [
          { operation: 'read', at: 1, fault: { kind: 'error', code: 'EIO' } },
          { operation: 'write', at: 1, fault: { kind: 'error', code: 'ENOSPC' } },
          { operation: 'flush', at: 1, fault: { kind: 'error', code: 'EIO' } },
          { operation: 'read', at: 3, fault: { kind: 'error', code: 'EINTR' } },
          { operation: 'write', at: 2, fault: { kind: 'error', code: 'EAGAIN' } }
        ]
      }, engine)
    })
    const failed = { status: VIRTIO_BLK_S_IOERR, written: 1 }
    const done = { status: VIRTIO_BLK_S_OK, written: 1 }
    assert.deepEqual((await guest.read(1, 512)).data, sectorPattern(1, 1))
    const { data, ...answer } = await guest.read(1, 512)
    assert.deepEqual(answer, failed)
    assert.ok(data.every((byte) => byte === 0))
    assert.deepEqual(await guest.write(2, sectorPattern(2, 1, 1)), done)
    assert.deepEqual(await guest.write(2, sectorPattern(2, 1, 2)), failed)
    assert.deepEqual(scratch.sectors(path, 2, 1), sectorPattern(2, 1, 1))
    assert.deepEqual(await guest.flush(), done)
    assert.deepEqual(await guest.flush(), failed)
    assert.deepEqual(await guest.flush(), done)
    // These are not errors: the request is done again.
    assert.deepEqual((await guest.read(1, 512)).data, sectorPattern(1, 1))
    assert.deepEqual((await guest.read(1, 512)).data, sectorPattern(1, 1))
    assert.deepEqual(await guest.write(2, sectorPattern(2, 1, 3)), done)
    assert.deepEqual(scratch.sectors(path, 2, 1), sectorPattern(2, 1, 3))
    assert.equal(plane.statistics(0).errors, 3)
  })
}

test.run()
