import { equal, match } from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { pcDownload } from '../../../test/support/i386.ts'
import { checkFileSystem, checksum, imageOf } from '../../../test/support/image.ts'
import { Running } from '../../../test/support/processes.ts'
import { path, programs, testWith } from '../../../test/support/programs.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { callBlocks, codeBlocks } from './stale-code.ts'

const program = fileURLToPath(new URL('../v86.ts', import.meta.url))
const BLOCKS = 20
const SUM = BLOCKS * (BLOCKS + 1) / 2
/** The emulator boots in 15 seconds on a quiet machine. */
const LIMIT_SECONDS = 240

const SCRIPT = `
mount /dev/vda /mnt
say read "$(md5sum < /mnt/large)"

dd if=/dev/urandom of=/mnt/written bs=64k count=64
say written "$(md5sum < /mnt/written)"
echo 'hello from the guest' > /mnt/hello
umount /mnt

# Resets the device, and starts it anew.
rmmod virtio_blk
insmod /modules/*virtio_blk.ko
mount /dev/vda /mnt
say again "$(md5sum < /mnt/written)"

sum=0
/mnt/call-blocks || sum=$?
say sum $sum

for i in 1 2 3 4; do dd if=/dev/vda of=/dev/null bs=16k count=64 skip=$((i * 64)) iflag=direct & done
wait
umount /mnt
`

const run = (...args: string[]): Running => new Running('the virtual machine', process.execPath, [...process.execArgv, program, ...args])
const testMachine = testWith(pcDownload, programs('mkfs.ext4', 'e2fsck', 'debugfs'))

test.after.each(cleanUp)

testMachine('Linux boots, and what it wrote to its disk is in the image', async () => {
  const folder = temporaryFolder()
  const large = join(folder, 'large')
  writeFileSync(large, randomBytes(5_000_000))
  writeFileSync(join(folder, 'blocks'), codeBlocks(BLOCKS))
  writeFileSync(join(folder, 'call-blocks'), callBlocks('/mnt/blocks', BLOCKS), { mode: 0o755 })
  const image = imageOf(folder, 64)
  const script = join(temporaryFolder(), 'script')
  writeFileSync(script, SCRIPT)

  const machine = run(`--image=${image}`, `--script=${script}`)
  equal((await machine.ended(LIMIT_SECONDS)).status, 0, machine.output)
  const said = (name: string): string | undefined => machine.output.match(new RegExp(`^@@ ${name} ?(\\S*)`, 'm'))?.[1]
  equal(said('end'), '0', machine.output)

  equal(said('read'), checksum(large), 'the guest reads what the host wrote')
  equal(said('again'), said('written'), 'the guest reads what it wrote, after a reset')
  equal(said('sum'), String(SUM), 'code that the disk wrote is run, not what was in its place before')
  checkFileSystem(image)
  const dump = (file: string): Buffer => execFileSync(path('debugfs'), ['-R', `cat ${file}`, image], { stdio: ['ignore', 'pipe', 'ignore'], maxBuffer: 2 ** 26 })
  equal(dump('/hello').toString(), 'hello from the guest\n')
  const written = join(folder, 'written')
  writeFileSync(written, dump('/written'))
  equal(checksum(written), said('written'), 'the host reads what the guest wrote')

  match(machine.output, /^[1-9]\d* requests .*, [1-9]\d* kicks, [1-9]\d* interrupts$/m)
})

testMachine('an image that is not there is told in a sentence', async () => {
  const machine = run('--image=/nonexistent/disk.img')
  equal((await machine.ended(LIMIT_SECONDS)).status, 1)
  match(machine.output, /^[^\n]*\/nonexistent\/disk\.img[^\n]*\n$/)
})

test('without an image it says how to make one', async () => {
  const machine = run()
  equal((await machine.ended(LIMIT_SECONDS)).status, 2)
  match(machine.output, /truncate -s 64M disk\.img && mkfs\.ext4 disk\.img/)
})

test.run()
