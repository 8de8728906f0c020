// An image in memory is mapped, and batches are copied: what only this engine could do wrong.
import assert from 'node:assert/strict'
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, statSync, truncateSync, writeSync } from 'node:fs'
import { test } from 'uvu'
import { DataPlane, type DataPlaneOptions, SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { ENGINES, scratchFor } from './support/engines.ts'
import { faulty } from './support/faulty-engine.ts'
import { Guest, type GuestOptions } from './support/guest.ts'
import { sectorPattern } from './support/image.ts'
import { Load } from './support/load.ts'

const PAGE_SECTORS = 8
const PAGE_BYTES = PAGE_SECTORS * SECTOR_BYTES
/** What the engine asks about at once. */
const CHUNK_SECTORS = 4096
const scratch = scratchFor('mapped')
let images = 0
const newImage = (sectors: number): string => scratch.image(`${images++}.img`, sectors)

const ends: (() => Promise<void> | void)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A running data plane, and a guest on each of its queues. */
async function serve (path: string, options: Partial<DataPlaneOptions> = {}, guestOptions: GuestOptions = {}): Promise<{ plane: DataPlane, guest: Guest, guests: Guest[] }> {
  const guests = Array.from({ length: options.queues ?? 1 }, () => new Guest(guestOptions))
  for (const guest of guests) ends.push(() => guest.close())
  const plane = DataPlane.create({ path, engine: 'mapped', ...options })
  ends.push(() => plane.close())
  await plane.start(guests.map(({ setup }) => setup))
  return { plane, guest: guests[0]!, guests }
}

/** A guest that is closed after the test. */
function player (): Guest {
  const guest = new Guest()
  ends.unshift(() => guest.close())
  return guest
}

/** Mappings of a file in this process. */
function mappings (path: string): number {
  return readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => line.includes(path)).length
}

/** Descriptors of a file in this process. */
function descriptors (path: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(path)
    } catch {
      return false
    }
  }).length
}

const allocated = (path: string): number => statSync(path).blocks * 512

async function has (guest: Guest, sector: number, expected: Uint8Array, what: string): Promise<void> {
  await guest.withMemory(async () => {
    const { status, data } = await guest.read(sector, expected.length)
    assert.equal(status, VIRTIO_BLK_S_OK, what)
    assert.ok(Buffer.compare(data, expected) === 0, what)
  })
}

async function discard (guest: Guest, sector: number, sectors: number): Promise<void> {
  const address = guest.allocate(16)
  guest.memory.setUint64(address, BigInt(sector))
  guest.memory.setUint32(address + 8, sectors)
  guest.memory.setUint32(address + 12, 0)
  assert.equal((await guest.request(VIRTIO_BLK_T_DISCARD, 0, { readable: [{ address, length: 16 }] })).status, VIRTIO_BLK_S_OK)
}

test('an image in memory is mapped, unless another engine is asked for or the machine speaks against it; one on a disk is not', async () => {
  const [inMemory, onDisk] = [newImage(8), scratchFor('sync').image('on-disk.img', 8)]
  for (const engine of ['auto', 'no-io_uring', 'mapped'] as const) {
    const { plane, guest } = await serve(inMemory, { engine })
    const [against] = plane.engine.rejected
    const mapped = { name: 'mapped', rejected: [] }
    if (against === undefined) assert.deepEqual([plane.engine, plane.engineOf(0)], [mapped, mapped], engine)
    else assert.deepEqual([engine === 'mapped', plane.engine.name, against.engine, /first use/.test(against.reason)], [false, 'linux-aio', 'mapped', true])
    await has(guest, 0, sectorPattern(0, 8), engine)
    await plane.close()
  }
  for (const engine of ['io_uring', 'linux-aio', 'sync'] as const) {
    const plane = DataPlane.create({ path: inMemory, engine })
    assert.equal(plane.engine.name, engine)
    assert.equal(mappings(inMemory), 0)
    await plane.close()
  }
  for (const engine of ['auto', 'no-io_uring'] as const) {
    const plane = DataPlane.create({ path: onDisk, engine })
    assert.match(plane.engine.name, engine === 'auto' ? /^(io_uring|linux-aio|sync)$/ : /^(linux-aio|sync)$/)
    await plane.close()
  }
  assert.throws(() => DataPlane.create({ path: onDisk, engine: 'mapped' }), { name: 'LinuxError', message: /Only files in memory/ })
  assert.equal(descriptors(onDisk), 0)
})

