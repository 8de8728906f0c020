import { equal, match, ok } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { Guest, qemu, uml, withoutExtendedRegisters } from '../../test/support/guest.ts'
import { checkFileSystem, imageOf } from '../../test/support/image.ts'
import { writeInitramfs } from '../../test/support/initramfs.ts'
import { cloudKernel, umlKernel } from '../../test/support/kernel.ts'
import { Running } from '../../test/support/processes.ts'
import { testWith } from '../../test/support/programs.ts'
import { server, withServer } from '../../test/support/server.ts'
import { cleanUp, temporaryFolder } from '../../test/support/temporary.ts'

const program = fileURLToPath(new URL('boot.ts', import.meta.url))
const readme = readFileSync(new URL('../../packages/vhost-user-blk/README.md', import.meta.url), 'utf8')
const LIMIT_SECONDS = 200

const SCRIPT = `
mount /dev/vda /mnt
say greeting $(cat /mnt/greeting)
echo 'hello from the guest' > /mnt/answer
umount /mnt
mount -o ro /dev/vda /mnt
say answer $(cat /mnt/answer)
umount /mnt
`

/** An image with a file system that greets. */
function greetingImage (): string {
  const folder = temporaryFolder()
  writeFileSync(join(folder, 'greeting'), 'hello from the host')
  return imageOf(folder, 16)
}

function initramfs (modules: readonly string[]): string {
  const file = join(temporaryFolder(), 'initramfs')
  writeInitramfs(file, modules, SCRIPT)
  return file
}

/** Boots the image, and checks what the guest read from it and wrote to it. */
async function bootFrom (image: string, start: (socket: string) => Running): Promise<void> {
  await withServer({ image }, async ({ socket }) => {
    const results = await new Guest(start(socket), LIMIT_SECONDS).finished()
    equal(results.get('greeting'), 'hello from the host')
    equal(results.get('answer'), 'hello from the guest')
  })
  checkFileSystem(image)
}

function printed (...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...process.execArgv, program, '--print', ...args], { encoding: 'utf8', timeout: 120_000 })
  equal(status, 0, stderr)
  return stdout
}

/** The words of a command line, as a shell takes them. */
function words (text: string): string[] {
  const { stdout } = spawnSync('sh', ['-c', `set -- ${text}\nfor word; do printf '%s\\0' "$word"; done`], { encoding: 'utf8' })
  return stdout.split('\0').slice(0, -1)
}

test.after.each(cleanUp)

testWith(server, ...qemu)('QEMU boots Linux, which reads from the disk and writes to it', async () => {
  const { file, modules } = cloudKernel()
  const initrd = initramfs(modules)
  await bootFrom(greetingImage(), (socket) => new Running('boot.ts', process.execPath, [
    ...process.execArgv, program, '--vmm=qemu', '--accel=tcg', `--kernel=${file}`, `--initrd=${initrd}`, `--socket=${socket}`
  ]))
})

testWith(server, ...uml)('User-Mode Linux boots by the printed command line', async () => {
  const { file, modules } = umlKernel()
  const folder = temporaryFolder()
  const kernel = join(folder, 'kernel')
  writeFileSync(kernel, `#!/bin/sh\nexec ${withoutExtendedRegisters([file]).join(' ')} "$@"\n`, { mode: 0o755 })
  const initrd = initramfs(modules)
  await bootFrom(greetingImage(), (socket) => {
    const line = printed('--vmm=uml', `--kernel=${kernel}`, `--initrd=${initrd}`, `--socket=${socket}`)
    return new Running('User-Mode Linux', 'sh', ['-c', line], { HOME: folder })
  })
})

