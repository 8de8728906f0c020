import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, type Guest, qemu } from '../support/guest.ts'
import { blankImage } from '../support/image.ts'
import type { Running } from '../support/processes.ts'
import { testWith } from '../support/programs.ts'
import { Monitor, monitorAt, until } from '../support/qmp.ts'
import { ourServer, startOurs, stop } from '../support/server.ts'
import { cleanUp, temporaryFolder } from '../support/temporary.ts'
import { mailbox, tell } from './mailbox.ts'

const DISK_MEBIBYTES = 128
// Not a multiple of 256 KiB: with one, emulated processors of QEMU before 9.0 write pages without their being found
// dirty (cpu_physical_memory_sync_dirty_bitmap takes a short cut), and the guest crashes, whatever its disk.
const MEMORY = `${384 * 1024 + 8}K`
const guestTest = testWith(ourServer, ...qemu)

/** Random bytes at the disk's beginning, and their checksum. */
const fill = `
${mailbox(DISK_MEBIBYTES)}
exec 3</dev/vda # closed by all, it would be forgotten by the page cache
dd if=/dev/urandom of=/dev/vda bs=1M count=24 conv=fsync 2>/dev/null
beginning () { head -c 24m /dev/vda; }
sum=$(beginning | md5sum)
say filled
set +x
`

guestTest('what only the device wrote is in the memory that arrives at the destination', async () => {
  await withTwoServers([], async ({ image, servers: [source, destination], boot }) => {
    // The disk is read into memory that no processor writes, once the migration has found that unused, and compared,
    // without reading it again, at the destination. Meanwhile other memory is written so fast that there is no end.
    const script = `${fill}
      mount -t tmpfs tmpfs /mnt
      dd if=/dev/urandom of=/mnt/random bs=1M count=16 2>/dev/null
      cp /mnt/random /mnt/written
      while true; do dd if=/mnt/random of=/mnt/written bs=1M conv=notrunc 2>/dev/null; done &
      until told read; do usleep 100000; done
      beginning >/dev/null
      say read
      kill $!
      while true; do
        usleep 200000
        before=$(awk '{ print $3 }' /sys/block/vda/stat)
        now=$(beginning | md5sum)
        after=$(awk '{ print $3 }' /sys/block/vda/stat)
        say now $([ "$now" = "$sum" ] && echo equal || echo different), $((after - before)) sectors read
      done`
    const before = await boot(source, script)
    await before.guest.says('filled')
    const after = await boot(destination, script, 'arriving')
    await before.monitor.execute('migrate-set-parameters', { 'downtime-limit': 1, 'max-bandwidth': 80e6 })
    await before.monitor.execute('migrate', { uri: after.uri })
    await until('the memory was passed over once', async () => (await progress(before.monitor)).passes >= 3, 200)
    tell(image, 'read')
    await before.guest.says('read')
    await before.monitor.execute('migrate-set-parameters', { 'downtime-limit': 2000, 'max-bandwidth': 1e9 })
    await completed(before.monitor, after.monitor)
    await before.guest.kill()
    assert.is(await after.guest.says('now'), 'equal, 0 sectors read')
    await after.guest.kill()
  })
})

guestTest('a verified load survives ten migrations, there and back', async () => {
  await withTwoServers(['--trace'], async ({ image, servers, boot }) => {
    const script = `${fill}
      rounds=0
      until told stop; do
        fio --name=verify --filename=/dev/vda --offset=32M --size=16M --rw=randwrite --bssplit=4k/60:16k/20:64k/20 \\
          --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --minimal >/tmp/fio &
        fio=$!
        # From the disk, and from memory.
        for from in disk memory; do [ "$(beginning | md5sum)" = "$sum" ]; done
        wait $fio || { cat /tmp/fio; exit 1; }
        rounds=$((rounds + 1))
        say rounds-$rounds
      done
      say rounds $rounds`
    let here = await boot(servers[0], script)
    await here.guest.says('filled')
    for (let migration = 1; migration <= 10; migration++) {
      const there = await boot(servers[migration % 2]!, script, `arriving-${migration}`)
      await here.monitor.execute('migrate-set-parameters', { 'downtime-limit': 500, 'max-bandwidth': 1e9 })
      await here.monitor.execute('migrate', { uri: there.uri })
      await completed(here.monitor, there.monitor)
      await here.guest.kill()
      here = there
    }
    tell(image, 'stop')
    const results = await here.guest.finished()
    assert.ok(Number(results.get('rounds')) >= 1)
    for (const { program } of servers) assert.match(program.output, /SET_LOG_BASE/)
  })
})

interface Server {
  readonly program: Running
  readonly socket: string
}

interface Machine {
  readonly guest: Guest
  readonly monitor: Monitor
  /** Where a machine that waits for another's guest can be reached. */
  readonly uri: string
}

interface Stage {
  readonly image: string
  readonly servers: readonly [Server, Server]
  readonly boot: (server: Server, script: string, arriving?: string) => Promise<Machine>
}

/** Two servers of one disk, and machines to run on them. The servers must end cleanly. */
async function withTwoServers (flags: string[], body: (stage: Stage) => Promise<void>): Promise<void> {
  const folder = temporaryFolder()
  const image = blankImage(DISK_MEBIBYTES)
  const start = async (name: string): Promise<Server> => {
    const socket = `${folder}/${name}.sock`
    return { socket, program: await startOurs(socket, { image, flags: ['--lock=running', ...flags] }) }
  }
  const servers = [await start('one'), await start('other')] as const
  const guests: Guest[] = []
  const boot = async ({ socket }: Server, script: string, arriving = ''): Promise<Machine> => {
    const monitor = `${folder}/monitor-${arriving}`
    const uri = `unix:${folder}/${arriving}`
    const guest = bootQemu({
      socket, script, memory: MEMORY, limitSeconds: 400,
      // Memory that the kernel zeroes as it takes it is memory that a processor wrote.
      parameters: 'init_on_alloc=0 init_on_free=0',
      args: [...monitorAt(monitor), ...(arriving === '' ? [] : ['-incoming', uri])]
    })
    guests.push(guest)
    return { guest, uri, monitor: await Monitor.connect(monitor) }
  }
  try {
    await body({ image, servers, boot })
    for (const { program, socket } of servers) await stop(program, socket)
  } catch (error) {
    for (const { message } of [...guests, ...servers.map(({ program }) => program)].map((each) => each.failure('said'))) {
      (error as Error).message += `\n${message}`
    }
    throw error
  }
}

async function progress (monitor: Monitor): Promise<{ status: string, passes: number, error: string }> {
  const { status, ram, 'error-desc': error = '' } = await monitor.execute('query-migrate')
  return { status, passes: ram?.['dirty-sync-count'] ?? 0, error }
}

async function completed (from: Monitor, to: Monitor): Promise<void> {
  await until('the migration is complete', async () => {
    const { status, error } = await progress(from)
    assert.is.not(status, 'failed', error)
    return status === 'completed'
  }, 200)
  await until('the guest runs on', async () => (await to.execute('query-status')).running, 90)
}

test.after.each(cleanUp)
test.run()