test('queues on two threads share one map, and see what each other wrote', async () => {
  const path = newImage(2 * CHUNK_SECTORS)
  const { plane, guests } = await serve(path, { queues: 4, threads: 2 })
  assert.equal(mappings(path), 1)
  const load = new Load(guests[0]!, 8)
  for (let round = 0; round < 20; round++) {
    const sector = CHUNK_SECTORS + round * 16
    const [writer, reader] = round % 2 === 0 ? [guests[2]!, guests[3]!] : [guests[3]!, guests[2]!]
    assert.equal((await writer.write(sector, sectorPattern(sector, 16, round + 1))).status, VIRTIO_BLK_S_OK)
    await has(reader, sector, sectorPattern(sector, 16, round + 1), `round ${round}`)
  }
  await plane.stopQueue(2)
  // The others go on in the map that this one had, too.
  await load.advance(100)
  await has(guests[3]!, 2 * CHUNK_SECTORS - 8, sectorPattern(2 * CHUNK_SECTORS - 8, 8), 'the end of the disk')
  await load.stop()
  assert.equal(mappings(path), 1)
})

test('one map lasts as long as the data plane, and no map and no descriptor of the image is left after a close', async () => {
  const path = newImage(64)
  for (let round = 0; round < 2; round++) {
    const plane = DataPlane.create({ path, engine: 'mapped', queues: 2, threads: 2 })
    ends.push(() => plane.close())
    assert.equal(mappings(path), 1)
    for (let start = 0; start < 2; start++) {
      const guests = [player(), player()]
      await plane.start(guests.map(({ setup }) => setup))
      for (const guest of guests) await has(guest, 8, sectorPattern(8, 8), `round ${round}, start ${start}`)
      assert.equal(mappings(path), 1)
      await plane.stop()
    }
    await plane.close()
    assert.deepEqual([mappings(path), descriptors(path)], [0, 0])
  }
  // An engine that is made by a module maps the image for itself.
  const { plane, guest } = await serve(path, { engine: faulty({ rules: [] }, 'mapped') })
  await has(guest, 0, sectorPattern(0, 64), 'by a module')
  assert.equal(mappings(path), 1)
  await plane.close()
  assert.deepEqual([mappings(path), descriptors(path)], [0, 0])
})

test('a start that fails, and an image that cannot be mapped, leave no map behind', async () => {
  const path = newImage(8)
  const guest = player()
  const plane = DataPlane.create({ path, engine: 'mapped' })
  await assert.rejects(plane.start([{ ...guest.setup, size: 3 }]), { code: 'ERR_RING_SIZE' })
  await plane.close()
  assert.deepEqual([mappings(path), descriptors(path)], [0, 0])
  assert.throws(() => DataPlane.create({ path, engine: 'mapped', queues: 0 }), { code: 'ERR_OPTION' })
  assert.deepEqual([mappings(path), descriptors(path)], [0, 0])
})

