import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { type EngineName } from '@node-vmm/ioq'
import { VIRTQ_DESC_F_WRITE, type VringFault } from '@node-vmm/vring'
import { RING_FULL, type Segment } from '@node-vmm/vring/driver'
import { suite } from 'uvu'
import {
  DataPlane, type DataPlaneOptions, SECTOR_BYTES, VIRTIO_BLK_F_RO, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_BARRIER, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
} from '../src/index.ts'
import { Guest } from './support/guest.ts'
import { Scratch, sectorPattern } from './support/image.ts'

const SECTORS = 4096
const SERIAL = 'serial-0123456789abc'
const ENGINES: readonly EngineName[] = ['io_uring', 'linux-aio', 'sync']
const scratch = new Scratch()
process.on('exit', () => scratch.remove())

const ends: (() => Promise<void>)[] = []

/** Takes down everything that was served. */
async function endAll (): Promise<void> {
  for (const end of ends.splice(0).reverse()) await end()
}

/** A running data plane with a guest on each queue. */
async function serve (guests: readonly Guest[], options: Partial<DataPlaneOptions> & { path: string }): Promise<DataPlane> {
  for (const guest of guests) ends.push(async () => guest.close())
  const plane = DataPlane.create({ queues: guests.length, serial: SERIAL, ...options })
  ends.push(() => plane.close())
  await plane.start(guests.map((guest) => guest.setup))
  return plane
}

for (const engine of ENGINES) for (const eventIdx of [true, false]) serveEverything(engine, eventIdx)

