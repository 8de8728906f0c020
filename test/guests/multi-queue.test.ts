import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, qemu } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'
import { fileSystemRoundTrip, verifiedLoad } from './scripts.ts'
import { Watch } from './watch.ts'

/** The processors that each thread of a process may run on, as the kernel writes them. */
function processors (pid: number): string[] {
  return readdirSync(`/proc/${pid}/task`).map((thread) =>
    /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8'))![1]!)
}

testWith(ourServer, ...qemu)('queues spread over threads, each pinned to a processor; statistics, metrics and the trace of their requests agree', async () => {
  const image = blankImage(256)
  const watch = new Watch()
  await withServer({ image, queues: 2, flags: ['--threads=2', '--queue-threads=1,0', '--cpus=0,1', ...watch.flags] }, async ({ socket, program }) => {
    const guest = bootQemu({ socket, queues: 2, script: `${fileSystemRoundTrip({ jobs: 4 })}\nsay queues $(ls /sys/block/vda/mq | wc -l)` })
    await guest.says('serial')
    const pinned = processors(program.pid)
    assert.is(pinned.filter((cpus) => cpus === '0').length >= 1, true, pinned.join(' '))
    assert.is(pinned.filter((cpus) => cpus === '1').length >= 1, true, pinned.join(' '))
    assert.is((await guest.finished()).get('queues'), '2')
    await watch.lookAt(program)
  })
  checkFileSystem(image)
  watch.assertTraced()
})

for (const count of [4, 2]) {
  testWith(ourServer, ...qemu)(`four queues on two threads, for ${count} processors`, async () => {
    const image = blankImage(256)
    await withServer({ image, queues: 4, flags: ['--threads=2'] }, async ({ socket }) => {
      const script = `
        say queues $(ls /sys/block/vda/mq | wc -l)
        mkfs.ext4 -F -q /dev/vda
        mount /dev/vda /mnt
        ${verifiedLoad({ jobs: 4, mebibytes: 12 })}
        umount /mnt
        # One line a queue; the columns after the first are interrupts by processor.
        say busy $(awk '/virtio.*-req/ && $2 + $3 + $4 + $5 > 50' /proc/interrupts | wc -l)`
      const results = await bootQemu({ socket, queues: 4, script, args: ['-smp', String(count)] }).finished()
      assert.is(results.get('queues'), String(count))
      assert.is(results.get('busy'), String(count))
    })
    checkFileSystem(image)
  })
}

test.after.each(cleanUp)
test.run()