test('the disk grows while it runs, within the room of its map and beyond', async () => {
  // Neither end is at the end of a page.
  const [sectors, more] = [4 * PAGE_SECTORS + 3, 64 * PAGE_SECTORS + 5]
  const path = newImage(sectors)
  const { plane, guests } = await serve(path, { queues: 2, threads: 2 })
  const load = new Load(guests[1]!, 4)
  await plane.resize(more * SECTOR_BYTES)
  const [guest] = guests as [Guest]
  await has(guest, sectors - 1, Uint8Array.from([...sectorPattern(sectors - 1, 1), ...new Uint8Array((more - sectors) * SECTOR_BYTES)]), 'across the old end')
  const bytes = sectorPattern(sectors - 2, 20, 7)
  assert.equal((await guest.write(sectors - 2, bytes)).status, VIRTIO_BLK_S_OK)
  assert.equal((await guest.write(more - 1, sectorPattern(more - 1, 1, 7))).status, VIRTIO_BLK_S_OK)
  await has(guest, sectors - 3, Uint8Array.from([...sectorPattern(sectors - 3, 1), ...bytes, ...new Uint8Array(SECTOR_BYTES)]), 'written across the old end')
  assert.deepEqual(scratch.sectors(path, sectors - 2, 20), bytes)
  assert.deepEqual(scratch.sectors(path, more - 1, 1), sectorPattern(more - 1, 1, 7))
  assert.equal((await guest.read(more, SECTOR_BYTES)).status, VIRTIO_BLK_S_IOERR)
  // As far as it is mapped, at least; the file is mostly holes.
  const [border, before] = [2 ** 30 / SECTOR_BYTES, allocated(path)]
  await plane.resize((border + 77) * SECTOR_BYTES)
  for (const [index, each] of guests.entries()) {
    const across = sectorPattern(border - 9, 80, index)
    assert.equal((await each.write(border - 9, across)).status, VIRTIO_BLK_S_OK)
    for (const reader of guests) await has(reader, border - 9, across, 'across the end of the map')
    assert.equal((await each.read(border + 76, 2 * SECTOR_BYTES)).status, VIRTIO_BLK_S_IOERR)
  }
  assert.equal(allocated(path) - before, 11 * PAGE_BYTES)
  await load.stop()
  await plane.resize(more * SECTOR_BYTES)
  await discard(guest, 0, more)
  await has(guest, 0, new Uint8Array(more * SECTOR_BYTES), 'discarded across the old end')
})

test('the disk shrinks and grows under load: what was in time is done, what is past the end refused, and nobody dies', async () => {
  const sectors = 32 * PAGE_SECTORS
  const path = newImage(sectors)
  const { plane, guests } = await serve(path, { queues: 2, threads: 2 })
  // The last one ends within a page.
  for (const [round, end] of [8 * PAGE_SECTORS, 3 * PAGE_SECTORS + 5].entries()) {
    const version = round + 1
    const requests = guests.flatMap((guest) => Array.from({ length: 16 }, async (_, index) => {
      const sector = index * 2 * PAGE_SECTORS + guests.indexOf(guest) * PAGE_SECTORS
      const written = await guest.write(sector, sectorPattern(sector, PAGE_SECTORS, version))
      const { status, data } = await guest.read(sector, PAGE_BYTES)
      const isRight = Buffer.compare(data, sectorPattern(sector, PAGE_SECTORS, version)) === 0
      return { sector, statuses: [written.status, status], isRight }
    }))
    await plane.resize(end * SECTOR_BYTES)
    for (const { sector, statuses, isRight } of await Promise.all(requests)) {
      const isInside = sector + PAGE_SECTORS <= end
      if (isInside) assert.deepEqual({ statuses, isRight }, { statuses: [VIRTIO_BLK_S_OK, VIRTIO_BLK_S_OK], isRight }, `sector ${sector}`)
      if (isInside) assert.ok(isRight, `sector ${sector}`)
      if (statuses[1] === VIRTIO_BLK_S_OK) assert.ok(isRight, `sector ${sector}, in time`)
      for (const status of statuses) assert.ok(status === VIRTIO_BLK_S_OK || status === VIRTIO_BLK_S_IOERR)
    }
    assert.equal(statSync(path).size, end * SECTOR_BYTES)
    for (const guest of guests) assert.equal((await guest.read(end, SECTOR_BYTES)).status, VIRTIO_BLK_S_IOERR)
    await plane.resize(sectors * SECTOR_BYTES)
    await has(guests[round]!, end, new Uint8Array((sectors - end) * SECTOR_BYTES), 'what was cut off is gone')
  }
})

