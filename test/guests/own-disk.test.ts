// Real guests on disks that are no image: one of one's own, and an overlay over a base.
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { commit, overlay } from '../../packages/disks/src/index.ts'
import { BlockDriver } from '../../packages/virtio-blk-driver/src/index.ts'
import { bootUml, uml } from '../support/guest.ts'
import { checkFileSystem, checksum, imageOf } from '../support/image.ts'
import { serveOwnDisk } from '../support/own-disk.ts'
import { path, programs, testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'
import { compare, fill, verifiedLoad } from './scripts.ts'

const guestTest = testWith(ourServer, programs('debugfs'), ...uml)

/** Files, whose checksums are beside them. */
const writeFiles = `
${fill}
cp /tmp/sums /mnt/sums
`
const checkInGuest = `
umount /mnt
e2fsck -f -n /dev/vda
mount /dev/vda /mnt
${compare}
umount /mnt
`

guestTest('a file system survives its round trip on the disk of the README', async () => {
  const { folder, socket, server } = await serveOwnDisk()
  await bootUml({
    socket,
    script: `
      mkfs.ext4 -F -q /dev/vda
      mount /dev/vda /mnt
      ${writeFiles}
      ${verifiedLoad({ jobs: 1, mebibytes: 8 })}
      ${checkInGuest}`
  }).finished()
  const driver = await BlockDriver.connect({ socketPath: socket })
  const image = join(folder, 'disk.img')
  writeFileSync(image, await driver.read(0, driver.config.capacity))
  await driver.close()
  checkFiles(image)
  assert.ok(server.alive)
})

guestTest('what a guest writes is in its overlay and not in the base, until it is committed', async () => {
  const folder = temporaryFolder()
  const files = join(folder, 'files')
  mkdirSync(files)
  writeFileSync(join(files, 'greeting'), 'from the base')
  const base = imageOf(files, 96)
  const before = checksum(base)
  const file = join(folder, 'guest.ovl')
  await withServer({ image: base, overlay: file }, async ({ socket }) => {
    const results = await bootUml({
      socket,
      script: `
        mount -t ext4 /dev/vda /mnt
        say greeting $(cat /mnt/greeting)
        rm /mnt/greeting
        ${writeFiles}
        ${checkInGuest}`
    }).finished()
    assert.is(results.get('greeting'), 'from the base')
  })
  assert.is(checksum(base), before)
  assert.ok(statSync(file).blocks * 512 > 24 * 1024 ** 2, 'the overlay has what was written')

  const image = join(folder, 'seen.img')
  writeFileSync(image, await contentOf(file))
  checkFiles(image)
  await commit({ file })
  checkFiles(base)
  assert.is(checksum(base), checksum(image))
})

/** What an overlay's disk reads as. */
async function contentOf (file: string): Promise<Uint8Array> {
  const disk = await overlay({ file, readOnly: true })
  const bytes = new Uint8Array(disk.capacity)
  await disk.read(0, [bytes], new AbortController().signal)
  await disk.close!()
  return bytes
}

/** Each of the guest's files is there, with its checksum, and what it removed is not. */
function checkFiles (image: string): void {
  checkFileSystem(image)
  const folder = temporaryFolder()
  execFileSync(path('debugfs'), ['-R', `rdump / ${folder}`, image], { stdio: ['ignore', 'ignore', 'pipe'] })
  const sums = readFileSync(join(folder, 'sums'), 'utf8').trim().split('\n').map((line) => line.split('  '))
  assert.is(sums.length, 301)
  for (const [sum, name] of sums) assert.is(checksum(join(folder, name!)), sum, name)
  assert.throws(() => statSync(join(folder, 'greeting')), /ENOENT/)
}

test.after.each(cleanUp)
test.run()
