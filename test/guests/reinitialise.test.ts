import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, qemu } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { server, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'
import { compare, fill } from './scripts.ts'

testWith(server, ...qemu)('the driver is taken off the device and put back ten times, as a kexec would', async () => {
  const image = blankImage(96)
  await withServer({ image, queues: 2 }, async ({ socket }) => {
    const results = await bootQemu({
      socket,
      queues: 2,
      script: `
        mkfs.ext4 -F -q /dev/vda
        mount /dev/vda /mnt
        ${fill}
        umount /mnt
        device=$(basename $(readlink -f /sys/block/vda/device))
        for round in $(seq 10); do
          echo $device >/sys/bus/virtio/drivers/virtio_blk/unbind
          [ ! -e /sys/block/vda ]
          echo $device >/sys/bus/virtio/drivers/virtio_blk/bind
          mount /dev/vda /mnt
          ${compare}
          touch /mnt/round-$round
          umount /mnt
        done
        mount /dev/vda /mnt
        say rounds $(ls /mnt | grep -c round-)
        umount /mnt`
    }).finished()
    assert.is(results.get('rounds'), '10')
  })
  checkFileSystem(image)
})

test.after.each(cleanUp)
test.run()
