// The README's way to one's own disk in a running guest, word by word: all but what is downloaded, and without KVM.
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cloudKernel, cloudKernelDownload } from '../support/kernel.ts'
import { readPath, serveOwnDisk } from '../support/own-disk.ts'
import { Running } from '../support/processes.ts'
import { programs, testWith } from '../support/programs.ts'
import { ourServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'

const guestTest = testWith(ourServer, programs('qemu-system-x86_64', 'busybox', 'cpio'), cloudKernelDownload)

test.after.each(cleanUp)

/** Without a line that has to be there. */
function without (script: string, line: RegExp): string {
  assert.match(script, line)
  return script.replace(line, '')
}

/** What dpkg unpacks, as far as it is used. */
function unpackKernel (folder: string): void {
  const { file, modules } = cloudKernel()
  for (const name of ['boot', 'lib']) mkdirSync(join(folder, 'linux', name), { recursive: true })
  copyFileSync(file, join(folder, 'linux/boot', basename(file)))
  for (const module of modules) copyFileSync(module, join(folder, 'linux/lib', basename(module)))
}

/** Types at the guest's prompt. @returns what all of it printed, when it has powered off */
async function useGuest (folder: string, script: string, typed: string): Promise<string> {
  const input = join(folder, 'input')
  const guest = new Running('the guest', 'bash', ['-c', `cd ${folder} && rm -f input && mkfifo input && exec 3<>input && { ${script}\n} <&3`])
  await guest.printed(/\/ # /, 200)
  writeFileSync(input, typed)
  assert.equal(await guest.ended(100), { status: 0, signal: null })
  return guest.output
}

guestTest('what the README says leads to a disk of one\'s own in a running guest, which finds at its next boot what it wrote', async () => {
  const { install, guest, inGuest } = readPath()
  assert.match(install, /npm install @node-vmm\/vhost-user-blk$/m)
  const { folder, server } = await serveOwnDisk()
  unpackKernel(folder)
  const script = without(without(without(guest, /^apt-get download .*$/m), /^dpkg -x .*$/m), /-accel kvm /)
  await useGuest(folder, script, inGuest)
  const command = script.slice(script.indexOf('qemu-system-x86_64'))
  assert.match(await useGuest(folder, command, 'mount /dev/vda /mnt && cat /mnt/hello; exit\n'), /^hello from the guest$/m)
  assert.match(server.output, /^a front-end connected\nthe session ended: .*\na front-end connected\n/)
})

test.run()
