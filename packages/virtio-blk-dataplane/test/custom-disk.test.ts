import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import { hasFeature } from '@node-vmm/vring'
import type { Segment } from '@node-vmm/vring/driver'
import { test } from 'uvu'
import {
  AbandonedError, DataPlane, DataPlaneError, type DataPlaneErrorCode, type DataPlaneOptions, type Disk, type DiskModule, type Segments, SECTOR_BYTES,
  type TraceEvent, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES
} from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { quiet } from '../../../test/support/quiet.ts'
import { type Answer, Guest, type GuestOptions, NO_STATUS } from './support/guest.ts'
import { sectorPattern } from './support/image.ts'
import { Load } from './support/load.ts'
import { MapDisk, mapDiskModule, type MapDiskOptions } from './support/map-disk.ts'
import { type Oddity, oddModule } from './support/odd-disk-module.ts'

const ok = { status: VIRTIO_BLK_S_OK, written: 1 }
const failed = { status: VIRTIO_BLK_S_IOERR, written: 1 }
const unsupported = { status: VIRTIO_BLK_S_UNSUPP, written: 1 }
const UNMAP = 1
/** For what never ends by itself, in milliseconds. */
const SOON = { timeout: 50 }

const ends: (() => Promise<void> | void)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A data plane that is closed after the test, or given up. */
async function open (disk: Disk | DiskModule, options: Partial<DataPlaneOptions> = {}): Promise<DataPlane> {
  const plane = await DataPlane.open({ disk, ...options })
  ends.push(() => plane.close().catch(() => {}))
  return plane
}

/** A guest that is closed after the test, and after the data plane. */
function guest (options: GuestOptions = {}): Guest {
  const made = new Guest(options)
  ends.unshift(() => made.close())
  return made
}

async function served (disk: Disk | DiskModule, options: Partial<DataPlaneOptions> = {}, guestOptions: GuestOptions = {}): Promise<{ plane: DataPlane, player: Guest }> {
  const plane = await open(disk, options)
  const player = guest(guestOptions)
  await plane.start([player.setup])
  return { plane, player }
}

const fails = (code: DataPlaneErrorCode, text?: RegExp) => (error: unknown): boolean =>
  error instanceof DataPlaneError && error.code === code && (text === undefined || text.test(error.message))

function ranges (player: Guest, type: number, sector: number, sectors: number, flags = 0): Promise<Answer> {
  const address = player.allocate(16)
  player.memory.setUint64(address, BigInt(sector))
  player.memory.setUint32(address + 8, sectors)
  player.memory.setUint32(address + 12, flags)
  return player.request(type, 0, { readable: [{ address, length: 16 }] })
}

const SLOTS = 100
const SLOT_SECTORS = 16

/** One place on the disk, with what it ought to have: operations at random, one after the other. */
async function operate (player: Guest, slot: number, operations: number): Promise<void> {
  const first = slot * SLOT_SECTORS
  const model = new Uint8Array(SLOT_SECTORS * SECTOR_BYTES)
  const random = (below: number): number => Math.floor(Math.random() * below)
  const data = player.allocate(model.length + 4096)
  const range = player.allocate(16)
  const header = player.header(VIRTIO_BLK_T_IN, 0)
  const status = player.allocate(1)
  const send = async (type: number, sector: number, readable: readonly Segment[], writable: readonly Segment[]): Promise<void> => {
    player.memory.setUint32(header, type)
    player.memory.setUint64(header + 8, BigInt(sector))
    player.memory.setUint8(status, NO_STATUS)
    await player.send([{ address: header, length: 16 }, ...readable], [...writable, { address: status, length: 1 }])
    assert.equal(player.memory.getUint8(status), VIRTIO_BLK_S_OK)
  }
  for (let version = 0; version < operations; version++) {
    const sector = random(SLOT_SECTORS)
    const sectors = 1 + random(SLOT_SECTORS - sector)
    const [from, bytes] = [sector * SECTOR_BYTES, sectors * SECTOR_BYTES]
    // At an odd address, cut where it pleases.
    const at = data + random(4000)
    const cut = 1 + random(bytes - 1)
    const pieces = [{ address: at, length: cut }, { address: at + cut, length: bytes - cut }]
    switch (random(5)) {
      case 0:
        player.memory.setUint64(range, BigInt(first + sector))
        player.memory.setUint32(range + 8, sectors)
        player.memory.setUint32(range + 12, random(2))
        await send(VIRTIO_BLK_T_WRITE_ZEROES, 0, [{ address: range, length: 16 }], [])
        model.fill(0, from, from + bytes)
        break
      case 1:
      case 2: {
        const pattern = sectorPattern(first + sector, sectors, version + 1)
        player.memory.write(at, pattern)
        await send(VIRTIO_BLK_T_OUT, first + sector, pieces, [])
        model.set(pattern, from)
        break
      }
      default:
        await send(VIRTIO_BLK_T_IN, first + sector, [], pieces)
        assert.ok(Buffer.compare(player.memory.read(at, bytes), model.subarray(from, from + bytes)) === 0, `sector ${first + sector}`)
    }
  }
}

