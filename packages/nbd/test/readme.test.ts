import assert from 'node:assert/strict'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { qemuNbd, qemuTest } from './support/servers.ts'

test.after.each(cleanUp)

qemuTest('the example of the README runs', async () => {
  const image = join(temporaryFolder(), 'raw')
  writeFileSync(image, '')
  truncateSync(image, 64 << 20)
  const { uri } = await qemuNbd(['--format=raw', '--export-name=disk', image])
  process.env.NBD_URI = uri
  assert.deepEqual(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n'), [
    'disk: 67108864 bytes, blocks from 1 to 33554432',
    'the 42nd block is full of 42 to the end: 42',
    'zeroes: true'
  ])
})

test.run()