/** The tests that share one data plane: none of them breaks it. Queue 0 has direct chains, queue 1 indirect ones. */
function serveEverything (engine: EngineName, eventIdx: boolean): void {
  const label = `${engine}, ${eventIdx ? 'with' : 'without'} EVENT_IDX`
  const test = suite(label)
  const name = `${engine}-${eventIdx}.img`
  let path: string
  let guest: Guest
  let indirect: Guest
  let plane: DataPlane

  test.before(async () => {
    path = scratch.image(name, SECTORS)
    guest = new Guest({ size: 128, eventIdx, secondBytes: 1 << 20 })
    indirect = new Guest({ size: 32, eventIdx, indirect: true })
    plane = await serve([guest, indirect], { path, engine })
  })
  test.after(endAll)

  /** A test that gives back the guest memory it uses. */
  const check = (title: string, body: () => Promise<void>): void => test(`${label}: ${title}`, () => guest.withMemory(() => indirect.withMemory(body)))
  const fill = (address: number, length: number, byte = 0xa5): void => guest.memory.write(address, new Uint8Array(length).fill(byte))

  check('the engine is the one that was asked for', async () => {
    assert.equal(plane.engineOf(0)!.name, engine)
    assert.deepEqual(plane.engineOf(0)!.rejected, [])
  })

  check('a read gives the bytes of the file', async () => {
    const { status, written, data } = await guest.read(17, 8 * SECTOR_BYTES)
    assert.equal(status, VIRTIO_BLK_S_OK)
    assert.equal(written, 8 * SECTOR_BYTES + 1)
    assert.deepEqual(data, sectorPattern(17, 8))
  })

  check('a write reaches the file', async () => {
    const bytes = sectorPattern(100, 5, 1)
    assert.deepEqual(await guest.write(100, bytes), { status: VIRTIO_BLK_S_OK, written: 1 })
    assert.deepEqual(scratch.sectors(path, 99, 7), Uint8Array.from([...sectorPattern(99, 1), ...bytes, ...sectorPattern(105, 1)]))
  })

  check('a flush succeeds, whatever its sector', async () => {
    assert.deepEqual(await guest.flush(), { status: VIRTIO_BLK_S_OK, written: 1 })
    assert.deepEqual(await guest.request(VIRTIO_BLK_T_FLUSH, 2n ** 64n - 1n), { status: VIRTIO_BLK_S_OK, written: 1 })
  })

  for (const [length, written] of [[1, 1], [19, 19], [20, 20], [64, 20]] as const) {
    check(`GET_ID into ${length} bytes writes ${written}`, async () => {
      const address = guest.allocate(length)
      fill(address, length)
      const answer = await guest.request(VIRTIO_BLK_T_GET_ID, 0, { writable: [{ address, length }] })
      assert.deepEqual(answer, { status: VIRTIO_BLK_S_OK, written: written + 1 })
      const expected = new Uint8Array(length).fill(0xa5)
      expected.set(Buffer.from(SERIAL).subarray(0, written))
      assert.deepEqual(guest.memory.read(address, length), expected)
    })
  }

  check('GET_ID into a buffer in pieces', async () => {
    const address = guest.allocate(64)
    const writable = [{ address, length: 3 }, { address: address + 8, length: 16 }, { address: address + 32, length: 1 }]
    assert.deepEqual(await guest.request(VIRTIO_BLK_T_GET_ID, 0, { writable }), { status: VIRTIO_BLK_S_OK, written: 21 })
    assert.equal(writable.map((segment) => Buffer.from(guest.memory.read(segment.address, segment.length)).toString()).join(''), SERIAL)
  })

  for (const [type, title] of [[2, 'SCSI_CMD'], [14, 'SECURE_ERASE'], [15, 'ZONE_APPEND'], [3, 'an odd one'], [0x7fffffff, 'nonsense']] as const) {
    check(`type ${type} (${title}) is unsupported, and touches no data`, async () => {
      const address = guest.allocate(SECTOR_BYTES)
      fill(address, SECTOR_BYTES)
      for (const data of [{ writable: [{ address, length: SECTOR_BYTES }] }, { readable: [{ address, length: SECTOR_BYTES }] }]) {
        assert.deepEqual(await guest.request(type, 0, data), { status: VIRTIO_BLK_S_UNSUPP, written: 1 })
      }
      assert.ok(guest.memory.read(address, SECTOR_BYTES).every((byte) => byte === 0xa5))
      assert.deepEqual(scratch.sectors(path, 0, 1), sectorPattern(0, 1))
    })
  }

  check('the barrier bit of old Linux drivers is masked', async () => {
    const bytes = sectorPattern(200, 1, 2)
    const address = guest.allocate(SECTOR_BYTES)
    guest.memory.write(address, bytes)
    const answer = await guest.request(VIRTIO_BLK_T_OUT + VIRTIO_BLK_T_BARRIER, 200, { readable: [{ address, length: SECTOR_BYTES }] })
    assert.deepEqual(answer, { status: VIRTIO_BLK_S_OK, written: 1 })
    assert.deepEqual(scratch.sectors(path, 200, 1), bytes)
  })

  for (const pieces of [2, 3, 5, 16]) {
    check(`a header in ${pieces} descriptors`, async () => {
      const header = guest.header(VIRTIO_BLK_T_IN, 33)
      const data = guest.allocate(SECTOR_BYTES)
      const status = guest.allocate(1)
      const written = await guest.send(split(header, 16, pieces), [{ address: data, length: SECTOR_BYTES }, { address: status, length: 1 }])
      assert.equal(written, SECTOR_BYTES + 1)
      assert.equal(guest.memory.getUint8(status), VIRTIO_BLK_S_OK)
      assert.deepEqual(guest.memory.read(data, SECTOR_BYTES), sectorPattern(33, 1))
    })
  }

  check('a read whose status shares the descriptor of the data', async () => {
    const data = guest.allocate(2 * SECTOR_BYTES + 1)
    const written = await guest.send([{ address: guest.header(VIRTIO_BLK_T_IN, 40), length: 16 }], [{ address: data, length: 2 * SECTOR_BYTES + 1 }])
    assert.equal(written, 2 * SECTOR_BYTES + 1)
    assert.deepEqual(guest.memory.read(data, 2 * SECTOR_BYTES), sectorPattern(40, 2))
    assert.equal(guest.memory.getUint8(data + 2 * SECTOR_BYTES), VIRTIO_BLK_S_OK)
  })

  check('a write in two descriptors: header with data, status', async () => {
    const bytes = sectorPattern(210, 3, 3)
    const buffer = guest.allocate(16 + bytes.length)
    guest.memory.write(buffer, guest.memory.read(guest.header(VIRTIO_BLK_T_OUT, 210), 16))
    guest.memory.write(buffer + 16, bytes)
    const status = guest.allocate(1)
    assert.equal(await guest.send([{ address: buffer, length: 16 + bytes.length }], [{ address: status, length: 1 }]), 1)
    assert.equal(guest.memory.getUint8(status), VIRTIO_BLK_S_OK)
    assert.deepEqual(scratch.sectors(path, 210, 3), bytes)
  })

  check('the status is the last byte of a longer writable part', async () => {
    const tail = guest.allocate(8)
    fill(tail, 8)
    assert.equal(await guest.send([{ address: guest.header(VIRTIO_BLK_T_FLUSH, 0), length: 16 }], [{ address: tail, length: 3 }, { address: tail + 3, length: 4 }]), 1)
    assert.deepEqual([...guest.memory.read(tail, 8)], [0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, VIRTIO_BLK_S_OK, 0xa5])
  })

  for (const segments of [1, 2, 3, 8, 9, 61, 100, 126]) {
    check(`data in ${segments} segments, direct and indirect`, async () => {
      for (const [index, each] of [guest, indirect].entries()) {
        const sectors = 256
        const sector = 1000 + index * 256
        const bytes = sectorPattern(sector, sectors, segments)
        const source = each.allocate(bytes.length + segments * 16)
        const target = each.allocate(bytes.length + segments * 16)
        const readable = unevenly(source, bytes.length, segments)
        const writable = unevenly(target, bytes.length, segments)
        let at = 0
        for (const { address, length } of readable) each.memory.write(address, bytes.subarray(at, at += length))
        assert.deepEqual(await each.request(VIRTIO_BLK_T_OUT, sector, { readable }), { status: VIRTIO_BLK_S_OK, written: 1 })
        assert.ok(Buffer.compare(scratch.sectors(path, sector, sectors), bytes) === 0, 'the file has what was written')
        assert.deepEqual(await each.request(VIRTIO_BLK_T_IN, sector, { writable }), { status: VIRTIO_BLK_S_OK, written: bytes.length + 1 })
        const read = Buffer.concat(writable.map((segment) => each.memory.read(segment.address, segment.length)))
        assert.ok(Buffer.compare(read, bytes) === 0, 'what was written is read')
      }
    })
  }

  check('a descriptor without bytes among the data', async () => {
    const address = guest.allocate(SECTOR_BYTES)
    const writable = [{ address, length: 100 }, { address: 0, length: 0 }, { address: address + 100, length: SECTOR_BYTES - 100 }]
    assert.deepEqual(await guest.request(VIRTIO_BLK_T_IN, 50, { writable }), { status: VIRTIO_BLK_S_OK, written: SECTOR_BYTES + 1 })
    assert.deepEqual(guest.memory.read(address, SECTOR_BYTES), sectorPattern(50, 1))
  })

  check('header, data and status that straddle two regions', async () => {
    const border = guest.memory.regions[1]!.guestAddress
    const header = guest.header(VIRTIO_BLK_T_OUT, 220)
    const status = guest.allocate(1)
    const bytes = sectorPattern(220, 2, 4)
    guest.memory.write(border - 300, bytes)
    assert.equal(await guest.send([{ address: header, length: 16 }, { address: border - 300, length: bytes.length }], [{ address: status, length: 1 }]), 1)
    assert.deepEqual(scratch.sectors(path, 220, 2), bytes)
    // The header in both, and data with the status as its last byte, the first one behind the border.
    guest.memory.write(border - 5, guest.memory.read(guest.header(VIRTIO_BLK_T_IN, 220), 16))
    const copy = border - 2 * SECTOR_BYTES
    const straddling = { address: border - 5, length: 16 }
    const second = { address: border + 4096 - 1024, length: 1025 }
    assert.equal(await guest.send([straddling], [second]), 1025)
    assert.deepEqual(guest.memory.read(second.address, 1024), bytes)
    assert.equal(await guest.send([{ address: guest.header(VIRTIO_BLK_T_IN, 220), length: 16 }], [{ address: copy, length: 1025 }]), 1025)
    assert.deepEqual(guest.memory.read(copy, 1024), bytes)
    assert.equal(guest.memory.getUint8(border), VIRTIO_BLK_S_OK)
  })

  const ranges: readonly (readonly [title: string, sector: number | bigint, length: number, status: number])[] = [
    ['the last sector', SECTORS - 1, 512, VIRTIO_BLK_S_OK],
    ['one past the end', SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR],
    ['at the end', SECTORS, 512, VIRTIO_BLK_S_IOERR],
    ['where sector × 512 wraps to 0', 2n ** 55n, 512, VIRTIO_BLK_S_IOERR],
    ['where sector + count wraps', 2n ** 64n - 1n, 1024, VIRTIO_BLK_S_IOERR],
    ['where sector × 512 is not exact', 2n ** 53n - 1n, 512, VIRTIO_BLK_S_IOERR],
    ['whose low half is 0', 2n ** 32n, 512, VIRTIO_BLK_S_IOERR],
    ['with 1 byte', 0, 1, VIRTIO_BLK_S_IOERR],
    ['with 511 bytes', 0, 511, VIRTIO_BLK_S_IOERR],
    ['with 513 bytes', 0, 513, VIRTIO_BLK_S_IOERR],
    ['with no bytes', 0, 0, VIRTIO_BLK_S_OK],
    ['with no bytes at the end', SECTORS, 0, VIRTIO_BLK_S_OK],
    ['with no bytes past the end', SECTORS + 1, 0, VIRTIO_BLK_S_IOERR]
  ]
  for (const [title, sector, length, status] of ranges) {
    check(`a read and a write ${title}: status ${status}`, async () => {
      const before = readFileSync(path)
      const address = guest.allocate(1024)
      fill(address, 1024)
      const data = length === 0 ? [] : [{ address, length }]
      const read = await guest.request(VIRTIO_BLK_T_IN, sector, { writable: data })
      assert.deepEqual(read, { status, written: status === VIRTIO_BLK_S_OK ? length + 1 : 1 })
      if (status !== VIRTIO_BLK_S_OK) assert.ok(guest.memory.read(address, 1024).every((byte) => byte === 0xa5), 'no data was written to the guest')
      assert.deepEqual(await guest.request(VIRTIO_BLK_T_OUT, sector, { readable: data }), { status, written: 1 })
      if (status !== VIRTIO_BLK_S_OK) assert.ok(before.equals(readFileSync(path)), 'the file is as it was')
    })
  }

  check('hundreds in flight at once, all with the right bytes', async () => {
    const version = 7
    for (const each of [guest, indirect]) {
      await each.withMemory(async () => {
        const base = each === guest ? 2048 : 3072
        const atOnce = each === guest ? 32 : 32
        for (let round = 0; round < 8; round++) {
          const slots = Array.from({ length: atOnce }, (_, slot) => ({ sector: base + ((round * 7 + slot * 5) % 128) * 8, slot }))
          await each.withMemory(async () => {
            const writes = slots.map(({ sector }) => each.write(sector, sectorPattern(sector, 8, version + round)))
            assert.ok((await Promise.all(writes)).every(({ status, written }) => status === VIRTIO_BLK_S_OK && written === 1))
            const reads = await Promise.all(slots.map(async ({ sector }) => ({ sector, ...await each.read(sector, 8 * SECTOR_BYTES) })))
            for (const { sector, status, data } of reads) {
              assert.equal(status, VIRTIO_BLK_S_OK)
              assert.deepEqual(data, sectorPattern(sector, 8, version + round))
              assert.deepEqual(scratch.sectors(path, sector, 8), data)
            }
          })
        }
      })
    }
    assert.deepEqual(plane.inFlight, [0, 0])
  })

  check('a failed request counts as an error, and the bytes that moved are counted', async () => {
    const before = plane.statistics(0)
    await guest.read(SECTORS, 512)
    await guest.read(0, 1024)
    await guest.write(300, sectorPattern(300, 3))
    const now = plane.statistics(0)
    assert.deepEqual(
      [now.requests - before.requests, now.errors - before.errors, now.bytesRead - before.bytesRead, now.bytesWritten - before.bytesWritten],
      [3, 1, 1024, 1536])
  })

  test.run()
}