const places: readonly (readonly [place: string, disk: (options?: MapDiskOptions) => Disk | DiskModule])[] = [
  ['on the calling thread', (options) => new MapDisk(options)],
  ['on the data-plane thread', mapDiskModule]
]
const kinds: readonly (readonly [kind: string, options: MapDiskOptions])[] = [
  ['that does all at once', {}],
  ['of promises', { jitter: 3 }],
  ['of promises without write zeroes', { jitter: 3, without: ['writeZeroes'] }]
]
for (const [place, disk] of places) {
  for (const [kind, options] of kinds) {
    test(`a disk ${kind}, ${place}: what ${SLOTS} writers at once find is what they wrote`, async () => {
      const events: TraceEvent[] = []
      const { plane, player } = await served(disk(options), { queues: 1 }, { size: 512, indirect: true })
      await Promise.all(Array.from({ length: SLOTS }, (_, slot) => operate(player, slot, 12)))
      // It is told after the guest is.
      await eventually('nothing is in flight', () => plane.inFlight[0] === 0)
      assert.deepEqual([plane.statistics(0).requests, plane.statistics(0).errors], [SLOTS * 12, 0])
      await plane.setTracer((event) => events.push(event))
      await player.flush()
      await eventually('the trace is there', () => events.length >= 2)
      assert.deepEqual(events.map(({ name }) => name), ['virtio_blk_data_plane_process_request', 'virtio_blk_data_plane_complete_request'])
    })
  }

  test(`a disk ${place} is as it was after a stop and a start, and closed once`, async () => {
    const made = disk()
    const { plane, player } = await served(made, { queues: 2 })
    const other = guest({ packed: true })
    await plane.startQueue(1, other.setup)
    assert.deepEqual(await player.write(7, sectorPattern(7, 2, 1)), ok)
    assert.deepEqual((await other.read(7, 1024)).data, sectorPattern(7, 2, 1))
    const states = await plane.stop()
    assert.equal(states.size, 2)
    await plane.start([{ ...player.setup, ...states.get(0)! }])
    assert.deepEqual((await player.read(7, 1024)).data, sectorPattern(7, 2, 1))
    await plane.close()
    await plane.close()
    if (made instanceof MapDisk) assert.equal(made.closed, 1)
  })

  test(`drains and pauses end with a disk of promises ${place}, though the guest never stops`, async () => {
    const { plane, player } = await served(disk({ jitter: 2 }))
    const load = new Load(player, 8)
    for (let round = 0; round < 5; round++) {
      await load.advance(5)
      await plane.drain({ timeout: 60_000 })
      await plane.pause({ timeout: 60_000 })
      assert.deepEqual(plane.inFlight, [0])
      plane.resume()
    }
    await load.advance(5)
    await load.stop()
  })

  test(`a disk ${place} that nobody uses takes no time`, async () => {
    const { player } = await served(disk())
    await player.flush()
    await quiet()
  })
}

