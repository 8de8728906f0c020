import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Boot, bootQemu, bootUml, type Guest, qemu, type Results, uml } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { type Need, testWith } from '../support/programs.ts'
import { server, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'

/**
 * Keeps the disk loaded with writes past the page cache, says `loaded` when many are in flight, and then writes and
 * fsyncs one file after the other, saying each one's checksum once it is on the disk.
 */
const load = `
mkfs.ext4 -F -q /dev/vda
mount /dev/vda /mnt
fio --name=load --directory=/mnt --size=16M --numjobs=2 --rw=randwrite --bs=4k --ioengine=libaio --iodepth=32 \\
  --direct=1 --time_based --runtime=600 >/dev/null &
set +x
in_flight=0
until [ $in_flight -ge 32 ]; do read -r reads in_flight </sys/block/vda/inflight; done
say loaded
count=0
while true; do
  head -c 20000 /dev/urandom | dd of=/mnt/kept-$count bs=20000 iflag=fullblock conv=fsync 2>/dev/null
  sum=$(md5sum </mnt/kept-$count)
  say kept-$count $sum
  count=$((count + 1))
done
`

const frontEnds: Array<[name: string, boot: (options: Boot) => Guest, needs: Need[]]> = [
  ['User-Mode Linux', bootUml, uml],
  ['QEMU', (options) => bootQemu({ ...options, queues: 2 }), qemu]
]
for (const [name, boot, needs] of frontEnds) {
  testWith(server, ...needs)(`the next guest is served after ${name} was killed under load`, async () => {
    const image = blankImage(128)
    await withServer({ image, queues: 2 }, async ({ socket }) => {
      const kept = await killedUnderLoad(boot({ socket, script: load }))
      assert.ok(kept.length >= 5)
      await boot({ socket, script: lookFor(kept) }).finished()
    })
    checkFileSystem(image)
  })
}

async function killedUnderLoad (guest: Guest): Promise<Array<[file: string, checksum: string]>> {
  await guest.says('loaded')
  await guest.says('kept-4')
  await sleep(Math.random() * 500) // not always at the same point of its loop
  await guest.kill()
  return keptFiles(guest.results)
}

function keptFiles (results: Results): Array<[file: string, checksum: string]> {
  return [...results].filter(([name]) => name.startsWith('kept-')).map(([name, sum]) => [name, sum.split(' ')[0]!])
}

/** Mounting replays the journal; then the file system is whole and the files are there. */
function lookFor (kept: Array<[file: string, checksum: string]>): string {
  return `
    mount -t ext4 /dev/vda /mnt
    cat >/tmp/sums <<END
${kept.map(([file, checksum]) => `${checksum}  ${file}`).join('\n')}
END
    (cd /mnt && md5sum -c /tmp/sums)
    umount /mnt
    e2fsck -f -n /dev/vda`
}

test.after.each(cleanUp)
test.run()
