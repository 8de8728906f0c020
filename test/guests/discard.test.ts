import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootUml, uml } from '../support/guest.ts'
import { blankImage, checkFileSystem, checksum } from '../support/image.ts'
import { withLoopDevice } from '../support/loop-device.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp, MEMORY_FOLDER, temporaryFolder } from '../support/temporary.ts'
import { compare, fileSystemRoundTrip, fill } from './scripts.ts'

const guestTest = testWith(ourServer, ...uml)
const MEBIBYTE = 1024 * 1024

/** Bytes that a file takes up on the host. */
const allocated = (file: string): number => statSync(file).blocks * 512

for (const engine of ['auto', 'linux-aio', 'mapped'] as const) {
  guestTest(`what a guest deletes and trims, the host has back, engine: ${engine}`, async () => {
    const image = blankImage(128, engine === 'mapped' ? MEMORY_FOLDER : undefined)
    await withServer({ image, engine }, async ({ socket }) => {
      await bootUml({ socket, script: `mkfs.ext4 -F -q /dev/vda; mount /dev/vda /mnt; ${fill} cp /tmp/sums /mnt/sums; head -c 40m /dev/zero >/mnt/waste; umount /mnt` }).finished()
      const before = allocated(image)
      assert.ok(before > 64 * MEBIBYTE)
      const results = await bootUml({
        socket,
        script: `
          mount /dev/vda /mnt; rm /mnt/waste; sync; fstrim /mnt; cp /mnt/sums /tmp/sums; ${compare} umount /mnt
          say disk $(md5sum </dev/vda)`
      }).finished()
      assert.is(results.get('disk')!.split(' ')[0], checksum(image))
      assert.ok(before - allocated(image) >= 38 * MEBIBYTE, `${before} before, ${allocated(image)} after`)
    })
    checkFileSystem(image)
  })
}

guestTest('blkdiscard shrinks the image, blkdiscard -z fills it with zeroes', async () => {
  const image = blankImage(16)
  writeFileSync(image, Buffer.alloc(16 * MEBIBYTE, 0xa5))
  await withServer({ image, flags: ['--discard-segments=4'] }, async ({ socket }) => {
    await bootUml({
      socket,
      script: `
        say most $(cat /sys/block/vda/queue/discard_max_bytes)
        # Not busybox's own, which has no -z.
        /bin/blkdiscard --offset 0 --length 4MiB /dev/vda
        /bin/blkdiscard --zeroout --offset 8MiB --length 4MiB /dev/vda`
    }).finished()
  })
  const content = readFileSync(image)
  const isFilled = (from: number, byte: number): boolean => content.subarray(from * MEBIBYTE, (from + 4) * MEBIBYTE).every((each) => each === byte)
  assert.equal([0, 4, 8, 12].map((from) => isFilled(from, 0)), [true, false, true, false])
  assert.equal([4, 12].map((from) => isFilled(from, 0xa5)), [true, true])
  assert.ok(allocated(image) <= 12 * MEBIBYTE, `${allocated(image)} bytes are allocated`)
})

guestTest('what is zeroed need not be whole pages', async () => {
  const image = blankImage(8)
  writeFileSync(image, Buffer.alloc(8 * MEBIBYTE, 0xa5))
  await withServer({ image }, async ({ socket }) => {
    await bootUml({
      socket,
      script: `
        /bin/blkdiscard --zeroout --offset 512 --length 1536 /dev/vda
        /bin/blkdiscard --zeroout --offset $((1048576 - 512)) --length $((2097152 + 1024)) /dev/vda`
    }).finished()
  })
  const expected = Buffer.alloc(8 * MEBIBYTE, 0xa5).fill(0, 512, 2048).fill(0, MEBIBYTE - 512, 3 * MEBIBYTE + 512)
  assert.ok(readFileSync(image).equals(expected))
})

for (const logicalBlockBytes of [512, 4096]) {
  guestTest(`a block device is an image, with blocks of ${logicalBlockBytes} bytes`, async () => {
    await withLoopDevice({ directory: temporaryFolder(), bytes: 192 * MEBIBYTE, logicalBlockBytes }, async (device) => {
      await withServer({ image: device.path }, async ({ socket }) => {
        const results = await bootUml({ socket, script: `say blocks $(cat /sys/block/vda/queue/logical_block_size)\n${fileSystemRoundTrip({ jobs: 1, sector: logicalBlockBytes })}` }).finished()
        assert.is(results.get('bytes'), String(192 * MEBIBYTE))
        assert.is(results.get('blocks'), String(logicalBlockBytes))
      })
      checkFileSystem(device.path)
    })
  })
}

test.after.each(cleanUp)
test.run()
