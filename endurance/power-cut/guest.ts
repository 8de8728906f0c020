// A guest that writes, flushes, and remembers what it was told.
import type { BlockDriver } from '@node-vmm/virtio-blk-driver'
import { randomNumbers } from '../../packages/ioq/src/random.ts'
import type { History } from './history.ts'
import type { Plan } from './plan.ts'
import { content, SECTOR_BYTES } from './sectors.ts'

/** The longest request, in sectors. */
const LONGEST = 32

/** Sends requests, so many at once, until the disk is gone. @param onRequest told of each that was acknowledged */
export async function loadUntilGone (driver: BlockDriver, history: History, { depth, seed, flushShare }: Plan, onRequest: () => void = () => {}): Promise<void> {
  await Promise.all(Array.from({ length: depth }, async (_, slot) => {
    const random = randomNumbers(seed ^ Math.imul(slot + 1, 0x9e3779b1))
    try {
      for (;;) {
        if (random() < flushShare) await flush(driver, history)
        else await request(driver, history, random)
        onRequest()
      }
    } catch (error) {
      if ((error as { code?: string }).code !== 'ERR_BLOCK_DISCONNECTED') throw error
    }
  }))
}

async function request (driver: BlockDriver, history: History, random: () => number): Promise<void> {
  const sectors = 1 + Math.floor(random() * LONGEST)
  const sector = Math.floor(random() * (history.sectors - sectors))
  const [offset, length] = [sector * SECTOR_BYTES, sectors * SECTOR_BYTES]
  const what = random()
  if (what < 0.1) {
    await driver.read(offset, length)
    return
  }
  const kind = what < 0.16 ? 'discard' : what < 0.25 ? 'zeroes' : 'write'
  const number = history.begin(kind, sector, sectors)
  if (kind === 'write') await driver.write(offset, content(number, sector, sectors))
  else if (kind === 'zeroes') await driver.writeZeroes(offset, length, { unmap: random() < 0.5 })
  else await driver.discard(offset, length)
  history.end(number)
}

async function flush (driver: BlockDriver, history: History): Promise<void> {
  const acknowledged = history.flush()
  await driver.flush()
  acknowledged()
}
