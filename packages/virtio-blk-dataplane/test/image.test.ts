import assert from 'node:assert/strict'
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, mkdirSync, readdirSync, readlinkSync, symlinkSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fileStatus, NativeMemory, O_NOATIME, openFlags, preadv } from '@node-vmm/libc'
import { test } from 'uvu'
import { DataPlaneError, type DataPlaneErrorCode } from '../src/errors.ts'
import { Image, type ImageOptions } from '../src/image.ts'
import { Scratch } from './support/image.ts'

const scratch = new Scratch()
const loader = fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url))
const children: ChildProcess[] = []
test.after(() => { for (const child of children) child.kill('SIGKILL') })
process.on('exit', () => scratch.remove())

function refuses (options: ImageOptions, code: DataPlaneErrorCode, text: RegExp): void {
  assert.throws(() => Image.open(options).close(), (error) => error instanceof DataPlaneError && error.code === code && text.test(error.message))
}

const descriptors = (): number => readdirSync('/proc/self/fd').length

test('an image tells its size, and gives its descriptor back at the end', () => {
  const path = scratch.file('plain.img', 5 * 512)
  const before = descriptors()
  const image = Image.open({ path })
  assert.equal(image.size, 2560)
  assert.equal(image.readOnly, false)
  assert.ok(descriptors() > before)
  image.close()
  assert.equal(descriptors(), before)
})

test('the access time of an image is left alone', () => {
  const image = Image.open({ path: scratch.file('quiet.img', 512) })
  assert.equal(openFlags(image.fd) & O_NOATIME, O_NOATIME)
  image.close()
})

test('where only its owner may leave the access time alone, an image is opened all the same', () => {
  if (process.getuid!() !== 0) return console.log('skipped: only root may give files away')
  const path = scratch.file('loud.img', 512)
  chownSync(path, 1000, 1000)
  chmodSync(path, 0o666)
  const child = fileURLToPath(new URL('support/open-child.ts', import.meta.url))
  const { stdout, stderr } = spawnSync('setpriv', [
    '--bounding-set=-fowner', process.execPath, '--import', loader, '--conditions=@node-vmm/source', child, path
  ], { encoding: 'utf8', timeout: 20_000 })
  assert.equal(stdout, '0\n', stderr)
})

test('a sparse image of 8 TiB is one', () => {
  const path = scratch.file('huge.img', 512)
  truncateSync(path, 8 * 2 ** 40)
  const image = Image.open({ path, readOnly: true })
  assert.equal(image.size, 8 * 2 ** 40)
  image.close()
})

test('a symbolic link is followed', () => {
  const path = join(scratch.directory, 'link')
  symlinkSync(scratch.file('linked.img', 1024), path)
  const image = Image.open({ path })
  assert.equal(image.size, 1024)
  image.close()
})

test('a symbolic link is refused where links are not to be followed, with what to do; the file itself is not', () => {
  const file = scratch.file('not-linked.img', 1024)
  const path = join(scratch.directory, 'unwanted-link')
  symlinkSync(file, path)
  const before = descriptors()
  assert.throws(() => Image.open({ path, noFollow: true }), { code: 'ELOOP', message: /unwanted-link: ELOOP.*symbolic link: name the file itself/ })
  assert.equal(descriptors(), before)
  Image.open({ path: file, noFollow: true }).close()
})

test('both descriptors of a direct image are of one file, whatever its path names meanwhile', () => {
  const path = scratch.file('direct-swapped.img', 1 << 16)
  let image
  try {
    image = Image.open({ path, direct: true, noFollow: true })
  } catch (error) {
    assert.match((error as Error).message, /direct/i)
    return console.log(`skipped: ${(error as Error).message}`)
  }
  assert.equal(readlinkSync(`/proc/self/fd/${image.bufferedFd}`), readlinkSync(`/proc/self/fd/${image.fd}`))
  assert.equal(fileStatus(image.bufferedFd!).inode, fileStatus(image.fd).inode)
  image.close()
})

test('a format other than raw is refused, with the way to convert it, before the file is looked at', () => {
  refuses({ path: '/no/such.qcow2', format: 'qcow2' }, 'ERR_FORMAT', /\/no\/such\.qcow2 .*qcow2.*raw images only.*qemu-img convert -O raw/)
})

