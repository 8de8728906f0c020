import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, qemu } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { Monitor, monitorAt, until } from '../support/qmp.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'

const PLUGGED_MEBIBYTES = 256

/**
 * Writes and reads back again and again, while memory comes and goes. New memory is made movable, which is where
 * programs and the page cache get theirs from first: the disk must reach it.
 */
const script = `
echo online_movable >/sys/devices/system/memory/auto_online_blocks
mkfs.ext4 -F -q /dev/vda
mount /dev/vda /mnt
movable_pages () { awk '/zone +Movable/ { movable = 1 } movable && $1 == "present" { print $2; exit }' /proc/zoneinfo; }
free_movable_pages () { awk '/zone +Movable/ { movable = 1 } movable && /pages free/ { print $3; exit }' /proc/zoneinfo; }
set +x
(
  until [ -e /tmp/stop ]; do
    fio --name=verify --directory=/mnt --size=16M --numjobs=2 --rw=randwrite --bssplit=4k/60:16k/20:64k/20 \\
      --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --minimal >/tmp/fio || {
      cat /tmp/fio
      exit 1
    }
    rounds=$((rounds + 1))
  done
  say rounds $rounds
) &
fio=$!
say loaded $(movable_pages)
# It comes block by block.
until [ "$(movable_pages)" = ${PLUGGED_MEBIBYTES * 256} ]; do usleep 100000; done
say plugged $(movable_pages)
# Past the page cache, and by way of it: 48 MiB.
head -c 48m /dev/urandom >/mnt/file
sum=$(md5sum </mnt/file)
sync
echo 3 >/proc/sys/vm/drop_caches
[ "$(md5sum </mnt/file)" = "$sum" ]
say used $(($(movable_pages) - $(free_movable_pages)))
until [ "$(movable_pages)" = 0 ]; do usleep 100000; done
say unplugged
[ "$(md5sum </mnt/file)" = "$sum" ]
touch /tmp/stop
wait $fio
umount /mnt
`

testWith(ourServer, ...qemu)('memory is plugged in, used for requests and unplugged under load', async () => {
  const image = blankImage(128)
  const monitorPath = `${temporaryFolder()}/monitor`
  await withServer({ image, queues: 2, flags: ['--trace'] }, async ({ socket, program: server }) => {
    const guest = bootQemu({ socket, queues: 2, script, memory: '512M,slots=2,maxmem=2G', args: monitorAt(monitorPath) })
    const monitor = await Monitor.connect(monitorPath)
    assert.is(await guest.says('loaded'), '0')
    const regions = countOf(server.output, /received request=ADD_MEM_REG/g)

    await monitor.execute('object-add', { 'qom-type': 'memory-backend-memfd', id: 'more', size: PLUGGED_MEBIBYTES * 1024 * 1024, share: true })
    await monitor.execute('device_add', { driver: 'pc-dimm', id: 'dimm', memdev: 'more' })
    assert.is(await guest.says('plugged'), String(PLUGGED_MEBIBYTES * 256))
    // What the server prints comes by a pipe, later than what the guest says.
    await until('the server is told of the new memory', async () => countOf(server.output, /received request=ADD_MEM_REG/g) === regions + 1, 90)
    const used = Number(await guest.says('used'))
    assert.ok(used > 40 * 256, `the file was read into the new memory: ${used} of its pages are used`)

    await monitor.execute('device_del', { id: 'dimm' })
    await monitor.told('DEVICE_DELETED', 150)
    await guest.says('unplugged')
    await server.printed(/received request=REM_MEM_REG/, 90)
    assert.ok(Number((await guest.finished()).get('rounds')) > 0)
  })
  checkFileSystem(image)
})

function countOf (text: string, pattern: RegExp): number {
  return [...text.matchAll(pattern)].length
}

test.after.each(cleanUp)
test.run()
