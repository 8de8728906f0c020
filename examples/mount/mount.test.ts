import { equal, match, ok } from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { StorageDaemon } from '../../packages/virtio-blk-driver/test/support/storage-daemon.ts'
import { blankImage } from '../../test/support/image.ts'
import { path, programs, testWith } from '../../test/support/programs.ts'
import { ourServer, withServer } from '../../test/support/server.ts'
import { cleanUp, temporaryFolder } from '../../test/support/temporary.ts'

const program = fileURLToPath(new URL('mount.ts', import.meta.url))
const MIB = 1 << 20

interface Run {
  readonly status: number | null
  readonly output: string
  readonly errors: string
}

function mount (...args: string[]): Run {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...process.execArgv, program, ...args], { encoding: 'utf8', timeout: 120_000 })
  return { status, output: stdout, errors: stderr }
}

/** Partitions of a megabyte each, of one type: what fdisk would write. */
function writeMbr (image: string, types: number[]): void {
  const sector = Buffer.alloc(512)
  types.forEach((type, index) => {
    sector.writeUInt8(type, 446 + 16 * index + 4)
    sector.writeUInt32LE(2048 * (index + 1), 446 + 16 * index + 8)
    sector.writeUInt32LE(2048, 446 + 16 * index + 12)
  })
  sector.writeUInt16LE(0xaa55, 510)
  write(image, 0, sector)
}

/** The same, as a GPT. Checksums are left out: they are not looked at. */
function writeGpt (image: string, names: string[]): void {
  writeMbr(image, [0xee])
  const header = Buffer.alloc(512)
  header.write('EFI PART')
  header.writeBigUInt64LE(2n, 72)
  header.writeUInt32LE(128, 80)
  header.writeUInt32LE(128, 84)
  write(image, 512, header)
  names.forEach((name, index) => {
    const entry = Buffer.alloc(128)
    entry.writeBigUInt64LE(BigInt(2048 * (index + 1)), 32)
    entry.writeBigUInt64LE(BigInt(2048 * (index + 2) - 1), 40)
    entry.write(name, 56, 'utf16le')
    write(image, 1024 + 128 * index, entry)
  })
}

function write (image: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(image, 'r+')
  writeSync(fd, bytes, 0, bytes.length, offset)
  closeSync(fd)
}

function makeFileSystem (image: string, offset: number, kilobytes: number, ...args: string[]): void {
  execFileSync(path('mkfs.ext4'), ['-q', '-F', '-E', `offset=${offset}`, ...args, image, `${kilobytes}k`], { stdio: ['ignore', 'inherit', 'ignore'] })
}

test.after.each(cleanUp)

testWith(ourServer)('the disk of our server is described, and copied', async () => {
  const image = blankImage(8)
  write(image, 3 * MIB, randomBytes(2 * MIB))
  const copy = join(temporaryFolder(), 'copy.img')
  await withServer({ image, queues: 2 }, async ({ socket, serial }) => {
    const { status, output, errors } = mount(socket, `--copy=${copy}`)
    equal(status, 0, errors)
    match(output, /^disk +8 MiB, blocks of 512, read-write, queues: 2$/m)
    match(output, new RegExp(`^serial +${serial}$`, 'm'))
    match(output, /^features .* FLUSH .* DISCARD .* VERSION_1$/m)
    match(output, /^copied .*: 8 MiB, 2 MiB of it data, in /m)

    const again = mount(socket, `--copy=${copy}`)
    equal(again.status, 1)
    match(again.errors, /^EEXIST/)
  })
  ok(readFileSync(copy).equals(readFileSync(image)), 'the copy is the image')
  ok(statSync(copy).blocks * 512 < 4 * MIB, 'zeroes are holes')
})

testWith(ourServer, programs('mkfs.ext4'))('file systems are found in partitions, by MBR and by GPT, and what a disk calls them cannot reach the terminal', async () => {
  const mbr = blankImage(4)
  writeMbr(mbr, [0x83, 0x82])
  makeFileSystem(mbr, MIB, 1024, '-L', 'root', '-U', '01234567-89ab-cdef-0123-456789abcdef')
  await withServer({ image: mbr, readOnly: true }, async ({ socket }) => {
    const { output } = mount(socket)
    match(output, /read-only/)
    match(output, /^partition +at 1048576: 1 MiB, type 0x83\next4 +label root, 1 MiB, \d+ % free, UUID 01234567-89ab-cdef-0123-456789abcdef\npartition +at 2097152: 1 MiB, type 0x82$/m)
  })

  const gpt = blankImage(4)
  writeGpt(gpt, ['boot', 'ro\x1b[2Jot'])
  makeFileSystem(gpt, 2 * MIB, 1024, '-O', '^extent,^64bit,^has_journal')
  await withServer({ image: gpt }, async ({ socket }) => {
    const { output } = mount(socket)
    match(output, /^partition +at 1048576: 1 MiB, "boot"\npartition +at 2097152: 1 MiB, "ro\?\[2Jot"\next2 +label none, 1 MiB, /m)
  })
})

testWith(programs('qemu-storage-daemon', 'mkfs.ext4'))("the disk of QEMU's storage daemon is described, and copied", async () => {
  const image = blankImage(8)
  makeFileSystem(image, 0, 8192, '-L', 'from-qemu')
  const before = readFileSync(image)
  const copy = join(temporaryFolder(), 'copy.img')
  const daemon = await StorageDaemon.start({ disk: image })
  const { status, output, errors } = mount(daemon.socketPath, `--copy=${copy}`)
  equal(status, 0, errors)
  match(output, /^disk +8 MiB, .*\nserial +vhost_user_blk\nfeatures .*FLUSH.*\next4 +label from-qemu, 8 MiB, /m)
  ok(readFileSync(copy).equals(before), 'the copy is the image')
})

test('that nobody is at the socket is told in a sentence', () => {
  const { status, errors } = mount('/nonexistent/disk.sock')
  equal(status, 1)
  match(errors, /\/nonexistent\/disk\.sock/)
  equal(errors.trim().split('\n').length, 1)
  equal(mount().status, 2)
})

testWith(ourServer)('a broken partition table, and a disk of one sector, show no partition and no failure', async () => {
  const broken = blankImage(1)
  writeGpt(broken, ['beyond the end'])
  const small = join(temporaryFolder(), 'small.img')
  writeFileSync(small, randomBytes(512))
  for (const image of [broken, small]) {
    await withServer({ image }, async ({ socket }) => {
      const { status, output, errors } = mount(socket)
      equal(status, 0, errors)
      match(output, /^disk /)
      ok(!output.includes('partition'), output)
    })
  }
})

test.run()