/** What a guest finds whose image is cut, to sizes of whole pages, of sectors and of neither, and extended by somebody else. */
async function cutBehindItsBack (path: string, guest: Guest): Promise<unknown[]> {
  const found: unknown[] = []
  const note = async (): Promise<void> => {
    const address = guest.allocate(64 * SECTOR_BYTES)
    guest.memory.write(address, new Uint8Array(64 * SECTOR_BYTES).fill(0xa5))
    const { status } = await guest.request(VIRTIO_BLK_T_IN, 0, { writable: [{ address, length: 64 * SECTOR_BYTES }] })
    const data = guest.memory.read(address, 64 * SECTOR_BYTES)
    found.push(status, Buffer.from(data).toString('base64'), readFileSync(path).toString('base64'))
  }
  for (const [index, size] of [5 * PAGE_BYTES, 3 * PAGE_BYTES + 1536, PAGE_BYTES + 700, 0].entries()) {
    truncateSync(path, size)
    await note()
    // The first one is behind the last two ends, in the same page as one of them: what is copied there is no part of the file.
    for (const sector of [10, 36, 56, 10]) {
      found.push((await guest.write(sector, sectorPattern(sector, 8, index + 1))).status, (await guest.flush()).status)
      await note()
    }
    truncateSync(path, 64 * SECTOR_BYTES)
    await note()
    found.push((await guest.write(0, sectorPattern(0, 64))).status)
    await note()
  }
  return found
}

test('an image that somebody else cuts and extends is to the guest what it is with the other engines', async () => {
  const expected = await withEngine('sync')
  for (const engine of ENGINES) assert.deepEqual(await withEngine(engine), expected, engine)

  async function withEngine (engine: typeof ENGINES[number]): Promise<unknown[]> {
    const path = newImage(64)
    const { guest } = await serve(path, { engine })
    return await cutBehindItsBack(path, guest)
  }
})

test('an image that is cut and extended all the time, while a guest reads and writes: no request fails, and nobody dies', async () => {
  const path = newImage(512)
  const { plane, guests } = await serve(path, { queues: 2, threads: 2 })
  const fd = openSync(path, 'r+')
  let answered = 0
  let stopped = false
  const run = async (guest: Guest, slot: number): Promise<void> => {
    const address = guest.allocate(16 * SECTOR_BYTES)
    for (let round = 0; !stopped; round++) {
      const sector = (slot * 64 + round * 13) % 496
      const segments = [{ address, length: 16 * SECTOR_BYTES }]
      await guest.withMemory(async () => {
        const data = (slot + round) % 2 === 0 ? { readable: segments } : { writable: segments }
        assert.equal((await guest.request('readable' in data ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, sector, data)).status, VIRTIO_BLK_S_OK)
      })
      answered++
    }
  }
  const running = guests.map((guest) => run(guest, guests.indexOf(guest)))
  for (const end = answered + 2000; answered < end; await Promise.race([...running, new Promise((resolve) => setImmediate(resolve))])) {
    for (const sectors of [0, 512, 100, 512]) truncateSync(path, sectors * SECTOR_BYTES)
  }
  stopped = true
  await Promise.all(running)
  writeSync(fd, sectorPattern(0, 512), 0, 512 * SECTOR_BYTES, 0)
  closeSync(fd)
  for (const guest of guests) await has(guest, 0, sectorPattern(0, 512), 'once it is left alone')
  assert.deepEqual(plane.inFlight, [0, 0])
})