test('hundreds of requests are in flight at once, and end in the order that the disk likes', async () => {
  const waiting: (() => void)[] = []
  const disk: Disk = {
    capacity: 1 << 20,
    read: (offset, segments) => new Promise((resolve) => waiting.push(() => {
      Buffer.from(segments[0]!.buffer, segments[0]!.byteOffset, 512).fill(offset / 512 % 251)
      resolve()
    }))
  }
  const { plane, player } = await served(disk, {}, { size: 512, indirect: true })
  const order: number[] = []
  const reads = Array.from({ length: 400 }, async (_, sector) => {
    const { status, data } = await player.read(sector, 512)
    order.push(sector)
    assert.equal(status, VIRTIO_BLK_S_OK)
    assert.ok(data.every((byte) => byte === sector % 251))
  })
  await eventually('all are with the disk', () => waiting.length === 400)
  assert.deepEqual(plane.inFlight, [400])
  // The interrupt of each before the next: so the order is seen.
  for (let left = 400; left > 0; left--) {
    waiting.pop()!()
    if (left % 10 === 1) await eventually('these are answered', () => order.length >= 401 - left)
  }
  await Promise.all(reads)
  // Within the ten of one turn, as the ring has them: the order in which they settled.
  assert.deepEqual(order, Array.from({ length: 400 }, (_, index) => 399 - index))
})

/** The disks that a data plane makes of what somebody throws. */
const thrown: readonly (readonly [what: string, error: unknown, answer: Answer])[] = [
  ['an error', new Error('no luck'), failed],
  ['EIO', Object.assign(new Error('EIO'), { code: 'EIO' }), failed],
  ['ENOSPC', Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' }), failed],
  ['ENOTSUP', Object.assign(new Error('ENOTSUP'), { code: 'ENOTSUP' }), unsupported],
  ['EOPNOTSUPP', { code: 'EOPNOTSUPP' }, unsupported],
  ['undefined', undefined, failed],
  ['null', null, failed],
  ['a string', 'ENOTSUP', failed],
  ['a symbol', Symbol('no'), failed],
  ['an object that throws', { get code () { throw new Error('you see') }, get message () { throw new Error('again') }, toString () { throw new Error('and again') } }, failed]
]
for (const [what, error, answer] of thrown) {
  test(`a disk that throws or rejects with ${what} answers ${answer.status}, and the next request is served`, async () => {
    let how: 'throw' | 'reject' | 'well' = 'throw'
    const act = (): void | Promise<void> => {
      if (how === 'throw') throw error
      if (how === 'reject') return Promise.reject(error)
    }
    const problems: DataPlaneError[] = []
    const disk: Disk = { capacity: 1 << 20, read: act, write: act, flush: act, discard: act }
    const { plane, player } = await served(disk, { onProblem: (problem) => problems.push(problem) })
    for (how of ['throw', 'reject'] as const) {
      assert.equal((await player.read(0, 512)).status, answer.status)
      assert.deepEqual(await player.write(0, new Uint8Array(1024)), answer)
      assert.deepEqual(await player.flush(), answer)
      assert.deepEqual(await ranges(player, VIRTIO_BLK_T_DISCARD, 0, 8), answer)
    }
    how = 'well'
    assert.equal((await player.read(0, 512)).status, VIRTIO_BLK_S_OK)
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_DISCARD, 0, 8), ok)
    assert.equal(plane.statistics(0).errors, 8)
    await eventually('each operation is told of once', () => problems.length === 4)
    assert.ok(problems.every(({ code }) => code === 'ERR_DISK'))
    assert.match(problems[0]!.message, /the disk failed to read 512 bytes at offset 0: /)
    assert.match(problems[2]!.message, /the disk failed to flush: /)
  })
}

test('a disk that fails a thousand times is told of once, and the guest is served', async () => {
  const problems: DataPlaneError[] = []
  const disk: Disk = { capacity: 1 << 20, read: async () => { throw new Error('the cable is out') } }
  const { plane, player } = await served(disk, { onProblem: (problem) => problems.push(problem) })
  for (let round = 0; round < 1000; round += 10) {
    await player.withMemory(async () => {
      for (const { status } of await Promise.all(Array.from({ length: 10 }, (_, index) => player.read(index, 512)))) assert.equal(status, VIRTIO_BLK_S_IOERR)
    })
  }
  await plane.stop()
  assert.equal(problems.length, 1)
  assert.match(problems[0]!.message, /read 512 bytes at offset 0: the cable is out$/)
  assert.match((problems[0]!.cause as Error).stack!, /custom-disk\.test/)
})

