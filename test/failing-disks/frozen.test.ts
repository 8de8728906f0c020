// A disk that hangs: its file system is frozen, so that what writes waits for the thaw, and nothing but that ends it.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { BlockDriver } from '../../packages/virtio-blk-driver/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { withLoopDevice } from '../support/loop-device.ts'
import { mountTest, run, withMount } from '../support/mount.ts'
import type { Running } from '../support/processes.ts'
import { find, path, skip } from '../support/programs.ts'
import { type Engine, startOurs } from '../support/server.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'
import { engines, has, MIB, pattern } from './disk.ts'

const DISK = 8 * MIB

/** An image on a file system of its own. */
async function withFileSystem (body: (image: string, directory: string) => Promise<void>): Promise<void> {
  await withLoopDevice({ directory: temporaryFolder(), bytes: 32 * MIB }, async (device) => {
    run(path('mkfs.ext4'), '-q', device.path)
    await withMount([device.path], async (directory) => {
      const image = join(directory, 'disk.img')
      writeFileSync(image, pattern(0, MIB))
      truncateSync(image, DISK)
      await body(image, directory)
    })
  })
}

async function frozen (directory: string, body: () => Promise<void>): Promise<void> {
  run(path('fsfreeze'), '--freeze', directory)
  try {
    await body()
  } finally {
    run(path('fsfreeze'), '--unfreeze', directory)
  }
}

function define (engine: Engine): void {
  mountTest(`${engine}: writes that hang are given up when the front-end goes, and at the end; the next one is served what can be`, async () => {
    await withFileSystem(async (image, directory) => {
      const socketPath = join(temporaryFolder(), 'vhost.sock')
      const program = await startOurs(socketPath, { image, engine, flags: ['--stop-timeout=1'] })
      try {
        const driver = await BlockDriver.connect({ socketPath })
        await driver.write(MIB, pattern(MIB, MIB))
        await driver.flush()
        await frozen(directory, async () => {
          const hanging = [0, 4096].map((offset) => driver.write(4 * MIB + offset, pattern(0, 4096, 2)).catch((error: unknown) => error))
          await hangs(program, 1)
          await driver.close({ timeout: 0 })
          for (const error of await Promise.all(hanging)) assert.equal((error as { code?: string }).code, 'ERR_BLOCK_CLOSED')
          await program.printed(/the session ended: .*(given up with|does not answer)/, 60)

          const next = await BlockDriver.connect({ socketPath })
          await has(next, 0, pattern(0, MIB), 'what was there')
          await has(next, MIB, pattern(MIB, MIB), 'what was acknowledged')
          const again = next.write(6 * MIB, pattern(0, 4096, 3)).catch(() => {})
          await hangs(program, 2)
          program.signal('SIGTERM')
          await program.printed(/(given up with[^]*){3}/, 60)
          await next.close({ timeout: 0 })
          await again
        })
        assert.deepEqual(await program.ended(60), { status: 1, signal: null })
        assert.doesNotMatch(program.output, /\n\s+at /)
      } finally {
        await program.kill()
      }
    })
  })
}

/** Waits until threads of a program are in system calls that nothing interrupts. */
async function hangs (program: Running, threads: number): Promise<void> {
  const tasks = `/proc/${program.pid}/task`
  const isStuck = (id: string): boolean => /\) D /.test(readFileSync(`${tasks}/${id}/stat`, 'latin1'))
  await eventually('the disk hangs', () => readdirSync(tasks).filter(isStuck).length >= threads)
}

const missing = find('mkfs.ext4') === undefined || find('fsfreeze') === undefined
for (const engine of engines) {
  if (missing) skip(`${engine}: a disk that hangs`, 'mkfs.ext4 and fsfreeze are needed: apt-get install e2fsprogs util-linux')
  else define(engine)
}

test.after.each(cleanUp)
test.run()
