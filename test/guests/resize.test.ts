import { truncateSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Boot, bootQemu, bootUml, type Guest, qemu, uml } from '../support/guest.ts'
import { blankImage } from '../support/image.ts'
import { type Need, testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'

const MEBIBYTE = 1024 * 1024

/** Writes the last MiB of a disk of so many, and says how that went. */
const writeLast = (mebibytes: number): string => `
dd if=/dev/urandom of=/dev/vda bs=1M seek=${mebibytes - 1} count=1 conv=fsync 2>/dev/null && ended=well || ended=badly
say write-$((writes += 1)) $(cat /sys/block/vda/size) sectors, the MiB before ${mebibytes} was written $ended
`
const resized = (mebibytes: number): string => `until [ $(cat /sys/block/vda/size) = ${mebibytes * 2048} ]; do usleep 50000; done`

const script = `
writes=0
set +x
${writeLast(16)}
${writeLast(32)}
say ready-to-grow
${resized(32)}
${writeLast(32)}
say ready-to-shrink
${resized(8)}
${writeLast(16)}
${writeLast(8)}
`

const frontEnds: Array<[name: string, boot: (options: Boot) => Guest, needs: Need[]]> = [
  ['User-Mode Linux', bootUml, uml], ['QEMU', bootQemu, qemu]
]
for (const [name, boot, needs] of frontEnds) {
  testWith(ourServer, ...needs)(`a guest of ${name} uses the size that its disk gets while it runs`, async () => {
    const image = blankImage(16)
    await withServer({ image }, async ({ socket, program }) => {
      const guest = boot({ socket, script })
      for (const [wish, mebibytes] of [['ready-to-grow', 32], ['ready-to-shrink', 8]] as const) {
        await guest.says(wish)
        truncateSync(image, mebibytes * MEBIBYTE)
        program.signal('SIGHUP')
        await program.printed(new RegExp(`the disk has ${mebibytes * MEBIBYTE} bytes now`), 90)
      }
      const results = await guest.finished()
      assert.equal([...results].filter(([key]) => key.startsWith('write-')).map(([, value]) => value), [
        '32768 sectors, the MiB before 16 was written well',
        '32768 sectors, the MiB before 32 was written badly',
        '65536 sectors, the MiB before 32 was written well',
        '16384 sectors, the MiB before 16 was written badly',
        '16384 sectors, the MiB before 8 was written well'
      ])
    })
  })
}

test.after.each(cleanUp)
test.run()
