import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootUml, uml } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'
import { fileSystemRoundTrip } from './scripts.ts'

for (const engine of ['io_uring', 'linux-aio', 'sync'] as const) {
  // The load has requests of 512 bytes: what direct I/O cannot take goes through the page cache, taking turns.
  testWith(ourServer, ...uml)(`O_DIRECT: a file system survives its round trip, engine: ${engine}`, async () => {
    const image = blankImage(192)
    await withServer({ image, engine, direct: true }, async ({ socket, serial }) => {
      const results = await bootUml({ socket, script: fileSystemRoundTrip({ jobs: 2 }) }).finished()
      assert.is(results.get('serial'), serial)
    })
    checkFileSystem(image)
  })
}

test.after.each(cleanUp)
test.run()
