import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, bootUml, qemu, uml } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'
import { fileSystemRoundTrip } from './scripts.ts'

/** Feature bits as sysfs shows them: a digit each, from bit 0 on. */
const RING_PACKED = 34

const machines = [
  { name: 'User-Mode Linux', needs: uml, boot: bootUml },
  { name: 'QEMU', needs: qemu, boot: (options: { socket: string, script: string }) => bootQemu({ ...options, device: 'packed=on' }) }
]

for (const { name, needs, boot } of machines) {
  testWith(ourServer, ...needs)(`${name}: a file system survives its round trip on packed rings`, async () => {
    const image = blankImage(192)
    await withServer({ image, flags: ['--packed', '--in-order'] }, async ({ socket }) => {
      const results = await boot({ socket, script: `say features $(cat /sys/block/vda/device/features)\n${fileSystemRoundTrip({ jobs: 2 })}` }).finished()
      assert.is(results.get('features')![RING_PACKED], '1')
    })
    checkFileSystem(image)
  })
}

test.after.each(cleanUp)
test.run()
