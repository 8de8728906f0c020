import { deepEqual, equal, rejects, throws } from 'node:assert/strict'
import { openSync, closeSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { createOverlay } from '../src/overlay-create.ts'
import { clustersOf, dataStart, decodeHeader, encodeHeader, fileSize } from '../src/overlay-format.ts'
import { overlay } from '../src/overlay.ts'
import { ram } from '../src/ram.ts'

test.after.each(cleanUp)

const header = { capacity: 10 * 2 ** 40, clusterSize: 65536, baseSize: 3 * 2 ** 40, baseName: '/images/Übung 1.img' }

async function newOverlay (): Promise<string> {
  const file = join(temporaryFolder(), 'vm.ovl')
  await createOverlay({ base: ram({ capacity: 1 << 20 }), file })
  return file
}

function damage (file: string, position: number, byte: number): void {
  const fd = openSync(file, 'r+')
  writeSync(fd, Uint8Array.of(byte), 0, 1, position)
  closeSync(fd)
}

test('a header says what it was made of', () => {
  deepEqual(decodeHeader(encodeHeader(header), 'x'), header)
})

test('the layout is the documented one', () => {
  const page = Buffer.from(encodeHeader(header))
  equal(page.length, 4096)
  equal(page.toString('latin1', 0, 16), 'node-vmm overlay')
  deepEqual([16, 20, 52].map((at) => page.readUInt32LE(at)), [1, 65536, 20])
  deepEqual([24, 32, 40].map((at) => Number(page.readBigUInt64LE(at))), [header.capacity, header.baseSize, dataStart(header)])
  // Two bits for each of 160 Mi clusters, after the header: 40 MiB and a page, in whole clusters.
  equal(clustersOf(header), 160 * 2 ** 20)
  equal(dataStart(header), (40 << 20) + 65536)
  equal(fileSize(header), dataStart(header) + header.capacity)
})

test('a path that does not fit into the header is refused', () => {
  throws(() => encodeHeader({ ...header, baseName: 'ü'.repeat(513) }), { code: 'ERR_OVERLAY_BASE' })
})

test('what is no overlay, or one of another version, is refused', async () => {
  const file = join(temporaryFolder(), 'disk.img')
  writeFileSync(file, Buffer.alloc(1 << 20))
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY', message: /is no overlay: it does not begin with 'node-vmm overlay'/ })
  writeFileSync(file, '')
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY' })
  const newer = await newOverlay()
  damage(newer, 16, 2)
  await rejects(overlay({ file: newer }), /version 2/)
})

test('a header that does not fit its checksum is refused', async () => {
  for (const position of [21, 25, 40, 55, 70, 4095]) {
    const file = await newOverlay()
    damage(file, position, 0x5a)
    await rejects(overlay({ file }), { code: 'ERR_OVERLAY', message: /checksum/ }, `byte ${position}`)
  }
})

test('a header that makes no sense is refused, though its checksum fits', () => {
  for (const wrong of [{ clusterSize: 3000 }, { clusterSize: 1 << 30 }, { capacity: 0 }, { baseSize: 0 }]) {
    throws(() => decodeHeader(encodeHeader({ ...header, ...wrong }), 'x'), { code: 'ERR_OVERLAY', message: /makes no sense/ })
  }
})

test('a file that was cut is refused', async () => {
  const file = await newOverlay()
  truncateSync(file, readFileSync(file).length - 1)
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY', message: /was cut to 1114111 bytes, and needs 1114112/ })
  truncateSync(file, 100)
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY' })
})

test('a map with a state that does not exist is refused', async () => {
  const file = await newOverlay()
  damage(file, 4096 + 2, 0b00110000)
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY', message: /clusters 8 to 11/ })
})

test('an overlay is not made over a file that is there', async () => {
  const file = join(temporaryFolder(), 'precious')
  writeFileSync(file, 'precious')
  await rejects(createOverlay({ base: ram({ capacity: 1 << 20 }), file }), { code: 'EEXIST' })
  equal(readFileSync(file, 'utf8'), 'precious')
})

test.run()
