import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootUml, uml } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { skip, testWith } from '../support/programs.ts'
import { engineRefused, server, withServer } from '../support/server.ts'
import { cleanUp, MEMORY_FOLDER } from '../support/temporary.ts'
import { assertReadOnly } from './read-only.ts'
import { fileSystemRoundTrip, verifiedLoad } from './scripts.ts'

const guestTest = testWith(server, ...uml)

guestTest('a file system survives its round trip', async () => {
  const image = blankImage(256)
  await withServer({ image }, async ({ socket, serial }) => {
    const results = await bootUml({ socket, script: fileSystemRoundTrip({ jobs: 2 }) }).finished()
    assert.is(results.get('serial'), serial)
    assert.is(results.get('bytes'), String(256 * 1024 * 1024))
  })
  checkFileSystem(image)
})

// linux-aio submits without waiting only where the page cache is out of the way.
for (const options of [{ engine: 'mapped' }, { engine: 'io_uring' }, { engine: 'linux-aio', direct: true }, { engine: 'sync' }] as const) {
  const name = `a verified load through engine ${options.engine}`
  const refused = engineRefused(options.engine)
  if (refused !== undefined) {
    skip(name, refused)
    continue
  }
  guestTest(name, async () => {
    const image = blankImage(64, options.engine === 'mapped' ? MEMORY_FOLDER : undefined)
    await withServer({ image, ...options }, async ({ socket }) => {
      await bootUml({
        socket,
        script: `
          mkfs.ext4 -F -q /dev/vda
          mount /dev/vda /mnt
          ${verifiedLoad({ jobs: 1, mebibytes: 8 })}
          umount /mnt`
      }).finished()
    })
    checkFileSystem(image)
  })
}

guestTest('a read-only disk is read and not written', () => assertReadOnly(bootUml))

test.after.each(cleanUp)
test.run()