test('nothing is guessed from the content: an image that looks like a qcow2 is served as the bytes it has', () => {
  const image = Image.open({ path: scratch.file('looks-like.qcow2', Buffer.concat([Buffer.from('QFI\xfb\0\0\0\x03', 'latin1'), Buffer.alloc(504)])) })
  assert.equal(image.size, 512)
  image.close()
})

test('a missing file: the error names it and says how to make one', () => {
  const path = join(scratch.directory, 'missing.img')
  assert.throws(() => Image.open({ path }), { name: 'LinuxError', code: 'ENOENT', syscall: 'open', message: new RegExp(`${path}.*truncate -s 1G ${path}`) })
})

test('files that cannot be a disk are refused, with what to do about it, and leave no descriptor open', () => {
  const before = descriptors()
  refuses({ path: scratch.file('empty.img', 0) }, 'ERR_IMAGE', /has 0 bytes/)
  refuses({ path: scratch.file('odd.img', 1025) }, 'ERR_IMAGE', /has 1025 bytes: .*sectors of 512.*truncate -s '%512'/)
  refuses({ path: '/dev/null' }, 'ERR_IMAGE', /\/dev\/null is neither a file nor a block device/)
  const folder = join(scratch.directory, 'folder')
  mkdirSync(folder)
  assert.throws(() => Image.open({ path: folder }), { code: 'EISDIR', message: /name a file/ })
  refuses({ path: folder, readOnly: true }, 'ERR_IMAGE', /neither a file nor a block device/)
  assert.equal(descriptors(), before)
})

test('a file that may only be read is served read-only, and refused for writing with that remedy', () => {
  if (process.getuid!() === 0) return console.log('skipped: root may write everything')
  const path = scratch.file('read.img', 512)
  chmodSync(path, 0o400)
  assert.throws(() => Image.open({ path }), { code: 'EACCES', message: /read-only/ })
  Image.open({ path, readOnly: true }).close()
})

test('one writer alone, or readers together', () => {
  const path = scratch.file('locked.img', 512)
  const before = descriptors()
  const writer = Image.open({ path })
  refuses({ path }, 'ERR_IMAGE_LOCKED', /locked\.img is in use.*Stop it/)
  refuses({ path, readOnly: true }, 'ERR_IMAGE_LOCKED', /in use/)
  writer.close()

  const readers = [Image.open({ path, readOnly: true }), Image.open({ path, readOnly: true })]
  refuses({ path }, 'ERR_IMAGE_LOCKED', /in use.*read-only/)
  readers.pop()!.close()
  refuses({ path }, 'ERR_IMAGE_LOCKED', /in use/)
  readers.pop()!.close()

  // Those who were refused hold nothing.
  Image.open({ path }).close()
  assert.equal(descriptors(), before)
})

for (const readOnly of [false, true]) {
  test(`O_DIRECT${readOnly ? ', read-only' : ''}: the page cache is bypassed where the file system can`, () => {
    const path = scratch.file('direct.img', 1 << 16)
    let image
    try {
      image = Image.open({ path, readOnly, direct: true })
    } catch (error) {
      assert.match((error as Error).message, /direct/i)
      return console.log(`skipped: ${(error as Error).message}`)
    }
    const memory = new NativeMemory(8192)
    memory.setUint64(4096, memory.address)
    memory.setUint64(4104, 4096)
    assert.equal(preadv(image.fd, memory.address + 4096, 1, 0), 4096)
    // What is not aligned to a sector shows that the cache is not there to help.
    memory.setUint64(4104, 100)
    assert.equal(preadv(image.fd, memory.address + 4096, 1, 0), -22)
    memory.close()
    image.close()
  })
}

// QEMU's tools on an image: each with how it is to be used there.
const tools: readonly (readonly [title: string, command: string, args: (path: string) => string[]])[] = [
  ['qemu-img info', 'qemu-img', (path) => ['info', path]],
  ['qemu-img convert', 'qemu-img', (path) => ['convert', '-f', 'raw', '-O', 'raw', path, `${path}.copy`]],
  ['qemu-img resize', 'qemu-img', (path) => ['resize', '-f', 'raw', path, '2M']],
  ['writing by qemu-io', 'qemu-io', (path) => ['-f', 'raw', '-c', 'write 0 512', path]],
  ['reading by qemu-io', 'qemu-io', (path) => ['-f', 'raw', '-r', '-c', 'read 0 512', path]]
]