const BITS = { FLUSH: VIRTIO_BLK_F_FLUSH, CONFIG_WCE: VIRTIO_BLK_F_CONFIG_WCE, RO: VIRTIO_BLK_F_RO, DISCARD: VIRTIO_BLK_F_DISCARD, WRITE_ZEROES: VIRTIO_BLK_F_WRITE_ZEROES }
const featured: readonly (readonly [what: string, options: MapDiskOptions, forced: Partial<DataPlaneOptions>, bits: string])[] = [
  ['every method', {}, {}, 'FLUSH CONFIG_WCE DISCARD WRITE_ZEROES'],
  ['no flush', { without: ['flush'] }, {}, 'DISCARD WRITE_ZEROES'],
  ['no discard', { without: ['discard'] }, {}, 'FLUSH CONFIG_WCE WRITE_ZEROES'],
  ['no write zeroes', { without: ['writeZeroes'] }, {}, 'FLUSH CONFIG_WCE DISCARD WRITE_ZEROES'],
  ['no write', { without: ['write'] }, {}, 'FLUSH CONFIG_WCE RO'],
  ['every method, but read-only', { readOnly: true }, {}, 'FLUSH CONFIG_WCE RO'],
  ['every method, for a data plane that is read-only', {}, { readOnly: true }, 'FLUSH CONFIG_WCE RO'],
  ['every method, for a data plane without discard segments', {}, { discardSegments: 0 }, 'FLUSH CONFIG_WCE']
]
for (const [what, options, forced, bits] of featured) {
  test(`a disk with ${what} offers ${bits}`, async () => {
    for (const [, disk] of places) {
      const plane = await open(disk(options), forced)
      assert.equal(Object.entries(BITS).filter(([, bit]) => hasFeature(plane.features, bit)).map(([name]) => name).join(' '), bits)
      assert.equal(plane.capacity, 1 << 20)
    }
  })
}

test('a read-only disk is never written to', async () => {
  for (const forced of [true, false]) {
    const disk = new MapDisk({ readOnly: !forced })
    const { player } = await served(disk, { readOnly: forced })
    assert.deepEqual(await player.write(0, new Uint8Array(512)), failed)
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8), failed)
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_DISCARD, 0, 8), failed)
    assert.equal((await player.read(0, 512)).status, VIRTIO_BLK_S_OK)
    assert.deepEqual(disk.calls, ['read'])
  }
  const { player } = await served(mapDiskModule({ readOnly: true }))
  assert.deepEqual(await player.write(0, new Uint8Array(512)), failed)
})

test('a disk without flush: a flush is done, nothing is called', async () => {
  const disk = new MapDisk({ without: ['flush'] })
  const { plane, player } = await served(disk)
  assert.deepEqual(await player.flush(), ok)
  assert.equal(plane.writeThrough, true)
  await plane.setWriteThrough(false)
  assert.equal(plane.writeThrough, true)
  assert.deepEqual(await player.write(0, new Uint8Array(512)), ok)
  assert.deepEqual(disk.calls, ['write'])
})

test('with write-through, each write and each range is flushed before it completes', async () => {
  for (const jitter of [undefined, 2]) {
    const disk = new MapDisk({ jitter, without: ['writeZeroes'] } as MapDiskOptions)
    const { plane, player } = await served(disk)
    assert.deepEqual(await player.write(0, new Uint8Array(512)), ok)
    await plane.setWriteThrough(true)
    assert.deepEqual(disk.calls.splice(0), ['write', 'flush'])
    assert.deepEqual(await player.write(0, new Uint8Array(512)), ok)
    assert.deepEqual(disk.calls.splice(0), ['write', 'flush'])
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_DISCARD, 0, 8), ok)
    assert.deepEqual(disk.calls.splice(0), ['discard', 'flush'])
  }
})