test('what is not there takes no memory for being read: holes, and what the guest gave back', async () => {
  const sectors = 4 * CHUNK_SECTORS
  const path = newImage(8)
  truncateSync(path, sectors * SECTOR_BYTES)
  const { guests } = await serve(path, { queues: 2, threads: 2 }, { memoryBytes: 32 << 20 })
  const [guest, other] = guests as [Guest, Guest]
  const readAll = async (): Promise<void> => {
    for (const each of guests) {
      // In one piece, which is in part there, and page by page.
      await each.withMemory(async () => { assert.equal((await each.read(0, sectors * SECTOR_BYTES)).status, VIRTIO_BLK_S_OK) })
      for (let sector = 0; sector < sectors; sector += 4 * PAGE_SECTORS) {
        await each.withMemory(async () => { assert.equal((await each.read(sector, PAGE_BYTES)).status, VIRTIO_BLK_S_OK) })
      }
    }
  }
  await readAll()
  assert.equal(allocated(path), PAGE_BYTES)

  // A page in the middle, a chunk whole, and one that reaches into two pages.
  assert.equal((await guest.write(CHUNK_SECTORS + 800, sectorPattern(0, 8, 1))).status, VIRTIO_BLK_S_OK)
  assert.equal((await other.write(2 * CHUNK_SECTORS, sectorPattern(0, CHUNK_SECTORS, 2))).status, VIRTIO_BLK_S_OK)
  assert.equal((await other.write(3 * CHUNK_SECTORS + 804, sectorPattern(0, 8, 3))).status, VIRTIO_BLK_S_OK)
  await readAll()
  assert.equal(allocated(path), (1 + 1 + 512 + 2) * PAGE_BYTES)
  await has(other, CHUNK_SECTORS + 800, sectorPattern(0, 8, 1), 'a page')
  await has(guest, 2 * CHUNK_SECTORS, sectorPattern(0, CHUNK_SECTORS, 2), 'a chunk')
  await has(guest, 3 * CHUNK_SECTORS + 804, sectorPattern(0, 8, 3), 'halves of pages')

  await discard(guest, 2 * CHUNK_SECTORS + 4, CHUNK_SECTORS / 2)
  await discard(other, CHUNK_SECTORS + 800, 8)
  await readAll()
  // Of the pages at both ends, which are discarded in part, something is left.
  assert.equal(allocated(path), (1 + 0 + 257 + 2) * PAGE_BYTES)
  await has(guest, CHUNK_SECTORS + 800, new Uint8Array(PAGE_BYTES), 'what was given back')
})

test('the time of the image says that it was written, after a flush and after the end', async () => {
  const path = newImage(64)
  const { plane, guest } = await serve(path)
  const changes: number[] = [statSync(path).mtimeMs]
  const isLater = async (what: string, body: () => Promise<unknown>): Promise<void> => {
    // The clock of files ticks every few milliseconds.
    await eventually('the clock goes on', () => {
      scratch.file('clock', 1)
      return statSync(`${scratch.directory}/clock`).mtimeMs > changes.at(-1)!
    })
    await body()
    changes.push(statSync(path).mtimeMs)
    assert.ok(changes.at(-1)! > changes.at(-2)!, what)
  }
  // The first write to a page is one that the kernel sees.
  for (const version of [1, 2]) {
    await isLater(`flush ${version}`, async () => {
      await guest.write(3, sectorPattern(3, 1, version))
      await guest.flush()
    })
  }
  await guest.read(0, SECTOR_BYTES)
  await guest.flush()
  assert.equal(statSync(path).mtimeMs, changes.at(-1), 'nothing was written meanwhile')
  await isLater('the end', async () => {
    await guest.write(3, sectorPattern(3, 1, 3))
    await plane.close()
  })
})

test('a read-only image is mapped to be read', async () => {
  const path = newImage(64)
  const { plane, guest } = await serve(path, { readOnly: true })
  assert.equal(plane.engine.name, 'mapped')
  assert.equal((await guest.write(0, new Uint8Array(SECTOR_BYTES))).status, VIRTIO_BLK_S_IOERR)
  assert.equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
  await has(guest, 0, sectorPattern(0, 64), 'as it was')
  assert.match(readFileSync('/proc/self/maps', 'utf8').split('\n').find((line) => line.includes(path))!, / r--s /)
})

test.run()
