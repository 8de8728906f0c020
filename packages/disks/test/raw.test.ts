import { deepEqual, equal, match, throws } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { raw } from '../src/raw.ts'
import { checkAgainstModel, pattern, read, signal, write } from './support/model.ts'

test.after.each(cleanUp)

function image (bytes: Uint8Array): string {
  const path = join(temporaryFolder(), 'disk.img')
  writeFileSync(path, bytes)
  return path
}

test('what is written is read, and is in the file', async () => {
  const model = pattern(300 * 512, 1)
  const path = image(model)
  const disk = raw({ path })
  equal(disk.capacity, 300 * 512)
  await checkAgainstModel(disk, model, 2, 100)
  await disk.close!()
  deepEqual(readFileSync(path), model)
})

test('a discard gives space back, write zeroes keeps it unless told otherwise', async () => {
  const path = image(pattern(1 << 20, 3))
  const disk = raw({ path })
  await disk.flush!(signal)
  const full = statSync(path).blocks
  await disk.writeZeroes!(0, 512 << 10, false, signal)
  equal(statSync(path).blocks, full)
  await disk.discard!(0, 256 << 10, signal)
  equal(statSync(path).blocks, full - 512)
  await disk.writeZeroes!(256 << 10, 256 << 10, true, signal)
  equal(statSync(path).blocks, full - 1024)
  deepEqual(await read(disk, 0, 512 << 10), Buffer.alloc(512 << 10))
  await disk.close!()
})

test('beyond the end of a file that was cut are zeroes', async () => {
  const path = image(pattern(8192, 4))
  const disk = raw({ path, readOnly: true })
  const before = readFileSync(path)
  truncateSync(path, 1000)
  deepEqual(await read(disk, 0, 4096), Buffer.concat([before.subarray(0, 1000), Buffer.alloc(3096)]))
  await disk.close!()
})

test('more segments than one system call takes', async () => {
  const path = image(new Uint8Array(1 << 20))
  const disk = raw({ path })
  const bytes = pattern(1 << 20, 5)
  const segments = Array.from({ length: 2048 }, (_, index) => bytes.subarray(index * 512, (index + 1) * 512))
  await disk.write!(0, segments, signal)
  const back = Buffer.alloc(1 << 20)
  await disk.read(0, segments.map((_, index) => back.subarray(index * 512, (index + 1) * 512)), signal)
  deepEqual(back, bytes)
  deepEqual(readFileSync(path), bytes)
  await disk.close!()
})

test('read-only means no write, no flush, no discard', async () => {
  const disk = raw({ path: image(new Uint8Array(512)), readOnly: true })
  deepEqual([disk.readOnly, disk.write, disk.flush, disk.discard, disk.writeZeroes], [true, undefined, undefined, undefined, undefined])
  await disk.close!()
})

test('one writer alone, or readers together; closed, the image is free', async () => {
  const path = image(new Uint8Array(512))
  const writer = raw({ path })
  throws(() => raw({ path, readOnly: true }), { code: 'ERR_DISK_LOCKED' })
  await writer.close!()
  const readers = [raw({ path, readOnly: true }), raw({ path, readOnly: true })]
  throws(() => raw({ path }), { code: 'ERR_DISK_LOCKED' })
  for (const reader of readers) await reader.close!()
  await raw({ path }).close!()
})

test('qemu-io sees that an image is in use', async () => {
  if (spawnSync('qemu-io', ['--version']).error !== undefined) return console.log('skipped: there is no qemu-io')
  const path = image(new Uint8Array(1 << 20))
  const disk = raw({ path })
  const { stderr } = spawnSync('qemu-io', ['-f', 'raw', '-c', 'write 0 512', path], { encoding: 'utf8', timeout: 60_000 })
  match(stderr, /lock/)
  await disk.close!()
})

test('what is no disk is refused, and not left open', () => {
  const before = openFiles()
  throws(() => raw({ path: image(new Uint8Array(100)) }), /truncate -s '%512'/)
  throws(() => raw({ path: image(new Uint8Array(0)) }), { code: 'ERR_DISK_IMAGE' })
  throws(() => raw({ path: '/dev/null' }), /neither a file nor a block device/)
  throws(() => raw({ path: '/nowhere/disk.img' }), { code: 'ENOENT' })
  equal(openFiles(), before)
})

/** The lowest free descriptor. */
function openFiles (): number {
  const fd = openSync('/dev/null', 'r')
  closeSync(fd)
  return fd
}

test('what the system refuses is told by its code', async () => {
  const disk = raw({ path: image(new Uint8Array(512)) })
  await disk.close!()
  let code = ''
  await write(disk, 0, new Uint8Array(512)).catch((error) => { code = error.code })
  equal(code, 'EBADF')
})

test.run()