test('a disk without discard answers unsupported; without write zeroes, or where it says ENOTSUP, zeroes are written', async () => {
  const capacity = 4 << 20
  const lacking = new MapDisk({ capacity, without: ['discard', 'writeZeroes'], fill: 7 })
  let asked = 0
  const refusing = new MapDisk({ capacity, fill: 7 })
  refusing.writeZeroes = () => {
    asked++
    return Promise.reject(Object.assign(new Error('not here'), { code: 'ENOTSUP' }))
  }
  for (const disk of [lacking, refusing]) {
    const { player } = await served(disk)
    if (disk === lacking) assert.deepEqual(await ranges(player, VIRTIO_BLK_T_DISCARD, 0, 8), unsupported)
    // More than one piece of zeroes.
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_WRITE_ZEROES, 8, 5000), ok)
    assert.deepEqual(disk.calls, ['write', 'write', 'write'])
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_WRITE_ZEROES, 6000, 8, UNMAP), ok)
    const byte = async (sector: number): Promise<number | undefined> => {
      const { data } = await player.read(sector, 512)
      return data.every((each) => each === data[0]) ? data[0] : undefined
    }
    assert.deepEqual([await byte(7), await byte(8), await byte(5007), await byte(5008), await byte(6000), await byte(6007), await byte(6008)], [7, 0, 0, 7, 0, 0, 7])
  }
  assert.equal(asked, 2, 'it is asked each time')
})

test('unmap is told from write zeroes', async () => {
  const disk = new MapDisk()
  const { player } = await served(disk)
  await ranges(player, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, UNMAP)
  await ranges(player, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8)
  assert.deepEqual(disk.calls, ['unmap', 'writeZeroes'])
})

test('what is not whole blocks, or past the end, is an I/O error, and no disk is called', async () => {
  const disk = new MapDisk({ blockSize: 4096, capacity: 1 << 20 })
  const { plane, player } = await served(disk)
  assert.equal(new DataView(plane.config.buffer).getUint32(20, true), 4096)
  for (const [sector, bytes] of [[1, 4096], [0, 512], [0, 4608], [2048, 4096], [2040, 8192]] as const) {
    assert.equal((await player.read(sector, bytes)).status, VIRTIO_BLK_S_IOERR)
    assert.deepEqual(await player.write(sector, new Uint8Array(bytes)), failed)
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_DISCARD, sector, bytes / 512), failed)
    assert.deepEqual(await ranges(player, VIRTIO_BLK_T_WRITE_ZEROES, sector, bytes / 512), failed)
  }
  assert.deepEqual(disk.calls, [])
  assert.equal((await player.read(2040, 4096)).status, VIRTIO_BLK_S_OK)
  assert.equal((await player.read(0, 4608 - 512)).status, VIRTIO_BLK_S_OK)
})

test('segments are the guest\'s memory itself, as the guest framed it, and two where regions meet', async () => {
  const seen: number[][] = []
  const look = (segments: Segments): void => void seen.push(segments.map(({ length }) => length))
  const bytes = sectorPattern(3, 4)
  const written: Buffer[] = []
  const disk: Disk = {
    capacity: 1 << 20,
    read (_offset, segments) {
      look(segments)
      let at = 0
      for (const segment of segments) segment.set(bytes.subarray(at, at += segment.length))
    },
    write (_offset, segments) {
      look(segments)
      written.push(Buffer.concat(segments))
    }
  }
  const { player } = await served(disk, {}, { secondBytes: 1 << 20 })
  const border = player.memory.regions[1]!.guestAddress
  const framed: Segment[] = [{ address: border - 700, length: 1 }, { address: border - 699, length: 1000 }, { address: border + 301, length: 1047 }]
  assert.equal((await player.request(VIRTIO_BLK_T_IN, 3, { writable: framed })).written, 2049)
  assert.deepEqual(player.memory.read(border - 700, 2048), bytes)
  assert.deepEqual(await player.request(VIRTIO_BLK_T_OUT, 3, { readable: framed }), ok)
  assert.deepEqual(seen, [[1, 699, 301, 1047], [1, 699, 301, 1047]])
  assert.ok(written[0]!.equals(bytes))
})

