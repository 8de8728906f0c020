import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, bootUml, qemu, uml } from '../support/guest.ts'
import { blankImage } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'

const script = `
say first $(cat /sys/block/vda/cache_type)
echo "write through" >/sys/block/vda/cache_type
say through $(cat /sys/block/vda/cache_type)
dd if=/dev/zero of=/dev/vda bs=4096 count=64 oflag=direct
echo "write back" >/sys/block/vda/cache_type
say back $(cat /sys/block/vda/cache_type)
`

for (const { name, needs, boot } of [{ name: 'User-Mode Linux', needs: uml, boot: bootUml }, { name: 'QEMU', needs: qemu, boot: bootQemu }]) {
  testWith(ourServer, ...needs)(`${name}: the guest switches the write cache off and on again`, async () => {
    const image = blankImage(16)
    await withServer({ image, flags: ['--trace'] }, async ({ socket, program }) => {
      const results = await boot({ socket, script }).finished()
      assert.equal(['first', 'through', 'back'].map((state) => results.get(state)), ['write back', 'write through', 'write back'])
      assert.is(program.output.match(/direction=received request=SET_CONFIG/g)?.length, 2)
    })
  })

  testWith(ourServer, ...needs)(`${name}: a disk that writes through says so`, async () => {
    await withServer({ image: blankImage(16), flags: ['--write-through'] }, async ({ socket }) => {
      const results = await boot({ socket, script: 'say first $(cat /sys/block/vda/cache_type)' }).finished()
      assert.is(results.get('first'), 'write through')
    })
  })
}

test.after.each(cleanUp)
test.run()
