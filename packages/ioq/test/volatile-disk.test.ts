import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import { errno, ftruncate } from '@node-vmm/libc'
import { openEngine, REQUEST_DURABLE } from '@node-vmm/ioq'
import { FaultyEngine, VolatileDisk } from '@node-vmm/ioq/testing'
import { availableEngines, Harness, scratchFile } from './support.ts'

const SECTOR = 512
const SEEDS = 24

for (const name of availableEngines()) {
  const test = suite(`VolatileDisk on ${name}`)

  /** Fills a file with 1, has a queue on a volatile disk do something, cuts the power. */
  const cut = (seed: number, body: (harness: Harness, disk: VolatileDisk) => void): Buffer => {
    const file = scratchFile('/dev/shm')
    const disk = new VolatileDisk(file.fd)
    const engine = disk.attach(openEngine(name, { fd: file.fd, depth: 64 }).engine)
    const harness = new Harness(name, file.fd, { engine })
    harness.memory.u8.fill(1, 0, 64 * SECTOR)
    assert.equal(harness.transfer('writev', [[0, 64 * SECTOR]], 0), 64 * SECTOR)
    assert.equal(harness.flush(), 0)
    assert.equal(disk.volatileWrites, 0)
    body(harness, disk)
    disk.powerCut(seed)
    const content = readFileSync(file.path)
    harness.close()
    file.remove()
    return content
  }
  const fill = (harness: Harness, value: number, sector: number, sectors: number, flags = 0): void => {
    harness.memory.u8.fill(value, 0, sectors * SECTOR)
    assert.equal(harness.transfer('writev', [[0, sectors * SECTOR]], sector * SECTOR, flags), sectors * SECTOR)
  }
  /** The value of each sector, which is of one piece. */
  const sectorsOf = (content: Buffer): number[] => Array.from({ length: content.length / SECTOR }, (_, sector) => {
    const bytes = content.subarray(sector * SECTOR, (sector + 1) * SECTOR)
    assert.ok(bytes.every((byte) => byte === bytes[0]), `sector ${sector} is torn`)
    return bytes[0]!
  })

  test('what was not flushed is there, or not, or in part', () => {
    const seen = new Set<string>()
    for (let seed = 0; seed < SEEDS; seed++) {
      const sectors = sectorsOf(cut(seed, (harness) => fill(harness, 2, 8, 8)))
      const kept = sectors.slice(8, 16).filter((value) => value === 2).length
      seen.add(kept === 0 ? 'dropped' : kept === 8 ? 'kept' : 'torn')
      assert.ok(sectors.every((value, sector) => value === 1 || (value === 2 && sector >= 8 && sector < 16)))
    }
    assert.equal(seen.size, 3)
  })

  test('a seed repeats a power cut', () => {
    const once = (seed: number): Buffer => cut(seed, (harness) => { for (let write = 0; write < 8; write++) fill(harness, 2 + write, write * 4, 8) })
    assert.deepEqual(once(3), once(3))
    assert.notDeepEqual(once(3), once(4))
  })

  test('what was flushed stays, and what was durable', () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const sectors = sectorsOf(cut(seed, (harness) => {
        fill(harness, 2, 0, 16)
        assert.equal(harness.flush(), 0)
        fill(harness, 3, 8, 16, REQUEST_DURABLE)
        fill(harness, 4, 20, 16)
      }))
      assert.deepEqual(sectors.slice(0, 20), [...new Array(8).fill(2), ...new Array(12).fill(3)])
      assert.ok(sectors.slice(20, 24).every((value) => value === 3 || value === 4))
      assert.ok(sectors.slice(24, 36).every((value) => value === 1 || value === 4))
    }
  })

  test('nothing older comes back over what is stable', () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const sectors = sectorsOf(cut(seed, (harness) => {
        fill(harness, 2, 0, 4)
        fill(harness, 3, 0, 2, REQUEST_DURABLE)
      }))
      assert.deepEqual(sectors.slice(0, 2), [3, 3])
      assert.ok(sectors.slice(2, 4).every((value) => value <= 2))
    }
  })

  test('of several volatile writes of a sector any one may be what is there', () => {
    const seen = new Set<number>()
    for (let seed = 0; seed < SEEDS; seed++) {
      seen.add(sectorsOf(cut(seed, (harness) => { for (const value of [2, 3, 4]) fill(harness, value, 5, 1) }))[5]!)
    }
    assert.deepEqual([...seen].sort(), [1, 2, 3, 4])
  })

  test('discards and zeroes are volatile too, durable ones are not', () => {
    const seen = [new Set<number>(), new Set<number>()]
    // With Linux AIO each queue starts a thread here.
    for (let seed = 0; seed < 6; seed++) {
      const sectors = sectorsOf(cut(seed, (harness) => {
        assert.equal(harness.writeZeroes(32 * SECTOR, 8 * SECTOR, true, REQUEST_DURABLE), 0)
        assert.equal(harness.writeZeroes(40 * SECTOR, 8 * SECTOR, false, REQUEST_DURABLE), 0)
        assert.equal(harness.discard(0, 8 * SECTOR), 0)
        assert.equal(harness.writeZeroes(16 * SECTOR, 8 * SECTOR, true), 0)
      }))
      seen[0]!.add(sectors[3]!)
      seen[1]!.add(sectors[20]!)
      assert.ok(sectors.slice(32, 48).every((value) => value === 0))
    }
    assert.deepEqual(seen.map((values) => [...values].sort()), [[0, 1], [0, 1]])
  })

  test('a flush covers what had completed when it was submitted', () => {
    const seen = new Set<number>()
    for (let seed = 0; seed < SEEDS; seed++) {
      const file = scratchFile('/dev/shm')
      ftruncate(file.fd, 4 * SECTOR)
      const disk = new VolatileDisk(file.fd)
      // The write is done at once and completes after the flush.
      const engine = disk.attach(new FaultyEngine(openEngine(name, { fd: file.fd, depth: 64 }).engine,
        { rules: [{ operation: 'write', at: 1, fault: { kind: 'late', milliseconds: 3 } }] }))
      const harness = new Harness(name, file.fd, { engine })
      const { queue, memory } = harness
      memory.u8.fill(1, 0, SECTOR)
      assert.equal(harness.transfer('writev', [[0, SECTOR]], 0), SECTOR)
      queue.writev(0, [{ address: memory.address, length: SECTOR }], SECTOR)
      queue.flush(1)
      harness.finish()
      assert.equal(disk.volatileWrites, 1)
      disk.powerCut(seed)
      const sectors = sectorsOf(readFileSync(file.path))
      assert.equal(sectors[0], 1)
      seen.add(sectors[1]!)
      harness.close()
      file.remove()
    }
    assert.deepEqual([...seen].sort(), [0, 1])
  })

  test('a flush that fails makes nothing stable', () => {
    const seen = new Set<number>()
    for (let seed = 0; seed < SEEDS; seed++) {
      const file = scratchFile('/dev/shm')
      ftruncate(file.fd, SECTOR)
      const disk = new VolatileDisk(file.fd)
      const engine = disk.attach(new FaultyEngine(openEngine(name, { fd: file.fd, depth: 64 }).engine,
        { rules: [{ operation: 'flush', fault: { kind: 'error', code: 'EIO' } }] }))
      const harness = new Harness(name, file.fd, { engine })
      fill(harness, 1, 0, 1)
      assert.equal(harness.flush(), -errno.EIO)
      disk.powerCut(seed)
      seen.add(sectorsOf(readFileSync(file.path))[0]!)
      harness.close()
      file.remove()
    }
    assert.deepEqual([...seen].sort(), [0, 1])
  })

  test('engines of one disk share its cache: the flush of one covers the writes of all', () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const file = scratchFile('/dev/shm')
      ftruncate(file.fd, 2 * SECTOR)
      const disk = new VolatileDisk(file.fd)
      const [one, other] = [0, 1].map(() => new Harness(name, file.fd, { engine: disk.attach(openEngine(name, { fd: file.fd, depth: 64 }).engine) })) as [Harness, Harness]
      fill(one, 1, 0, 1)
      fill(other, 2, 1, 1)
      assert.equal(one.flush(), 0)
      assert.deepEqual(disk.powerCut(seed), { kept: 0, dropped: 0, torn: 0 })
      assert.deepEqual(sectorsOf(readFileSync(file.path)), [1, 2])
      one.close()
      other.close()
      file.remove()
    }
  })

  test('after the power cut nothing is done, and everything fails', () => {
    const file = scratchFile('/dev/shm')
    ftruncate(file.fd, SECTOR)
    const disk = new VolatileDisk(file.fd)
    const harness = new Harness(name, file.fd, { engine: disk.attach(openEngine(name, { fd: file.fd, depth: 64 }).engine) })
    const { queue, memory } = harness
    memory.u8.fill(1, 0, SECTOR)
    queue.readv(0, [{ address: memory.address + 4096, length: SECTOR }], 0)
    queue.submit()
    disk.powerCut(1)
    queue.writev(1, [{ address: memory.address, length: SECTOR }], 0)
    queue.flush(2)
    harness.finish()
    // These engines had done it, and the queue knew.
    assert.equal(harness.results.get(0), name === 'sync' || name === 'mapped' ? SECTOR : -errno.EIO)
    assert.equal(harness.results.get(1), -errno.EIO)
    assert.equal(harness.results.get(2), -errno.EIO)
    assert.ok(readFileSync(file.path).every((byte) => byte === 0))
    assert.equal(queue.close(), 0)
    harness.memory.close()
    file.remove()
  })

  test('a journal that flushes between its record and its mark survives every power cut, one that does not, not', () => {
    const broken = (flushes: boolean): number => {
      let lost = 0
      for (let seed = 0; seed < SEEDS; seed++) {
        const sectors = sectorsOf(cut(seed, (harness) => {
          fill(harness, 2, 10, 4)
          if (flushes) assert.equal(harness.flush(), 0)
          fill(harness, 3, 20, 1)
        }))
        if (sectors[20] === 3 && !sectors.slice(10, 14).every((value) => value === 2)) lost++
      }
      return lost
    }
    assert.equal(broken(true), 0)
    assert.ok(broken(false) > 0)
  })

  test.run()
}