test('resize takes over what the disk says by now', async () => {
  const disk = new MapDisk()
  const grow = new Int32Array(new SharedArrayBuffer(4))
  const growing: readonly (readonly [Disk | DiskModule, grow: () => void])[] = [
    [disk, () => { disk.capacity = 2 << 20 }],
    [mapDiskModule({ grow }), () => Atomics.store(grow, 0, 1)]
  ]
  for (const [made, growNow] of growing) {
    const { plane, player } = await served(made)
    assert.equal((await player.read(2048, 512)).status, VIRTIO_BLK_S_IOERR)
    growNow()
    await plane.resize()
    assert.equal(plane.capacity, 2 << 20)
    assert.equal((await player.read(4095, 512)).status, VIRTIO_BLK_S_OK)
    await assert.rejects(plane.resize(1 << 20), fails('ERR_OPTION', /capacity that it says/))
  }
  const plane = await open(disk)
  disk.capacity = 1000
  await assert.rejects(plane.resize(), fails('ERR_DISK', /capacity.*not 1000/))
  assert.equal(plane.capacity, 2 << 20)
})

/** A disk whose reads never end, and what it is told. */
function hanging (): Disk & { signals: AbortSignal[] } {
  const signals: AbortSignal[] = []
  return {
    signals,
    capacity: 1 << 20,
    read (_offset, _segments, signal) {
      signals.push(signal)
      return new Promise(() => {})
    },
    write () {}
  }
}

for (const [place, disk] of [['on the calling thread', hanging], ['on the data-plane thread', () => oddModule('never settles')]] as const) {
  test(`a disk ${place} whose promise never settles: the stop gives up, says so, and the disk is served on`, async () => {
    const made = disk()
    const { plane, player } = await served(made, { queues: 2 })
    const other = guest()
    await plane.startQueue(1, other.setup)
    void player.read(0, 512)
    await eventually('it is in flight', () => plane.inFlight[0] === 1)
    assert.deepEqual(await other.write(0, new Uint8Array(512)), ok)
    await assert.rejects(plane.drain(SOON), fails('ERR_TIMEOUT', /1 on queue 0/))
    await assert.rejects(plane.pause(SOON), fails('ERR_TIMEOUT', /1 on queue 0/))
    await assert.rejects(plane.stop(SOON), (error) => {
      assert.ok(error instanceof AbandonedError, String(error))
      assert.deepEqual([error.queues, error.inFlight], [[0], [1, 0]])
      return true
    })
    if ('signals' in made) assert.deepEqual(made.signals.map(({ aborted }) => aborted), [true])
    assert.equal(plane.state, 'stopped')
    const next = guest()
    await plane.start([next.setup])
    assert.deepEqual(plane.inFlight, [0, 0])
    assert.deepEqual(await next.write(0, new Uint8Array(512)), ok)
    await plane.drain({ timeout: 60_000 })
    await plane.stop()
    void player
  })

  test(`a disk ${place} whose promise never settles: the close gives up, and the data plane is closed`, async () => {
    const { plane, player } = await served(disk())
    void player.read(0, 512)
    await eventually('it is in flight', () => plane.inFlight[0] === 1)
    await assert.rejects(plane.close(SOON), (error) => error instanceof AbandonedError)
    assert.equal(plane.state, 'closed')
    await assert.rejects(plane.start([player.setup]), fails('ERR_STATE'))
  })
}

test('the stop is enough for a disk that heeds the signal: the guest is told of an I/O error', async () => {
  const here: Disk = {
    capacity: 1 << 20,
    read: (_offset, _segments, signal) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
  }
  for (const disk of [here, oddModule('heeds the signal')]) {
    const problems: DataPlaneError[] = []
    const { plane, player } = await served(disk, { onProblem: (problem) => problems.push(problem) })
    const answers = Array.from({ length: 5 }, () => player.read(0, 512))
    await eventually('they are in flight', () => plane.inFlight[0] === 5)
    const state = (await plane.stop(SOON)).get(0)
    assert.deepEqual(state, { availableIndex: 5, usedIndex: 5 })
    for (const { status } of await Promise.all(answers)) assert.equal(status, VIRTIO_BLK_S_IOERR)
    assert.deepEqual(problems, [])
    // And its next requests are not aborted.
    const next = guest()
    await plane.start([next.setup])
    void next.read(0, 512)
    await eventually('it is in flight', () => plane.inFlight[0] === 1)
    await plane.stop({ signal: AbortSignal.timeout(20) })
  }
})

