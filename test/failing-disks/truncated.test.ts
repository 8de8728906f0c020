// An image that somebody cuts while it is served.
import assert from 'node:assert/strict'
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { test } from 'uvu'
import { blankImage } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer } from '../support/server.ts'
import { cleanUp, MEMORY_FOLDER } from '../support/temporary.ts'
import { has, ioError, memoryEngines, MIB, pattern, withDisk } from './disk.ts'

for (const engine of memoryEngines) {
  const isInMemory = engine === 'mapped'
  for (const direct of isInMemory ? [false] : [false, true]) {
    testWith(ourServer)(`${engine}${direct ? ', O_DIRECT' : ''}: what was cut off reads as zeroes and can be written; SIGHUP makes the cut known`, async () => {
      const image = blankImage(8, isInMemory ? MEMORY_FOLDER : undefined)
      writeFileSync(image, pattern(0, 8 * MIB))
      await withDisk({ image, engine, direct }, async ({ driver, program }) => {
        // In the middle of a sector, and of a block.
        const end = 3 * MIB + 700
        truncateSync(image, end)
        await has(driver, 0, pattern(0, 3 * MIB), 'before the cut')
        const across = new Uint8Array(2 * MIB)
        across.set(readFileSync(image).subarray(2 * MIB))
        await has(driver, 2 * MIB, across, 'across the cut')
        await has(driver, 7 * MIB, new Uint8Array(MIB), 'behind the cut')
        await driver.write(6 * MIB, pattern(6 * MIB, MIB, 2))
        await driver.flush()
        await has(driver, 6 * MIB, pattern(6 * MIB, MIB, 2), 'written behind the cut')
        await has(driver, 5 * MIB, new Uint8Array(MIB), 'between the cut and that')
        assert.equal(statSync(image).size, 7 * MIB)
        await driver.discard(MIB, MIB)
        await driver.writeZeroes(7 * MIB, MIB, { unmap: true })
        await has(driver, MIB, new Uint8Array(MIB), 'discarded')

        truncateSync(image, 2 * MIB)
        program.signal('SIGHUP')
        await program.printed(/the disk has 2097152 bytes now/, 60)
        await ioError(driver.read(2 * MIB, 512))
        await ioError(driver.write(2 * MIB - 512, pattern(0, 1024)))
        await ioError(driver.discard(2 * MIB, 512))
        await has(driver, 0, Uint8Array.from([...pattern(0, MIB), ...new Uint8Array(MIB)]), 'what is left')
        assert.equal(statSync(image).size, 2 * MIB)

        truncateSync(image, 0)
        program.signal('SIGHUP')
        await program.printed(/the disk keeps its size: .*/, 60)
        await has(driver, 0, new Uint8Array(MIB), 'nothing is left')
        await driver.write(512, pattern(512, 512))
        await driver.flush()
        await has(driver, 512, pattern(512, 512), 'written again')
      })
    })
  }
}

test.after.each(cleanUp)
test.run()
