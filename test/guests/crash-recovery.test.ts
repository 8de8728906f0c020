import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, qemu } from '../support/guest.ts'
import { blankImage, checkFileSystem } from '../support/image.ts'
import type { Running } from '../support/processes.ts'
import { testWith } from '../support/programs.ts'
import { until } from '../support/qmp.ts'
import { ourServer, type ServerOptions, startOurs, stop } from '../support/server.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'
import { mailbox, tell } from './mailbox.ts'

const DISK_MEBIBYTES = 128

/** Writes and reads back, again and again, past the page cache with many requests in flight, until told to stop. */
const verifiedRounds = ({ jobs }: { jobs: number }): string => `
${mailbox(DISK_MEBIBYTES)}
mkfs.ext4 -F -q /dev/vda ${DISK_MEBIBYTES - 1}M
mount /dev/vda /mnt
say mounted
set +x
rounds=0
until told stop; do
  fio --name=verify --directory=/mnt --size=16M --numjobs=${jobs} --rw=randwrite --bssplit=4k/60:16k/20:64k/20 \\
    --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --verify_fatal=1 --minimal >/tmp/fio || {
    cat /tmp/fio
    exit 1
  }
  rounds=$((rounds + 1))
done
set -x
say rounds $rounds
umount /mnt
e2fsck -f -n /dev/vda
`

interface Scenario extends Omit<ServerOptions, 'image'> {
  readonly queues: number
  readonly ends: number
  readonly packed?: boolean
  /** Killed with requests in flight, or asked to go: then these are completed. */
  readonly signal: 'SIGKILL' | 'SIGTERM'
}

// Past the host's page cache requests end in another order than they came, and nothing but the record of what is in
// flight tells which of them to do again: without one, the guest does not survive the first SIGKILL.
const scenarios: Scenario[] = [
  { queues: 1, ends: 20, signal: 'SIGKILL', direct: true },
  { queues: 2, ends: 10, signal: 'SIGKILL', flags: ['--threads=2'] },
  { queues: 2, ends: 6, signal: 'SIGKILL', direct: true, engine: 'linux-aio' },
  { queues: 2, ends: 8, signal: 'SIGKILL', packed: true, direct: true },
  { queues: 2, ends: 6, signal: 'SIGTERM' },
  { queues: 1, ends: 4, signal: 'SIGTERM', packed: true }
]

for (const { ends, signal, ...options } of scenarios) {
  const { queues, engine = 'auto', packed = false } = options
  const flags = [...(options.flags ?? []), ...(packed ? ['--packed'] : [])]
  const name = `a guest under load does not notice ${ends} times ${signal} of its server, queues: ${queues}, engine: ${engine}${packed ? ', packed' : ''}`
  testWith(ourServer, ...qemu)(name, async () => {
    const image = blankImage(DISK_MEBIBYTES)
    const socket = `${temporaryFolder()}/vhost.sock`
    const start = (...more: string[]): Promise<Running> => startOurs(socket, { ...options, image, flags: [...flags, ...more] })
    let server = await start('--trace')
    const guest = bootQemu({
      socket, queues, script: verifiedRounds({ jobs: queues }), chardev: 'reconnect=1', device: `packed=${packed ? 'on' : 'off'}`, limitSeconds: 400
    })
    await guest.says('mounted')
    assert.match(server.output, /direction=sent request=GET_INFLIGHT_FD .*fds=1/)

    for (let end = 1; end <= ends; end++) {
      server.signal(signal)
      assert.equal(await server.ended(90), signal === 'SIGKILL' ? { status: null, signal } : { status: 0, signal: null })
      // A traced one is slow, and killed at other moments.
      server = await start(...(end % 4 === 1 ? ['--trace'] : []))
      await untilItHasMemory(server)
      // Some of them while they are still told of rings.
      await sleep(Math.random() ** 3 * 2000)
      if (end === 1) await assertRecovers(server)
    }
    tell(image, 'stop')
    const results = await guest.finished().catch((error) => {
      error.message += `\n${server.failure('said').message}`
      throw error
    })
    assert.ok(Number(results.get('rounds')) >= 1)
    await stop(server, socket)
    checkFileSystem(image)
  })
}

/**
 * QEMU before 9.1 never connects again where its server is killed earlier than that, while it is asked for its features
 * (QEMU's "vhost-user: fix lost reconnect again").
 */
async function untilItHasMemory ({ pid }: Running): Promise<void> {
  await until('the server has the guest\'s memory', async () => readFileSync(`/proc/${pid}/maps`, 'utf8').includes('memory-backend'), 90)
}

/** It goes on with the record that the front-end kept of what was in flight. */
async function assertRecovers (server: Running): Promise<void> {
  await server.printed(/process_request/, 90)
  assert.match(server.output, /direction=received request=SET_INFLIGHT_FD .*fds=1/)
  assert.not.match(server.output, /GET_INFLIGHT_FD/)
}

test.after.each(cleanUp)
test.run()
