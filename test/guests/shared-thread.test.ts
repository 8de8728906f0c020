import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { bootQemu, qemu } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, startOurProgram, whileServing } from '../support/server.ts'
import { cleanUp, MEMORY_FOLDER, temporaryFolder } from '../support/temporary.ts'
import { verifiedLoad } from './scripts.ts'
import { Watch } from './watch.ts'

/** A file system made, filled, checked, mounted anew and compared: beside those of other disks. */
const roundTrip = (disk: string): string => `
mkfs.ext4 -F -q /dev/${disk}
mkdir /mnt/${disk}
mount /dev/${disk} /mnt/${disk}
head -c 24m /dev/urandom >/mnt/${disk}/large
sum=$(md5sum </mnt/${disk}/large)
${verifiedLoad({ jobs: 2, mebibytes: 12, folder: `/mnt/${disk}` })}
umount /mnt/${disk}
e2fsck -f -n /dev/${disk}
mount /dev/${disk} /mnt/${disk}
[ "$(md5sum </mnt/${disk}/large)" = "$sum" ]
umount /mnt/${disk}
`

/** As `--config` has it. */
const diskOf = (name: string, engine: string, folder?: string) => ({
  name, engine, 'socket-path': join(temporaryFolder(), 'vhost.sock'), 'blk-file': blankImage(128, folder), 'num-queues': 2, iothread: 'io0'
})

testWith(ourServer, ...qemu)('a guest uses two disks at once that share a thread, one of them in memory', async () => {
  const [first, second] = [diskOf('first', 'auto'), diskOf('second', 'mapped', MEMORY_FOLDER)]
  const config = join(temporaryFolder(), 'config')
  writeFileSync(config, JSON.stringify({ disks: [first, second] }))
  const watch = new Watch()
  const server = await startOurProgram([`--config=${config}`, ...watch.flags])
  await whileServing(server, first['socket-path'], async () => {
    await server.printed(/^ready: .*, mapped\)/m, 30)
    await bootQemu({
      socket: first['socket-path'],
      queues: 2,
      script: `
        (${roundTrip('vda')}) & first=$!
        (${roundTrip('vdb')}) & second=$!
        wait $first
        wait $second`,
      args: ['-chardev', `socket,id=second,path=${second['socket-path']}`, '-device', 'vhost-user-blk-pci,chardev=second,num-queues=2']
    }).finished()
    await watch.lookAt(server)
  })
  watch.assertTraced()
  for (const disk of [first, second]) checkFileSystem(disk['blk-file'])
})

test.after.each(cleanUp)
test.run()
