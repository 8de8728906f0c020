import assert from 'node:assert/strict'
import { readFileSync, statSync } from 'node:fs'
import { suite } from 'uvu'
import {
  DataPlane, type DataPlaneOptions, RANGE_SECTORS_MAX, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_WRITE_ZEROES
} from '../src/index.ts'
import { ENGINES, scratchFor } from './support/engines.ts'
import { faulty } from './support/faulty-engine.ts'
import { type Answer, Guest } from './support/guest.ts'
import { sectorPattern } from './support/image.ts'

const SECTORS = 1024

/** A segment of a request: sector, number of sectors, flags. */
type Range = readonly [sector: number | bigint, sectors: number, flags?: number]

function payload (ranges: readonly Range[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(ranges.length * 16))
  ranges.forEach(([sector, sectors, flags = 0], index) => {
    view.setBigUint64(index * 16, BigInt(sector), true)
    view.setUint32(index * 16 + 8, sectors, true)
    view.setUint32(index * 16 + 12, flags, true)
  })
  return new Uint8Array(view.buffer)
}

for (const engine of ENGINES) {
  const test = suite(engine)
  let path: string
  let guest: Guest
  let plane: DataPlane

  async function serve (options: Partial<DataPlaneOptions> = {}): Promise<void> {
    path = scratchFor(engine).image(`${engine}.img`, SECTORS)
    guest = new Guest()
    plane = DataPlane.create({ path, engine, discardSegments: 4, ...options })
    await plane.start([guest.setup])
  }

  test.after.each(async () => {
    await plane.close()
    guest.close()
  })

  async function send (type: number, ranges: readonly Range[], bytes = payload(ranges)): Promise<Answer> {
    const address = guest.allocate(bytes.length)
    guest.memory.write(address, bytes)
    return guest.request(type, 0, { readable: bytes.length === 0 ? [] : [{ address, length: bytes.length }] })
  }

  /** The pattern, with zeros in these ranges. */
  function zeroed (...ranges: readonly (readonly [sector: number, sectors: number])[]): Uint8Array {
    const bytes = sectorPattern(0, SECTORS)
    for (const [sector, sectors] of ranges) bytes.fill(0, sector * 512, (sector + sectors) * 512)
    return bytes
  }

  const done = { status: VIRTIO_BLK_S_OK, written: 1 }

  test(`${engine}: a discard gives the space back, and reads as zeros on a file`, async () => {
    await serve()
    assert.equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
    const before = statSync(path).blocks
    assert.deepEqual(await send(VIRTIO_BLK_T_DISCARD, [[64, 64], [512, 256]]), done)
    assert.deepEqual(new Uint8Array(readFileSync(path)), zeroed([64, 64], [512, 256]))
    assert.equal(statSync(path).size, SECTORS * 512)
    assert.ok(statSync(path).blocks < before, `${statSync(path).blocks} blocks, before ${before}`)
    assert.deepEqual((await guest.read(513, 512)).data, new Uint8Array(512))
  })

  for (const unmap of [0, 1]) {
    test(`${engine}: write zeroes, ${unmap === 1 ? 'giving the space back' : 'keeping the space'}, to single sectors too`, async () => {
      await serve()
      assert.deepEqual(await send(VIRTIO_BLK_T_WRITE_ZEROES, [[1, 1, unmap], [100, 333, unmap], [SECTORS - 1, 1, unmap]]), done)
      assert.deepEqual(new Uint8Array(readFileSync(path)), zeroed([1, 1], [100, 333], [SECTORS - 1, 1]))
      assert.equal(statSync(path).size, SECTORS * 512)
    })
  }

  test(`${engine}: what is wrong with a request is told, and nothing of it is done`, async () => {
    await serve()
    const { IOERR, UNSUPP, OK } = { IOERR: VIRTIO_BLK_S_IOERR, UNSUPP: VIRTIO_BLK_S_UNSUPP, OK: VIRTIO_BLK_S_OK }
    const wrong: readonly (readonly [title: string, types: readonly number[], ranges: readonly Range[], status: number])[] = [
      ['no range', [11, 13], [], IOERR],
      ['one past the end', [11, 13], [[0, 1], [SECTORS - 1, 2]], IOERR],
      ['at the end', [11, 13], [[SECTORS, 1]], IOERR],
      ['a sector whose byte wraps to 0', [11, 13], [[2n ** 55n, 1]], IOERR],
      ['a sum that wraps', [11, 13], [[2n ** 64n - 1n, 2]], IOERR],
      ['more sectors than one range may have', [11, 13], [[0, RANGE_SECTORS_MAX + 1]], IOERR],
      ['more ranges than one request may have', [11, 13], [[0, 1], [1, 1], [2, 1], [3, 1], [4, 1]], UNSUPP],
      ['unmap on a discard', [11], [[0, 1, 1]], UNSUPP],
      ['an unknown flag', [11, 13], [[0, 1], [1, 1, 2]], UNSUPP],
      ['no sectors', [11, 13], [[5, 0], [SECTORS, 0]], OK]
    ]
    for (const [title, types, ranges, status] of wrong) {
      for (const type of types) assert.deepEqual(await send(type, ranges), { status, written: 1 }, `${title}, type ${type}`)
    }
    for (const length of [1, 15, 17, 31]) {
      assert.equal((await send(VIRTIO_BLK_T_DISCARD, [], new Uint8Array(length))).status, IOERR, `${length} bytes of ranges`)
    }
    assert.deepEqual(new Uint8Array(readFileSync(path)), sectorPattern(0, SECTORS))
    assert.deepEqual(plane.inFlight, [0])
  })

  test(`${engine}: many at once, with reads and writes between them, under drains`, async () => {
    await serve()
    const answers: Promise<Answer>[] = []
    for (let index = 0; index < 8; index++) {
      answers.push(send(index % 2 === 0 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES, [[index * 64, 8], [index * 64 + 32, 8]]))
      answers.push(guest.write(index * 64 + 16, sectorPattern(index * 64 + 16, 2)))
      if (index % 3 === 0) await plane.drain({ timeout: 60_000 })
    }
    for (const answer of await Promise.all(answers)) assert.deepEqual(answer, done)
    await plane.drain({ timeout: 60_000 })
    assert.deepEqual(plane.inFlight, [0])
    const expected = zeroed(...Array.from({ length: 16 }, (_, index) => [index * 32, 8] as const))
    assert.deepEqual(new Uint8Array(readFileSync(path)), expected)
  })

  test(`${engine}: with write-through, the flush that follows tells its error`, async () => {
    await serve({ writeThrough: true, engine: faulty({ rules: [{ operation: 'flush', fault: { kind: 'error', code: 'EIO' } }] }, engine) })
    assert.equal((await send(VIRTIO_BLK_T_DISCARD, [[64, 64]])).status, VIRTIO_BLK_S_IOERR)
    assert.equal((await send(VIRTIO_BLK_T_WRITE_ZEROES, [[64, 64]])).status, VIRTIO_BLK_S_IOERR)
    await plane.drain({ timeout: 60_000 })
  })

  if (engine === 'io_uring') {
    test('a read-only disk refuses both; one that does not offer them does not know them', async () => {
      await serve({ readOnly: true })
      for (const type of [11, 13]) assert.equal((await send(type, [[0, 1]])).status, VIRTIO_BLK_S_IOERR)
      await plane.close()
      guest.close()
      await serve({ discardSegments: 0 })
      for (const type of [11, 13]) assert.deepEqual(await send(type, [[0, 1]]), { status: VIRTIO_BLK_S_UNSUPP, written: 1 })
      assert.deepEqual(new Uint8Array(readFileSync(path)), sectorPattern(0, SECTORS))
    })
  }

  test.run()
}