test('a module that blocks its thread is given up with it: the data plane cannot start again', async () => {
  const { plane, player } = await served(oddModule('blocks'))
  void player.read(0, 512)
  // Until the thread is in it, drains end.
  const stuck = async (): Promise<boolean> => plane.drain(SOON).then(() => false, fails('ERR_TIMEOUT', /a batch being taken in/))
  while (!await stuck());
  await assert.rejects(plane.stop(SOON), (error) => error instanceof AbandonedError)
  await assert.rejects(plane.start([guest().setup]), fails('ERR_ABANDONED', /open another data plane/))
  await plane.close()
  assert.equal(plane.state, 'closed')
})

test('an exception in a timer of a module is the death of its thread, and told', async () => {
  const deaths: DataPlaneError[] = []
  const { plane, player } = await served(oddModule('dies later'), { onDeath: (error) => deaths.push(error) })
  void player.read(0, 512)
  await eventually('the death is told', () => deaths.length > 0)
  assert.ok(fails('ERR_THREAD', /a timer went wrong/)(deaths[0]))
  await assert.rejects(plane.drain(), fails('ERR_THREAD'))
  await assert.rejects(plane.start([player.setup]), fails('ERR_THREAD'))
  await plane.close()
  assert.equal(plane.state, 'closed')
})

test('a module whose openDisk never settles is waited for as long as for any command', async () => {
  const before = Date.now()
  await assert.rejects(DataPlane.open({ disk: oddModule('never opens'), stopTimeout: 0 }), (error) => error instanceof AbandonedError)
  assert.ok(Date.now() - before >= 5000)
})

test('what a module leaves open does not keep its thread', async () => {
  const plane = await open(oddModule('keeps a timer'))
  await plane.close()
  assert.equal(plane.state, 'closed')
})

test('a disk that fails to close fails the close of the data plane, which is closed', async () => {
  const disk: Disk = { capacity: 512, read () {}, close: async () => { throw new Error('the last flush failed') } }
  for (const made of [disk, oddModule('close fails')]) {
    const plane = await open(made)
    await assert.rejects(plane.close(), fails('ERR_DISK', /the disk failed to close: the last flush failed/))
    assert.equal(plane.state, 'closed')
    await plane.close()
  }
})

const refused: readonly (readonly [what: string, module: DiskModule, text: RegExp])[] = [
  ['does not exist', { module: '/no/such/module.js' }, /disk module file:\/\/\/no\/such\/module\.js cannot be loaded: Cannot find module/],
  ['exports no openDisk', { module: new URL('./support/not-a-disk-module.ts', import.meta.url) }, /exports no function openDisk/],
  ['is no JavaScript', { module: 'data:text/javascript,}' }, /cannot be loaded: Unexpected token/],
  ...([['rejects', /openDisk of .* failed: the key is wrong/], ['throws', /failed: no such export/], ['nothing', /cannot be a disk: undefined/],
    ['no capacity', /its capacity is in bytes, whole blocks of 512, one at least: not 1000/]] as const)
    .map(([oddity, text]) => [`opens with: ${oddity}`, oddModule(oddity satisfies Oddity), text] as const)
]
for (const [what, module, text] of refused) {
  test(`a module that ${what} is an error that says so, and leaves nothing behind`, async () => {
    // What the first thread of a process opens stays.
    await (await DataPlane.open({ disk: mapDiskModule() })).close()
    const before = readdirSync('/proc/self/fd').length
    await assert.rejects(DataPlane.open({ disk: module }), fails('ERR_DISK', text))
    assert.equal(readdirSync('/proc/self/fd').length, before)
  })
}

