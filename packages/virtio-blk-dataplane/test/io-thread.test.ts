import assert from 'node:assert/strict'
import { dirname } from 'node:path'
import { test } from 'uvu'
import { AbandonedError, DataPlane, DataPlaneError, type DataPlaneOptions, IoThread, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN } from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { BlockingPipe } from './support/blocking-engine.ts'
import { eventPolls } from './support/event-polls.ts'
import { Guest } from './support/guest.ts'
import { Scratch, sectorPattern } from './support/image.ts'
import { throwing } from './support/throwing-engine.ts'

const scratch = new Scratch()
process.on('exit', () => scratch.remove())

const ends: (() => Promise<void> | void)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

interface Disk {
  readonly plane: DataPlane
  readonly guest: Guest
  readonly deaths: DataPlaneError[]
}

let images = 0

/** A disk that is not served yet; closed after the test. */
function disk (options: Partial<DataPlaneOptions>): Disk {
  const deaths: DataPlaneError[] = []
  const plane = DataPlane.create({ path: scratch.image(`disk-${images++}.img`, 64), onDeath: (error) => deaths.push(error), ...options })
  const guest = new Guest()
  ends.push(() => guest.close(), () => plane.close())
  return { plane, guest, deaths }
}

/** Writes and reads. */
async function works ({ guest }: Disk, seed: number): Promise<void> {
  const bytes = sectorPattern(8, 8, seed)
  assert.equal((await guest.write(8, bytes)).status, VIRTIO_BLK_S_OK)
  const { status, data } = await guest.read(8, bytes.length)
  assert.equal(status, VIRTIO_BLK_S_OK)
  assert.deepEqual(data, bytes)
}

const fails = (code: string) => (error: unknown): boolean => error instanceof DataPlaneError && error.code === code

test('disks share a thread, which ends with the last one and begins again with the next', async () => {
  const iothread = new IoThread()
  const [first, ...others] = [1, 2, 3].map(() => disk({ iothread })) as [Disk, Disk, Disk]
  const none = eventPolls()
  for (let round = 1; round <= 2; round++) {
    await first.plane.start([first.guest.setup])
    const one = eventPolls()
    assert.ok(one > none)
    await Promise.all(others.map(({ plane, guest }) => plane.start([guest.setup])))
    assert.equal(eventPolls(), one)
    const disks = [first, ...others]
    await Promise.all(disks.map((each, index) => works(each, 10 * round + index)))
    for (const [index, { plane, guest }] of disks.entries()) {
      await plane.stop()
      guest.resetRing()
      assert.equal(eventPolls(), index === disks.length - 1 ? none : one)
      for (const other of disks.slice(index + 1)) await works(other, 20 * round + index)
    }
  }
})

test('a disk that comes while another one goes finds a thread', async () => {
  const iothread = new IoThread()
  const [one, other] = [disk({ iothread }), disk({ iothread })]
  for (let round = 0; round < 8; round++) {
    await one.plane.start([one.guest.setup])
    const stop = one.plane.stop()
    await Promise.all([stop, other.plane.start([other.guest.setup])])
    await works(other, round)
    await other.plane.stop()
    one.guest.resetRing()
    other.guest.resetRing()
  }
})

test('each disk is told of its own: a pause of one, or its broken ring, is nothing to the others', async () => {
  const iothread = new IoThread()
  const faults: string[] = []
  const [one, other] = ['one', 'other'].map((name) => disk({ iothread, queues: 2, onFault: (queue) => faults.push(`${name} ${queue}`) })) as [Disk, Disk]
  await one.plane.start([one.guest.setup])
  await other.plane.start([other.guest.setup])
  await one.plane.pause()
  const waiting = one.guest.flush()
  await works(other, 1)
  assert.equal(one.plane.statistics(0).requests, 0)
  one.plane.resume()
  assert.equal((await waiting).status, VIRTIO_BLK_S_OK)
  void other.guest.send([{ address: 0x200000, length: 1 }], [])
  await eventually('the fault is told', () => faults.length > 0)
  assert.deepEqual(faults, ['other 0'])
  await works(one, 2)
})

test('all disks of a thread that dies hear of it, and start again on another', async () => {
  const iothread = new IoThread()
  const [mortal, other] = [disk({ iothread, engine: throwing('submit') }), disk({ iothread })]
  await Promise.all([mortal, other].map(({ plane, guest }) => plane.start([guest.setup])))
  void mortal.guest.flush()
  await eventually('both know', () => mortal.deaths.length > 0 && other.deaths.length > 0)
  for (const { deaths } of [mortal, other]) assert.ok(fails('ERR_THREAD')(deaths[0]))
  await assert.rejects(other.plane.drain({ timeout: 60_000 }), fails('ERR_THREAD'))
  const next = disk({ iothread })
  await next.plane.start([next.guest.setup])
  await works(next, 1)
})

test('a disk whose engine cannot be loaded fails alone', async () => {
  const iothread = new IoThread()
  const [good, bad] = [disk({ iothread }), disk({ iothread, engine: { module: 'file:///no/such/module.js' } })]
  await good.plane.start([good.guest.setup])
  await assert.rejects(bad.plane.start([bad.guest.setup]), fails('ERR_THREAD'))
  assert.equal(bad.deaths.length, 1)
  assert.deepEqual(good.deaths, [])
  await works(good, 1)
})

test('a disk that keeps the thread in a system call keeps the others waiting: they can be given up, and start on another thread', async () => {
  const iothread = new IoThread()
  const pipe = new BlockingPipe(dirname(scratch.image('pipe.img', 8)))
  const [blocked, other] = [disk({ iothread, engine: pipe.engine }), disk({ iothread })]
  ends.push(() => pipe.release())
  await Promise.all([blocked, other].map(({ plane, guest }) => plane.start([guest.setup])))
  void blocked.guest.request(VIRTIO_BLK_T_IN, 0, { writable: [{ address: 0x200000, length: 512 }] })
  await eventually('the thread is in the system call', () => pipe.hasReader)
  for (const { plane } of [blocked, other]) await assert.rejects(plane.stop({ timeout: 10 }), AbandonedError)
  other.guest.resetRing()
  await other.plane.start([other.guest.setup])
  await works(other, 1)
})

test('what is the thread\'s own is not an option of a disk that shares one, nor a thread of a disk that has one', () => {
  const iothread = new IoThread({ cpus: [0], pollMaxMicroseconds: 10 })
  const path = scratch.image('options.img', 8)
  for (const own of [{ threads: 1 }, { queueThreads: [0] }, { cpus: [[0]] }, { pollMaxMicroseconds: 5 }]) {
    assert.throws(() => DataPlane.create({ path, iothread, ...own }), fails('ERR_OPTION'))
  }
  const read = (): void => {}
  assert.throws(() => DataPlane.create({ disk: { capacity: 512, read }, iothread }), fails('ERR_OPTION'))
  for (const pollMaxMicroseconds of [-1, 1001, 0.5]) assert.throws(() => new IoThread({ pollMaxMicroseconds }), fails('ERR_OPTION'))
})

test.run()