{
  const test = suite('one data plane a test')
  test.after.each(endAll)

  for (const acknowledged of [true, false]) {
    test(`a read-only disk ${acknowledged ? 'that the guest knows to be so' : 'whose guest did not look'}: writes fail, all else works`, async () => {
      const path = scratch.image('read-only.img', 64)
      const guest = new Guest({ features: acknowledged ? 1n << BigInt(VIRTIO_BLK_F_RO) : 0n })
      await serve([guest], { path, readOnly: true })
      assert.deepEqual(await guest.write(3, sectorPattern(3, 1, 9)), { status: VIRTIO_BLK_S_IOERR, written: 1 })
      assert.deepEqual(await guest.request(VIRTIO_BLK_T_OUT, 3), { status: VIRTIO_BLK_S_IOERR, written: 1 })
      assert.deepEqual(await guest.flush(), { status: VIRTIO_BLK_S_OK, written: 1 })
      assert.equal(Buffer.from((await guest.getId()).id).toString(), SERIAL)
      assert.deepEqual((await guest.read(3, 512)).data, sectorPattern(3, 1))
      assert.deepEqual(scratch.sectors(path, 0, 64), sectorPattern(0, 64))
      })
  }

  test('a short serial number is padded with zeros', async () => {
    const guest = new Guest()
    await serve([guest], { path: scratch.image('serial.img', 8), serial: 'é1' })
    const { id, written } = await guest.getId(20)
    assert.deepEqual(Buffer.from(id), Buffer.concat([Buffer.from('é1'), Buffer.alloc(17)]))
    assert.equal(written, 21)
  })

  for (const [size, eventIdx] of [[256, true], [256, false], [1024, true]] as const) {
    test(`a ring of ${size} full of writes and reads, ${eventIdx ? 'with' : 'without'} EVENT_IDX`, async () => {
      const path = scratch.image('full.img', 8192)
      const guest = new Guest({ size, eventIdx, indirect: true, memoryBytes: 32 << 20 })
      const plane = await serve([guest], { path })
      const sectors = Array.from({ length: size }, (_, index) => index * 7 % size * 8)
      const writes = await Promise.all(sectors.map((sector) => guest.write(sector, sectorPattern(sector, 8, 1))))
      assert.ok(writes.every(({ status, written }) => status === VIRTIO_BLK_S_OK && written === 1))
      const expected = sectorPattern(0, 8192)
      for (const sector of sectors) expected.set(sectorPattern(sector, 8, 1), sector * SECTOR_BYTES)
      assert.ok(Buffer.compare(readFileSync(path), expected) === 0)
      const reads = await Promise.all(sectors.map(async (sector) => ({ sector, ...await guest.read(sector, 4096) })))
      for (const { sector, data } of reads) assert.deepEqual(data, sectorPattern(sector, 8, 1))
      assert.equal(plane.statistics(0).requests, 2 * size)
      })
  }

  test('a queue of one entry is served, by an indirect chain', async () => {
    const guest = new Guest({ size: 1, indirect: true })
    await serve([guest], { path: scratch.image('one.img', 64) })
    for (let sector = 0; sector < 10; sector++) assert.deepEqual((await guest.read(sector, 512)).data, sectorPattern(sector, 1))
  })

  test('a guest that polls is not interrupted, with and without EVENT_IDX', async () => {
    for (const eventIdx of [true, false]) {
      const guest = new Guest({ eventIdx })
      const plane = await serve([guest], { path: scratch.image('polls.img', 64) })
      await guest.flush()
      const { interrupts } = plane.statistics(0)
      guest.ring.disableInterrupts()
      const flushes = Promise.all([guest.flush(), guest.flush()])
      while (guest.ring.inFlight > 0) {
        guest.take()
        await new Promise((resolve) => setImmediate(resolve))
      }
      await flushes
      assert.equal(plane.statistics(0).interrupts, interrupts)
      await endAll()
    }
  })

  test('a guest without a call descriptor polls', async () => {
    const guest = new Guest()
    const plane = DataPlane.create({ path: scratch.image('no-call.img', 64) })
    await plane.start([{ ...guest.setup, callFd: undefined, errorFd: undefined }])
    const answer = guest.read(5, 512)
    while (guest.ring.inFlight > 0) {
      guest.take()
      await new Promise((resolve) => setImmediate(resolve))
    }
    assert.deepEqual((await answer).data, sectorPattern(5, 1))
    assert.equal(plane.statistics(0).interrupts, 0)
    await plane.close()
    guest.close()
  })

  /** What breaks a ring: chains as a driver must not make them. */
  const breakers: readonly (readonly [title: string, chain: (guest: Guest) => { address: number, length: number, flags?: number }[], code: string])[] = [
    ['without a status byte', (guest) => [{ address: guest.header(VIRTIO_BLK_T_OUT, 0), length: 528 }], 'device-refused'],
    ['with a header of 15 bytes', (guest) => [
      { address: guest.header(VIRTIO_BLK_T_IN, 0), length: 15 },
      { address: guest.allocate(513), length: 513, flags: VIRTQ_DESC_F_WRITE }
    ], 'device-refused'],
    ['with nothing to read', (guest) => [{ address: guest.allocate(513), length: 513, flags: VIRTQ_DESC_F_WRITE }], 'device-refused'],
    ['outside guest memory', (guest) => [
      { address: guest.header(VIRTIO_BLK_T_IN, 0), length: 16 },
      { address: 0x7fff0000, length: 513, flags: VIRTQ_DESC_F_WRITE }
    ], 'address-unmapped']
  ]
  test('a malformed request breaks its ring, once; the other queue goes on, and after a reset so does this one', async () => {
    const [guest, other] = [new Guest(), new Guest()]
    const faults: [number, VringFault][] = []
    const plane = await serve([guest, other], { path: scratch.image('broken.img', 64), onFault: (queue, fault) => faults.push([queue, fault]) })
    for (const [title, chain, code] of breakers) {
      guest.raw.available(guest.raw.chain(chain(guest)))
      guest.kick.notify()
      await until(() => faults.length > 0)
      assert.deepEqual(faults.map(([queue, fault]) => [queue, fault.code, fault.head]), [[0, code, 0]], title)
      assert.equal(guest.error.clear(), true, title)
      // Kicks and valid chains change nothing any more.
      for (let kick = 0; kick < 3; kick++) {
        guest.raw.available(guest.raw.chain([
          { address: guest.header(VIRTIO_BLK_T_FLUSH, 0), length: 16 },
          { address: guest.allocate(1), length: 1, flags: VIRTQ_DESC_F_WRITE }
        ], 8))
        guest.kick.notify()
        assert.deepEqual((await other.read(9, 512)).data, sectorPattern(9, 1))
      }
      await plane.drain({ timeout: 5000 })
      assert.equal(faults.splice(0).length, 1, title)
      assert.equal(guest.error.clear(), false, title)
      assert.equal(other.error.clear(), false, title)
      assert.equal(guest.raw.getUsedIndex(), 0, title)

      await plane.stopQueue(0)
      guest.resetRing()
      await plane.startQueue(0, guest.setup)
      assert.deepEqual((await guest.read(11, 512)).data, sectorPattern(11, 1), title)
      assert.equal(faults.length, 0, title)
      await plane.stopQueue(0)
      guest.resetRing()
      await plane.startQueue(0, guest.setup)
    }
    assert.equal(plane.statistics(0).requests, breakers.length)
  })

  test('what is in flight when a ring breaks is completed on the disk, and shown to nobody', async () => {
    const path = scratch.image('broken-in-flight.img', 64)
    const guest = new Guest()
    const faults: VringFault[] = []
    const plane = await serve([guest], { path, onFault: (_, fault) => faults.push(fault) })
    const bytes = sectorPattern(7, 1, 3)
    const data = guest.allocate(512)
    guest.memory.write(data, bytes)
    guest.raw.chain([
      { address: guest.header(VIRTIO_BLK_T_OUT, 7), length: 16 },
      { address: data, length: 512 },
      { address: guest.allocate(1), length: 1, flags: VIRTQ_DESC_F_WRITE }
    ])
    guest.raw.descriptor(5, { address: data, length: 4 })
    guest.raw.available(0, 5)
    guest.kick.notify()
    await until(() => faults.length > 0)
    await plane.drain({ timeout: 5000 })
    assert.deepEqual(scratch.sectors(path, 7, 1), bytes)
    assert.equal(guest.raw.getUsedIndex(), 0)
    assert.deepEqual((await plane.stop()).get(0), { availableIndex: 2, usedIndex: 0 })
  })

  test('a guest that fills its ring with requests that finish at once does not keep the thread from others', async () => {
    const [noisy, quiet] = [new Guest({ size: 64 }), new Guest()]
    await serve([noisy, quiet], { path: scratch.image('noisy.img', 64) })
    const id = noisy.allocate(32)
    const header = noisy.header(VIRTIO_BLK_T_GET_ID, 0)
    let sent = 0
    let stop = false
    const noise = async (): Promise<void> => {
      while (!stop) {
        noisy.take()
        while (noisy.ring.add([{ address: header, length: 16 }], [{ address: id, length: 21 }]) !== RING_FULL) sent++
        noisy.ring.publish()
        if (noisy.ring.needsKick()) noisy.kick.notify()
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
    const running = noise()
    for (let round = 0; round < 50; round++) assert.deepEqual((await quiet.read(round, 512)).data, sectorPattern(round, 1))
    stop = true
    await running
    assert.ok(sent > 64, `${sent} requests were sent meanwhile`)
  })

  for (const engine of ENGINES) {
    test(`O_DIRECT by ${engine}: buffers and segments that are not aligned`, async () => {
      const path = scratch.image('direct.img', 4096)
      const guest = new Guest({ size: 128 })
      try {
        await DataPlane.create({ path, direct: true }).close()
      } catch (error) {
        console.log(`skipped: ${(error as Error).message}`)
        return guest.close()
      }
      await serve([guest], { path, engine, direct: true })
      for (const shift of [0, 4, 4095]) {
        for (const sectors of [1, 8, 64, 2100]) {
          await guest.withMemory(async () => {
            const length = sectors * SECTOR_BYTES
            const [source, target] = [guest.allocate(length + 4096) + shift, guest.allocate(length + 4096) + shift]
            const bytes = sectorPattern(9, sectors, shift)
            guest.memory.write(source, bytes)
            const title = `${sectors} sectors at + ${shift}`
            assert.deepEqual(await guest.request(VIRTIO_BLK_T_OUT, 9, { readable: [{ address: source, length }] }), { status: VIRTIO_BLK_S_OK, written: 1 }, title)
            assert.deepEqual(scratch.sectors(path, 8, sectors + 2), Uint8Array.from(Buffer.concat([sectorPattern(8, 1), bytes, sectorPattern(9 + sectors, 1)])), title)
            assert.deepEqual(await guest.request(VIRTIO_BLK_T_IN, 9, { writable: [{ address: target, length }] }), { status: VIRTIO_BLK_S_OK, written: length + 1 }, title)
            assert.deepEqual(guest.memory.read(target, length), bytes, title)
            const pieces = unevenly(target, length - 16, 23)
            const tail = guest.allocate(16)
            const answer = await guest.request(VIRTIO_BLK_T_IN, 9, { writable: [...pieces, { address: tail, length: 16 }] })
            assert.deepEqual(answer, { status: VIRTIO_BLK_S_OK, written: length + 1 }, title)
            assert.deepEqual(Buffer.concat([...pieces, { address: tail, length: 16 }].map((piece) => guest.memory.read(piece.address, piece.length))), Buffer.from(bytes), title)
            guest.memory.write(source, sectorPattern(9, sectors))
            assert.equal((await guest.request(VIRTIO_BLK_T_OUT, 9, { readable: [{ address: source, length }] })).status, VIRTIO_BLK_S_OK, title)
          })
        }
      }
      assert.deepEqual(scratch.sectors(path, 0, 4096), sectorPattern(0, 4096))
    })
  }

  test.run()
}

function split (address: number, length: number, pieces: number): Segment[] {
  return Array.from({ length: pieces }, (_, piece) => {
    const from = Math.floor(piece * length / pieces)
    return { address: address + from, length: Math.floor((piece + 1) * length / pieces) - from }
  })
}

/** Segments of odd sizes at odd addresses that hold this many bytes together. */
function unevenly (address: number, bytes: number, segments: number): Segment[] {
  const each = Math.floor(bytes / segments)
  let at = address
  let left = bytes
  return Array.from({ length: segments }, (_, index) => {
    const length = index === segments - 1 ? left : each - 7 + index * 3 % 15
    const segment = { address: at, length }
    at += length + 1 + index % 13
    left -= length
    return segment
  })
}

async function until (condition: () => boolean): Promise<void> {
  const end = Date.now() + 5000
  while (!condition()) {
    assert.ok(Date.now() < end, 'in time')
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}
