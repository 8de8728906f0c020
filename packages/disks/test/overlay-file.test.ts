import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { test } from 'uvu'
import { overlayOverFile } from './support/overlay-over-file.ts'
import { PAGE_BYTES, PRESENT } from '../src/overlay-format.ts'
import { randomNumbers } from '../src/random.ts'
import { pattern, read, signal, write } from './support/model.ts'

const CLUSTER = 4096
const SECTOR = 512
const SECTORS = 32 * CLUSTER / SECTOR
const BASE = pattern(SECTORS * SECTOR, 0)

for (let block = 0; block < 10; block++) {
  test(`a power cut keeps what was flushed, and of the rest nothing that was never written (seeds ${block * 40} to ${block * 40 + 39})`, async () => {
    for (let seed = block * 40; seed < block * 40 + 40; seed++) await powerCut(seed)
  })
}

/** Writers and a flusher at once, then the power is cut at any moment, in the middle of anything. */
async function powerCut (seed: number): Promise<void> {
  const random = randomNumbers(seed)
  const { disk, file, reopen } = await overlayOverFile(BASE, CLUSTER, random)
  /** What each sector may have after the cut: what it had at the last flush, and all that came later. */
  const allowed = Array.from({ length: SECTORS }, (_, sector) => [BASE.subarray(sector * SECTOR, (sector + 1) * SECTOR)])
  let isOn = true

  async function writer (lane: number): Promise<void> {
    while (isOn) {
      // Lanes share clusters and no sector.
      const sector = Math.floor(random() * SECTORS / 4) * 4 + lane
      const isZero = random() < 0.3
      const bytes = isZero ? Buffer.alloc(SECTOR) : pattern(SECTOR, Math.floor(random() * 2 ** 32))
      allowed[sector]!.push(bytes)
      if (isZero) await disk.writeZeroes(sector * SECTOR, SECTOR, true, signal)
      else await disk.write(sector * SECTOR, [bytes], signal)
      completed[sector] = allowed[sector]!.length - 1
    }
  }

  const completed: number[] = []
  async function flusher (): Promise<void> {
    while (isOn) {
      for (let turns = Math.floor(random() * 40); turns > 0; turns--) await null
      const before = [...completed]
      await disk.flush()
      if (isOn) before.forEach((index, sector) => forget(sector, index))
    }
  }

  function forget (sector: number, index: number): void {
    allowed[sector]!.splice(0, index)
    completed[sector]! -= index
  }

  const all = Promise.all([writer(0), writer(1), writer(2), writer(3), flusher()])
  for (let turns = 20 + Math.floor(random() * 400); turns > 0; turns--) await null
  const content = file.afterPowerCut()
  isOn = false
  const again = await reopen(content)
  for (let sector = 0; sector < SECTORS; sector++) {
    const found = await read(again, sector * SECTOR, SECTOR)
    ok(allowed[sector]!.some((bytes) => bytes.equals(found)), `seed ${seed}: sector ${sector} has what it never had since the last flush`)
  }
  await all
}

test('flushes that come while one is under way share the next one', async () => {
  const { disk, file } = await overlayOverFile(new Uint8Array(12 * CLUSTER), CLUSTER, randomNumbers(1))
  let syncs = 0
  const sync = file.sync.bind(file)
  file.sync = () => {
    syncs++
    return sync()
  }
  await Promise.all(Array.from({ length: 20 }, () => disk.flush()))
  ok(syncs <= 2, `${syncs} syncs`)
})

test('after a sync that failed nothing is called flushed any more', async () => {
  const { disk, file } = await overlayOverFile(new Uint8Array(12 * CLUSTER), CLUSTER, randomNumbers(1))
  file.failSync = new Error('the disk is on fire')
  await rejects(disk.flush(), /on fire/)
  file.failSync = undefined
  await rejects(disk.flush(), /on fire/)
})

test('a map that could not be written is written by the next flush', async () => {
  const { disk, file, reopen } = await overlayOverFile(new Uint8Array(12 * CLUSTER), CLUSTER, randomNumbers(1))
  const bytes = pattern(CLUSTER, 1)
  await write(disk, 0, bytes)
  file.failWriteAt = (position) => position === PAGE_BYTES ? Object.assign(new Error('full'), { code: 'ENOSPC' }) : undefined
  await rejects(disk.flush(), { code: 'ENOSPC' })
  file.failWriteAt = undefined
  await disk.flush()
  deepEqual(await read(await reopen(file.afterPowerCut()), 0, CLUSTER), bytes)
})

test('a write that failed leaves the cluster as it was', async () => {
  const base = pattern(12 * CLUSTER, 2)
  const { disk, file, overlayFile } = await overlayOverFile(base, CLUSTER, randomNumbers(1))
  file.failWriteAt = () => Object.assign(new Error('full'), { code: 'ENOSPC' })
  await rejects(write(disk, 512, pattern(512, 3)), { code: 'ENOSPC' })
  deepEqual(await read(disk, 0, CLUSTER), base.subarray(0, CLUSTER))
  file.failWriteAt = undefined
  await write(disk, 512, pattern(512, 3))
  equal(overlayFile.map.get(0), PRESENT)
})

test.run()