/** What each tool says to an image: the error that QEMU prints, or nothing. */
function ask (path: string): string[] {
  return tools.map(([title, command, args]) => {
    const { status, stderr } = spawnSync(command, args(path), { encoding: 'utf8', timeout: 60_000 })
    return `${title}: ${status === 0 ? 'works' : /Failed to get .*lock/.exec(stderr)?.[0] ?? stderr}`
  })
}

/** Has a machine of QEMU's, which never runs, open an image for a disk of its. */
async function openInQemu (path: string, writable: boolean): Promise<ChildProcess> {
  const machine = spawn('qemu-system-x86_64', [
    '-accel', 'tcg', '-machine', 'q35', '-S', '-nodefaults', '-display', 'none', '-qmp', 'stdio',
    '-blockdev', `driver=file,node-name=disk,filename=${path},read-only=${writable ? 'off' : 'on'}`,
    '-device', 'virtio-blk-pci,drive=disk'
  ], { stdio: ['pipe', 'pipe', 'pipe'] })
  children.push(machine)
  let complaint = ''
  machine.stderr.on('data', (chunk) => { complaint += chunk })
  let answers = ''
  machine.stdout.on('data', (chunk) => { answers += chunk })
  machine.stdin.write('{"execute": "qmp_capabilities"}{"execute": "query-block", "id": "ready"}')
  // Commands are answered when all devices are there; the greeting may come before.
  while (!answers.includes('"ready"')) await Promise.race([once(machine.stdout, 'data'), once(machine, 'exit').then(() => assert.fail(complaint))])
  return machine
}

async function stop (child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  await exited
}

const missing = ['qemu-img', 'qemu-io', 'qemu-system-x86_64'].find((tool) => spawnSync(tool, ['--version']).error !== undefined)

for (const writable of [true, false]) {
  test(`qemu-img and qemu-io treat our image as one that a machine of QEMU's has open ${writable ? 'to write' : 'to read'}`, async () => {
    if (missing !== undefined) return console.log(`skipped: no ${missing} here`)
    const path = scratch.file(`theirs-${writable}.img`, 1 << 20)
    const machine = await openInQemu(path, writable)
    const theirs = ask(path)
    refuses({ path }, 'ERR_IMAGE_LOCKED', /in use by another process \(QEMU/)
    if (writable) refuses({ path, readOnly: true }, 'ERR_IMAGE_LOCKED', /in use/)
    else Image.open({ path, readOnly: true }).close()
    await stop(machine)

    const image = Image.open({ path, readOnly: !writable })
    const ours = ask(path)
    image.close()
    assert.deepEqual(ours, theirs)
    assert.ok(ours.includes('qemu-img resize: Failed to get "write" lock'), ours.join('; '))
    assert.equal(ours.includes('qemu-img convert: Failed to get shared "write" lock'), writable)

    // Closed, it is free.
    assert.deepEqual(ask(path).filter((answer) => !answer.endsWith(': works')), [])
  })
}

test('an image that qemu-io writes to is refused until it ends', async () => {
  if (missing !== undefined) return console.log(`skipped: no ${missing} here`)
  const path = scratch.file('qemu-io.img', 1 << 20)
  const child = spawn('qemu-io', ['-f', 'raw', path], { stdio: ['pipe', 'pipe', 'inherit'] })
  children.push(child)
  child.stdin!.write('write 0 512\n')
  await once(child.stdout!, 'data')
  refuses({ path }, 'ERR_IMAGE_LOCKED', /in use/)
  const exited = once(child, 'exit')
  child.stdin!.end('quit\n')
  await exited
  Image.open({ path }).close()
})

test('locked only while it is used: two may have it open, one may use it, and the next one after that', () => {
  const path = scratch.file('handed-over.img', 1024)
  const [source, destination] = [1, 2].map(() => Image.open({ path, lock: 'running' })) as [Image, Image]
  source.beginUse()
  assert.throws(() => destination.beginUse(), { code: 'ERR_IMAGE_LOCKED' })
  source.endUse()
  destination.beginUse()
  assert.throws(() => source.beginUse(), { code: 'ERR_IMAGE_LOCKED' })
  refuses({ path }, 'ERR_IMAGE_LOCKED', /in use/)
  destination.close()
  source.beginUse()
  source.close()
})

test.run()
