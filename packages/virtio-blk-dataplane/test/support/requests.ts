import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import type { EngineName } from '@node-vmm/ioq'
import type { Segment } from '@node-vmm/vring/driver'
import { suite } from 'uvu'
import {
  DataPlane, type DataPlaneOptions, SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_BARRIER,
  VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
} from '../../src/index.ts'
import { scratchFor } from './engines.ts'
import { Guest, type GuestOptions } from './guest.ts'
import { Scratch, sectorPattern } from './image.ts'

const SECTORS = 4096
export const SERIAL = 'serial-0123456789abc'
export const scratch = new Scratch()
process.on('exit', () => scratch.remove())

/** What takes down what was served, in the order in which it was set up. */
export const ends: (() => Promise<void>)[] = []

/** Takes down everything that was served. */
export async function endAll (): Promise<void> {
  // Who was answered looks at guest memory, which is unmapped next.
  await new Promise((resolve) => setImmediate(resolve))
  for (const end of ends.splice(0).reverse()) await end()
}

/** A running data plane with a guest on each queue. */
export async function serve (guests: readonly Guest[], options: Partial<DataPlaneOptions> & { path: string }): Promise<DataPlane> {
  for (const guest of guests) ends.push(async () => guest.close())
  const plane = DataPlane.create({ queues: guests.length, serial: SERIAL, ...options })
  ends.push(() => plane.close())
  await plane.start(guests.map((guest) => guest.setup))
  return plane
}

/** How a guest is served. */
export interface RequestsOptions extends Pick<GuestOptions, 'eventIdx' | 'packed' | 'inOrder'> {
  readonly engine: EngineName
  readonly eventIdx: boolean
}

/**
 * Defines and runs the tests of requests that leave a data plane well: all share one. Queue 0 has direct chains, queue 1
 * indirect ones.
 */
export function testRequests ({ engine, ...guestOptions }: RequestsOptions): void {
  const { eventIdx, packed = false, inOrder = false } = guestOptions
  const label = `${engine}, ${packed ? 'packed' : 'split'} ring${inOrder ? ' in order' : ''}, ${eventIdx ? 'with' : 'without'} EVENT_IDX`
  const test = suite(label)
  let path: string
  let guest: Guest
  let indirect: Guest
  let plane: DataPlane

  test.before(async () => {
    path = scratchFor(engine).image(`${label}.img`, SECTORS)
    guest = new Guest({ ...guestOptions, size: 128, secondBytes: 1 << 20 })
    indirect = new Guest({ ...guestOptions, size: 32, indirect: true })
    plane = await serve([guest, indirect], { path, engine, packed, inOrder })
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

function split (address: number, length: number, pieces: number): Segment[] {
  return Array.from({ length: pieces }, (_, piece) => {
    const from = Math.floor(piece * length / pieces)
    return { address: address + from, length: Math.floor((piece + 1) * length / pieces) - from }
  })
}

/** Segments of odd sizes at odd addresses that hold this many bytes together. */
export function unevenly (address: number, bytes: number, segments: number): Segment[] {
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

