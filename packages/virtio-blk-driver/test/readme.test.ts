import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { blankImage } from '../../../test/support/image.ts'
import { runReadmeExample } from '../../../test/support/readme.ts'
import { daemonTest, StorageDaemon } from './support/storage-daemon.ts'

daemonTest('the example of the README runs', async () => {
  const daemon = await StorageDaemon.start({ disk: blankImage(64) })
  try {
    process.env.DISK_SOCKET = daemon.socketPath
    assert.deepEqual(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n'), [
      'vhost_user_blk: 67108864 bytes, blocks of 512',
      'the 42nd block is full of 42 to the end: 42',
      'and the 7th of 7'
    ])
  } finally {
    await daemon.kill()
  }
})

test.run()
