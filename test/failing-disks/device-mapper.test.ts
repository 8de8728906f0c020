// A disk with bad sectors, and one that fails for a while, by the kernel's device mapper.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import { withLoopDevice } from '../support/loop-device.ts'
import { mountTest, run } from '../support/mount.ts'
import { find, path, skip } from '../support/programs.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'
import { engines, has, ioError, MIB, pattern, withDisk } from './disk.ts'

const SECTORS = 16 * MIB / 512
const BAD_FROM = 8 * MIB / 512
const BAD_SECTORS = 8

/** A mapped device; its table is lines as `dmsetup(8)` takes them. */
async function withDevice (table: string, body: (device: string, replace: (table: string) => void) => Promise<void>): Promise<void> {
  const name = `node-vmm-${process.pid}`
  const load = (command: string, lines: string): void => {
    execFileSync(path('dmsetup'), [command, name], { input: lines, timeout: 60_000, stdio: ['pipe', 'ignore', 'pipe'] })
  }
  load('create', table)
  try {
    await body(`/dev/mapper/${name}`, (lines) => {
      load('load', lines)
      run(path('dmsetup'), 'resume', name)
    })
  } finally {
    run(path('dmsetup'), 'remove', '--retry', name)
  }
}

for (const engine of engines) {
  for (const direct of [false, true]) {
    const mode = `${engine}${direct ? ', O_DIRECT' : ''}`
    define(`${mode}: bad sectors fail, and only these`, async () => {
      await withLoopDevice({ directory: temporaryFolder(), bytes: SECTORS * 512 }, async ({ path: below }) => {
        const after = BAD_FROM + BAD_SECTORS
        const table = `0 ${BAD_FROM} linear ${below} 0\n${BAD_FROM} ${BAD_SECTORS} error\n${after} ${SECTORS - after} linear ${below} ${after}\n`
        await withDevice(table, async (image) => {
          await withDisk({ image, engine, direct }, async ({ driver }) => {
            await driver.write(0, pattern(0, BAD_FROM * 512))
            await driver.flush()
            await ioError(driver.read(BAD_FROM * 512, 4096))
            await ioError(driver.read(BAD_FROM * 512 - MIB, 2 * MIB))
            // Buffered, it is the flush that tells.
            await ioError((async () => {
              await driver.write(BAD_FROM * 512, pattern(0, 4096))
              await driver.flush()
            })())
            await driver.write(after * 512, pattern(after * 512, MIB))
            await driver.flush()
            await has(driver, 0, pattern(0, BAD_FROM * 512), 'before the bad sectors')
            await has(driver, after * 512, pattern(after * 512, MIB), 'behind them')
          })
        })
      })
    })

    define(`${mode}: a device whose writes fail for a while: what was acknowledged is there, and afterwards all is well`, async () => {
      await withLoopDevice({ directory: temporaryFolder(), bytes: SECTORS * 512 }, async ({ path: below }) => {
        const well = `0 ${SECTORS} linear ${below} 0\n`
        await withDevice(well, async (image, replace) => {
          await withDisk({ image, engine, direct }, async ({ driver }) => {
            await driver.write(0, pattern(0, MIB))
            await driver.flush()
            replace(`0 ${SECTORS} flakey ${below} 0 0 3600 1 error_writes\n`)
            await ioError((async () => {
              await driver.write(MIB, pattern(MIB, MIB))
              await driver.flush()
            })())
            await has(driver, 0, pattern(0, MIB), 'what was flushed before')
            replace(well)
            await driver.write(MIB, pattern(MIB, MIB, 2))
            await driver.flush()
            await has(driver, MIB, pattern(MIB, MIB, 2), 'what is flushed after')
          })
        })
      })
    })
  }
}

function define (name: string, body: () => Promise<void>): void {
  const reason = missing()
  if (reason === undefined) mountTest(name, body)
  else skip(name, reason)
}

function missing (): string | undefined {
  if (find('dmsetup') === undefined) return 'dmsetup is missing: apt-get install dmsetup'
  const hasMapper = existsSync('/dev/mapper/control') || /device-mapper/.test(readFileSync('/proc/misc', 'latin1'))
  return hasMapper ? undefined : 'this kernel has no device mapper'
}

assert.ok(engines.length > 0)
test.after.each(cleanUp)
test.run()
