import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, type Guest, qemu } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import type { Running } from '../support/processes.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, startOurs, stop } from '../support/server.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'
import { stopSector, writeStopSector } from './stop-sector.ts'

/** Writes and reads back, again and again, past the page cache with many requests in flight, until asked to stop. */
const verifiedRounds = ({ jobs }: { jobs: number }): string => `
mkfs.ext4 -F -q /dev/vda ${DISK_MEBIBYTES - 1}M
mount /dev/vda /mnt
say mounted
set +x
rounds=0
until asked_to_stop; do
  fio --name=verify --directory=/mnt --size=16M --numjobs=${jobs} --rw=randwrite --bssplit=4k/60:16k/20:64k/20 \\
    --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --verify_fatal=1 --minimal >/tmp/fio || {
    cat /tmp/fio; exit 1
  }
  rounds=$((rounds + 1))
  say rounds-$rounds
done
set -x
say rounds $rounds
umount /mnt
e2fsck -f -n /dev/vda
`

const DISK_MEBIBYTES = 128

for (const { queues, kills } of [{ queues: 1, kills: 20 }, { queues: 2, kills: 8 }]) {
  testWith(ourServer, ...qemu)(`a guest does not notice that its server is killed ${kills} times, queues: ${queues}`, async () => {
    const image = blankImage(DISK_MEBIBYTES)
    const socket = `${temporaryFolder()}/vhost.sock`
    const start = (trace: boolean): Promise<Running> => startOurs(socket, { image, queues, flags: trace ? ['--trace'] : [] })
    let server = await start(true)
    const script = `${stopSector(DISK_MEBIBYTES)}${verifiedRounds({ jobs: queues })}`
    const guest = bootQemu({ socket, queues, script, chardev: 'reconnect=1', limitSeconds: 300 })
    await guest.says('mounted')
    assert.match(server.output, /request=GET_INFLIGHT_FD/)

    for (let kill = 1; kill <= kills; kill++) {
      await server.kill()
      server = await start(kill <= 3)
      await server.printed(/a front-end connected/, 30)
      await sleep(Math.random() * 1500)
    }
    writeStopSector(image)
    const results = await ended(guest, server)
    await stop(server, socket)
    assert.ok(Number(results.get('rounds')) >= 1)
    checkFileSystem(image)
  })
}

async function ended (guest: Guest, server: Running): ReturnType<Guest['finished']> {
  return guest.finished().catch((error) => {
    error.message += `\n${server.failure('was running').message}`
    throw error
  })
}

test.after.each(cleanUp)
test.run()
