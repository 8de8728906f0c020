import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import type { Boot, Guest } from '../support/guest.ts'
import { checksum, imageOf } from '../support/image.ts'
import { withServer } from '../support/server.ts'
import { temporaryFolder } from '../support/temporary.ts'
import { readOnlyDisk } from './scripts.ts'

/** A guest with a read-only disk reads a file that the host wrote, cannot write, and leaves the image as it was. */
export async function assertReadOnly (boot: (options: Boot) => Guest): Promise<void> {
  const folder = join(temporaryFolder(), 'files')
  mkdirSync(folder)
  writeFileSync(join(folder, 'greeting'), 'hello from the host')
  const image = imageOf(folder, 32)
  const before = checksum(image)

  await withServer({ image, readOnly: true }, async ({ socket }) => {
    const results = await boot({ socket, script: readOnlyDisk }).finished()
    assert.is(results.get('ro'), '1')
    assert.is(results.get('write'), 'refused')
    assert.is(results.get('remount'), 'refused')
    assert.is(results.get('greeting'), 'hello from the host')
  })
  assert.is(checksum(image), before)
}