test('what is printed has the options that the documentation of the server has for each VMM', () => {
  const machine = ['--kernel=vmlinux', '--socket=/tmp/disk.sock', '--memory=2048']
  const expected: Record<string, string[]> = {
    qemu: ['share=on', 'vhost-user-blk-pci,chardev=disk,num-queues=1', 'socket,id=disk,path=/tmp/disk.sock'],
    'cloud-hypervisor': ['shared=on', '--disk vhost_user=on,socket=/tmp/disk.sock,num_queues=1', '--kernel vmlinux'],
    crosvm: ['--mem 2048', '--vhost-user block,socket=/tmp/disk.sock', "-p 'root=/dev/vda rw'"],
    firecracker: ['"socket": "/tmp/disk.sock"', '"cache_type": "Writeback"'],
    uml: ['virtio_uml.device=/tmp/disk.sock:2', 'con=null con0=fd:0,fd:1']
  }
  for (const [vmm, options] of Object.entries(expected)) {
    const line = printed(`--vmm=${vmm}`, ...machine).replace(/ \\\n */g, ' ')
    for (const option of options) {
      ok(line.includes(option), `${vmm}: ${option} is not in\n${line}`)
      ok(readme.includes(option), `${vmm}: ${option} is not in the documentation`)
    }
  }
})

test('a word with spaces and quotes is still one when the printed line is typed', () => {
  const parameters = "root=/dev/vda1 init='/bin/my init'"
  for (const vmm of ['qemu', 'cloud-hypervisor', 'crosvm', 'uml']) {
    const line = words(printed(`--vmm=${vmm}`, '--kernel=/boot/my kernel', '--socket=/tmp/disk.sock', '--initrd=/boot/initrd', `--parameters=${parameters}`))
    ok(line.includes('/boot/my kernel'), line.join('\n'))
    ok(line.some((word) => word.endsWith(parameters)), line.join('\n'))
    ok(line.some((word) => /^(initrd=)?\/boot\/initrd$/.test(word)), line.join('\n'))
  }
})

test('Firecracker is given a file, as its own documentation has it', () => {
  const folder = temporaryFolder()
  const socket = join(folder, 'disk.sock')
  const text = printed('--vmm=firecracker', '--kernel=vmlinux', `--socket=${socket}`, '--processors=2')
  // Everything but Firecracker itself.
  const { status, stdout } = spawnSync('sh', ['-c', `firecracker () { printf '%s ' "$@"; }\n${text}`], { encoding: 'utf8' })
  equal(status, 0)
  equal(stdout.trim(), `--no-api --config-file ${socket}.json`)
  const configuration = JSON.parse(readFileSync(`${socket}.json`, 'utf8'))
  equal(configuration['boot-source'].kernel_image_path, 'vmlinux')
  match(configuration['boot-source'].boot_args, /^console=ttyS0 .* root=\/dev\/vda rw$/)
  equal(JSON.stringify(configuration.drives), JSON.stringify([{ drive_id: 'disk', socket, is_root_device: false, cache_type: 'Writeback' }]))
  equal(JSON.stringify(configuration['machine-config']), JSON.stringify({ vcpu_count: 2, mem_size_mib: 512 }))
})

test('a VMM that is not there, and a command line that is wrong, are told', () => {
  const folder = temporaryFolder()
  const boot = (...args: string[]): { status: number | null, stderr: string } =>
    spawnSync(process.execPath, [...process.execArgv, program, '--kernel=vmlinux', `--socket=${folder}/disk.sock`, ...args], {
      encoding: 'utf8', timeout: 120_000, env: { ...process.env, PATH: '/nonexistent' }
    })
  const missing = boot('--vmm=firecracker')
  equal(missing.status, 1)
  match(missing.stderr, /^firecracker cannot be started: /)
  ok(!existsSync(`${folder}/disk.sock.json`), 'its file is removed')
  for (const wrong of [['--vmm=toString'], ['--vmm=qemu', '--memory=much'], []]) {
    const { status, stderr } = boot(...wrong)
    equal(status, 2)
    match(stderr, /--vmm=NAME {9}qemu, cloud-hypervisor, crosvm, firecracker, uml/)
  }
})

test.run()
