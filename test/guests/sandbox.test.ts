import * as assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { bootUml, uml } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, startOurs } from '../support/server.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'
import { fileSystemRoundTrip } from './scripts.ts'

const guestTest = testWith(ourServer, ...uml)

// The best effort: root keeps capabilities in the threads that Node has begun with, and this repository may be root's alone.
guestTest('guests work on a server in its sandbox, one after the other', async () => {
  const image = blankImage(192)
  const socket = join(temporaryFolder(), 'vhost.sock')
  const program = await startOurs(socket, { image, flags: ['--sandbox=best-effort'] })
  await program.printed(/in a sandbox: /, 30)
  for (let boot = 0; boot < 2; boot++) {
    await bootUml({ socket, script: fileSystemRoundTrip({ jobs: 2 }) }).finished()
  }
  program.signal('SIGTERM')
  assert.deepEqual(await program.ended(30), { status: 0, signal: null })
  // It may remove nothing any more.
  assert.ok(existsSync(socket))
  checkFileSystem(image)
})

test.after.each(cleanUp)
test.run()
