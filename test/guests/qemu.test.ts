import { randomBytes } from 'node:crypto'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootFromDisk, bootQemu, qemu } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, server, withServer } from '../support/server.ts'
import { cleanUp, MEMORY_FOLDER } from '../support/temporary.ts'
import { writeBootSector } from './boot-sector.ts'
import { assertReadOnly } from './read-only.ts'
import { compare, fileSystemRoundTrip, fill } from './scripts.ts'

const guestTest = testWith(server, ...qemu)

for (const queues of [1, 2]) {
  guestTest(`a file system survives its round trip, queues: ${queues}`, async () => {
    const image = blankImage(256)
    await withServer({ image, queues }, async ({ socket, serial }) => {
      const script = `
        say hardware-queues $(ls /sys/block/vda/mq | wc -l)
        ${fileSystemRoundTrip({ jobs: 4 })}
        # One line a queue; the columns after the first are interrupts by processor.
        say busy-queues $(awk '/virtio.*-req/ && $2 + $3 > 100' /proc/interrupts | wc -l)`
      const results = await bootQemu({ socket, queues, script }).finished()
      assert.is(results.get('serial'), serial)
      assert.is(results.get('bytes'), String(256 * 1024 * 1024))
      assert.is(results.get('hardware-queues'), String(queues))
      assert.is(results.get('busy-queues'), String(queues))
    })
    checkFileSystem(image)
  })
}

testWith(ourServer, ...qemu)('an image in memory is copied from and to: a file system survives its round trip', async () => {
  const image = blankImage(192, MEMORY_FOLDER)
  await withServer({ image, engine: 'mapped', queues: 2 }, async ({ socket, program }) => {
    assert.match(program.output, /^ready: .* 2 queues, mapped\)/m)
    await bootQemu({ socket, queues: 2, script: fileSystemRoundTrip({ jobs: 4 }) }).finished()
  })
  checkFileSystem(image)
})

testWith(ourServer, ...qemu)('O_DIRECT: a file system survives its round trip', async () => {
  const image = blankImage(192)
  await withServer({ image, engine: 'io_uring+linux-aio', direct: true, queues: 2 }, async ({ socket }) => {
    await bootQemu({ socket, queues: 2, script: fileSystemRoundTrip({ jobs: 4 }) }).finished()
  })
  checkFileSystem(image)
})

guestTest('a guest finds after its reboot what it wrote before', async () => {
  const image = blankImage(128)
  await withServer({ image, queues: 2 }, async ({ socket }) => {
    const script = `
      if mount -t ext4 /dev/vda /mnt; then
        cp /mnt/sums /tmp/sums
        say found $(md5sum </tmp/sums)
        ${compare}
        umount /mnt
        e2fsck -f -n /dev/vda
      else
        mkfs.ext4 -F -q /dev/vda
        mount /dev/vda /mnt
        ${fill}
        cp /tmp/sums /mnt/sums
        say written $(md5sum </tmp/sums)
        umount /mnt
        reboot -f
      fi`
    const results = await bootQemu({ socket, queues: 2, script, reboots: true }).finished()
    assert.ok(results.get('written'))
    assert.is(results.get('found'), results.get('written'))
  })
  checkFileSystem(image)
})

guestTest('a read-only disk is read and not written', () => assertReadOnly(bootQemu))

guestTest('SeaBIOS boots from the disk', async () => {
  const image = blankImage(1)
  const text = randomBytes(1500).toString('hex')
  writeBootSector(image, text)
  await withServer({ image }, async ({ socket }) => {
    assert.ok((await bootFromDisk(socket)).includes(text))
  })
})

test.after.each(cleanUp)
test.run()