test('what cannot be a disk, and options that do not go with one, are refused', async () => {
  const disk = new MapDisk()
  const cases: readonly (readonly [options: DataPlaneOptions, code: DataPlaneErrorCode, text: RegExp])[] = [
    [{}, 'ERR_OPTION', /a path.*or a disk of your own: not neither/],
    [{ path: '/tmp/x', disk }, 'ERR_OPTION', /not both/],
    [{ disk, direct: true }, 'ERR_OPTION', /direct is for an image/],
    [{ disk, format: 'raw' }, 'ERR_OPTION', /format is for an image/],
    [{ disk, engine: 'sync' }, 'ERR_OPTION', /engine is for an image/],
    [{ disk, lock: 'open' }, 'ERR_OPTION', /lock is for an image/],
    [{ disk, queues: 2, threads: 2 }, 'ERR_OPTION', /one thread: not 2/],
    [{ disk, cpus: [[0]] }, 'ERR_OPTION', /runs on yours/],
    [{ disk: mapDiskModule() }, 'ERR_OPTION', /await DataPlane\.open/],
    [{ disk: { module: 'x', options: () => {} } }, 'ERR_OPTION', /copied to another thread[^]*could not be cloned/],
    [{ disk: null as unknown as Disk }, 'ERR_DISK', /null is none/],
    [{ disk: { ...disk, read: undefined } as unknown as Disk }, 'ERR_DISK', /no method read/],
    [{ disk: { capacity: 512, blockSize: 1000, read () {} } }, 'ERR_DISK', /blockSize is a power of two.*not 1000/],
    [{ disk: { capacity: 1 << 17, blockSize: 1 << 17, read () {} } }, 'ERR_DISK', /blockSize.*not 131072/],
    [{ disk: { capacity: 4608, blockSize: 4096, read () {} } }, 'ERR_DISK', /whole blocks of 4096.*not 4608/],
    [{ disk: { capacity: 0, read () {} } }, 'ERR_DISK', /not 0/],
    [{ disk: { capacity: 2 ** 60, read () {} } }, 'ERR_DISK', /not 115292150460684/]
  ]
  for (const [options, code, text] of cases) assert.throws(() => DataPlane.create(options), fails(code, text))
})

test('a drain that blocks is refused where it would wait for its own thread', async () => {
  const plane = await open(new MapDisk())
  assert.throws(() => plane.drainSync(), fails('ERR_STATE', /await drain/))
  const other = await open(mapDiskModule())
  other.drainSync()
})

test('requests that wait for this thread are served by it: guest and disk share their state', async () => {
  const log: string[] = []
  const disk: Disk = { capacity: 1 << 20, read: () => void log.push('read'), write: async () => void log.push('write') }
  const { plane, player } = await served(disk)
  assert.equal(plane.engine.name, 'disk')
  assert.equal(plane.engineOf(0)?.name, 'disk')
  await player.read(0, 512)
  await player.write(0, new Uint8Array(512))
  assert.deepEqual(log, ['read', 'write'])
})

test('a ring that breaks is told and mended, whatever the disk has in flight', async () => {
  const faults: number[] = []
  let settle!: () => void
  const disk: Disk = { capacity: 1 << 20, read: () => new Promise((resolve) => { settle = resolve }) }
  const { plane, player } = await served(disk, { onFault: (queue) => faults.push(queue) })
  void player.read(0, 512)
  await eventually('it is in flight', () => plane.inFlight[0] === 1)
  // Nowhere to put a status.
  void player.send([{ address: player.header(VIRTIO_BLK_T_IN, 0), length: 16 }], [])
  await eventually('it is told', () => faults.length === 1)
  settle()
  await plane.stopQueue(0)
  const next = guest()
  await plane.startQueue(0, next.setup)
  const read = next.read(0, 512)
  await eventually('it is in flight', () => plane.inFlight[0] === 1)
  settle()
  assert.equal((await read).status, VIRTIO_BLK_S_OK)
})

test('guest memory beyond a window is reached in place', async () => {
  const GIB = 2 ** 30
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: GIB + (1 << 20) }])
  close(fd)
  const { RequestTable } = await import('@node-vmm/ioq')
  const { GuestSegments } = await import('../src/guest-segments.ts')
  const table = new RequestTable(1, 4)
  const address = memory.translate(GIB - 100, 300, true)
  const word = table.prepare(0, 1)
  table.iovecs[word] = address
  table.iovecs[word + 1] = address / 0x100000000
  table.iovecs[word + 2] = 300
  const segments = new GuestSegments(memory).of(0, table)
  assert.deepEqual(segments.map(({ length }) => length), [100, 200])
  for (const [index, segment] of segments.entries()) segment.fill(index + 1)
  assert.deepEqual([memory.getUint8(GIB - 101), memory.getUint8(GIB - 100), memory.getUint8(GIB - 1), memory.getUint8(GIB), memory.getUint8(GIB + 199), memory.getUint8(GIB + 200)], [0, 1, 1, 2, 2, 0])
  table.close()
  memory.release()
})

test.run()
