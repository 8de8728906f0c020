// A disk whose space is less than it says, as thinly provisioned ones are: ENOSPC.
import assert from 'node:assert/strict'
import { statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import type { BlockDriver } from '../../packages/virtio-blk-driver/src/index.ts'
import { withLoopDevice } from '../support/loop-device.ts'
import { mountTest, tmpfs, withMount } from '../support/mount.ts'
import { cleanUp } from '../support/temporary.ts'
import { engines, has, ioError, memoryEngines, MIB, pattern, withDisk } from './disk.ts'

/** Space of the file system; the disk says that it has 16 times as much. */
const SPACE = 4 * MIB
const DISK = 16 * SPACE
const CHUNK = 256 * 1024

function sparse (directory: string): string {
  const image = join(directory, 'disk.img')
  writeFileSync(image, '')
  truncateSync(image, DISK)
  return image
}

/** Writes on and on, until it is refused. @returns how many bytes were acknowledged */
async function fill (driver: BlockDriver, from: number): Promise<number> {
  for (let offset = from; offset < from + 2 * SPACE; offset += CHUNK) {
    try {
      await driver.write(offset, pattern(offset, CHUNK))
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'ERR_BLOCK_IO')
      return offset - from
    }
  }
  throw new Error('it is never full')
}

for (const engine of memoryEngines) {
  mountTest(`${engine}: a full file system: writes fail, what was acknowledged stays, and space that is given back is there again`, async () => {
    await withMount(tmpfs(SPACE), async (directory) => {
      const image = sparse(directory)
      await withDisk({ image, engine }, async ({ driver, program }) => {
        await driver.write(0, pattern(0, MIB))
        await driver.flush()
        const filled = await fill(driver, 8 * MIB)
        assert.ok(filled >= MIB && filled < SPACE, `${filled} bytes`)
        // Many at once, of every kind that needs space.
        await Promise.all(Array.from({ length: 32 }, (_, index) => ioError(driver.write(32 * MIB + index * 4096, pattern(0, 4096)))))
        await ioError(driver.writeZeroes(40 * MIB, MIB))
        // And of every kind that needs none.
        await driver.write(4096, pattern(4096, 8192, 2))
        await driver.writeZeroes(40 * MIB, MIB, { unmap: true })
        await driver.flush()
        await has(driver, 16 * MIB, new Uint8Array(MIB), 'holes read as zeroes')
        await has(driver, 0, Uint8Array.from([...pattern(0, 4096), ...pattern(4096, 8192, 2), ...pattern(12288, MIB - 12288)]), 'the first data')
        for (let offset = 8 * MIB; offset < 8 * MIB + filled; offset += CHUNK) await has(driver, offset, pattern(offset, CHUNK), `data at ${offset}`)

        await driver.discard(8 * MIB, filled)
        assert.ok(await fill(driver, 20 * MIB) >= filled, 'there is room again')
        await has(driver, 20 * MIB, pattern(20 * MIB, filled), 'in the new place')
        assert.ok(program.alive)
      })
      assert.equal(statSync(image).size, DISK)
    })
  })
}

for (const engine of engines) {
  mountTest(`${engine}: a device over a full file system: the guest learns it with its flush, or with O_DIRECT from each write`, async () => {
    await withMount(tmpfs(SPACE), async (directory) => {
      await withLoopDevice({ directory, bytes: DISK }, async ({ path }) => {
        for (const direct of [false, true]) {
          await withDisk({ image: path, engine, direct }, async ({ driver }) => {
            await driver.write(0, pattern(0, MIB))
            await driver.flush()
            const fills = async (): Promise<void> => {
              for (let offset = 8 * MIB; offset < 8 * MIB + 2 * SPACE; offset += CHUNK) await driver.write(offset, pattern(offset, CHUNK))
              await driver.flush()
            }
            await ioError(fills())
            await has(driver, 0, pattern(0, MIB), 'what was flushed before')
            await driver.write(0, pattern(0, MIB, 2))
            // The error is told once; what is written from then on is as well as any.
            await driver.flush()
            await has(driver, 0, pattern(0, MIB, 2), 'what is flushed after')
            await driver.discard(8 * MIB, 2 * SPACE)
          })
        }
      })
    })
  })
}

test.after.each(cleanUp)
test.run()
