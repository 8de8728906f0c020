import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootUml, uml } from '../support/guest.ts'
import { blankImage, checkFileSystem, directRefused } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'
import { fileSystemRoundTrip } from './scripts.ts'

for (const engine of ['io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync'] as const) {
  // The load has requests of 512 bytes: what direct I/O cannot take goes through the page cache, taking turns.
  testWith(ourServer, ...uml)(`O_DIRECT: a file system survives its round trip, engine: ${engine}`, async () => {
    const image = blankImage(192)
    await withServer({ image, engine, direct: true }, async ({ socket, serial }) => {
      const results = await bootUml({ socket, script: fileSystemRoundTrip({ jobs: 2 }) }).finished()
      assert.is(results.get('serial'), serial)
    })
    checkFileSystem(image)
  })
}

/**
 * Requests of odd sectors from buffers at odd places, many at once and next to each other, read back and compared;
 * and through the page cache as well, which must see the same.
 */
const oddRequests = `
for job in 1 2; do
  fio --name=odd-$job --filename=/dev/vda --offset=$((job * 8389120)) --size=4200960 --rw=randwrite --ioengine=libaio \\
    --bsrange=512-9216 --blockalign=512 --mem_align=512 --iomem_align=512 --iodepth=32 --direct=1 --verify=crc32c --verify_fatal=1 \\
    --minimal >/tmp/fio-$job || { cat /tmp/fio-$job; false; }
done
head -c 1m /dev/urandom >/tmp/bytes
dd if=/tmp/bytes of=/dev/vda bs=7k seek=3 count=9 conv=fsync
dd if=/tmp/bytes of=/dev/vda bs=512 seek=4093 count=5 conv=fsync
echo 3 >/proc/sys/vm/drop_caches
[ "$(dd if=/dev/vda bs=7k skip=3 count=9 | md5sum)" = "$(dd if=/tmp/bytes bs=7k count=9 | md5sum)" ]
[ "$(dd if=/dev/vda bs=512 skip=4093 count=5 | md5sum)" = "$(dd if=/tmp/bytes bs=512 count=5 | md5sum)" ]
`

for (const [name, folder] of [['a disk', undefined], ['tmpfs', '/dev/shm']] as const) {
  testWith(ourServer, ...uml, () => directRefused(folder))(`O_DIRECT: odd requests for an image on ${name}`, async () => {
    await withServer({ image: blankImage(32, folder), direct: true }, async ({ socket }) => {
      await bootUml({ socket, script: oddRequests }).finished()
    })
  })
}

test.after.each(cleanUp)
test.run()
