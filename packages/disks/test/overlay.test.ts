import { deepEqual, equal, notEqual, ok, rejects } from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { overlay } from '../src/overlay.ts'
import { ram } from '../src/ram.ts'
import { raw } from '../src/raw.ts'
import { checkAgainstModel, pattern, read, signal, write } from './support/model.ts'

const CLUSTER = 4096

test.after.each(cleanUp)

function baseImage (bytes: Uint8Array): { base: string, file: string } {
  const folder = temporaryFolder()
  writeFileSync(join(folder, 'base.img'), bytes)
  return { base: join(folder, 'base.img'), file: join(folder, 'vm.ovl') }
}

for (const seed of [1, 2, 3, 4, 5, 6]) {
  test(`random requests, several at once, against a model; then once more after it was opened again (seed ${seed})`, async () => {
    const model = pattern(20 * CLUSTER + 1536, seed)
    const content = Buffer.from(model)
    const paths = baseImage(content)
    const disk = await overlay({ ...paths, clusterSize: CLUSTER })
    await checkAgainstModel(disk, model, seed, 60, 'unknown')
    await disk.close!()
    const again = await overlay({ file: paths.file })
    deepEqual(await read(again, 0, model.length), model)
    await checkAgainstModel(again, model, seed + 100, 40, 'unknown')
    await again.close!()
    deepEqual(readFileSync(paths.base), content, 'the base is as it was')
  })
}

test('two machines over one base do not see each other', async () => {
  const content = pattern(1 << 20, 7)
  const { base, file } = baseImage(content)
  const one = await overlay({ base, file: `${file}1` })
  const other = await overlay({ base, file: `${file}2` })
  const models = [Buffer.from(content), Buffer.from(content)]
  await Promise.all([checkAgainstModel(one, models[0]!, 8, 40, 'unknown'), checkAgainstModel(other, models[1]!, 9, 40, 'unknown')])
  notEqual(models[0]!.compare(models[1]!), 0)
  await one.close!()
  await other.close!()
  deepEqual(readFileSync(base), content)
})

test('a new overlay takes up next to nothing, and grows by what is written, in clusters', async () => {
  const { base, file } = baseImage(new Uint8Array(16 << 20))
  const disk = await overlay({ base, file })
  ok(statSync(file).blocks * 512 <= 128 << 10, `${statSync(file).blocks} sectors`)
  const before = statSync(file).blocks
  await write(disk, 5 << 20, pattern(512, 10))
  await disk.flush!(signal)
  const grown = (statSync(file).blocks - before) * 512
  ok(grown >= 64 << 10 && grown <= 128 << 10, `${grown} bytes`)
  await disk.discard!(5 << 20, 64 << 10, signal)
  ok(statSync(file).blocks - before <= 8, 'the space is back')
  await disk.close!()
})

test('a discarded cluster reads as zeroes, whatever the base has, also after it was opened again', async () => {
  const { base, file } = baseImage(pattern(8 * CLUSTER, 11))
  const disk = await overlay({ base, file, clusterSize: CLUSTER })
  await write(disk, CLUSTER, pattern(CLUSTER, 12))
  await disk.discard!(0, 3 * CLUSTER, signal)
  deepEqual(await read(disk, 0, 3 * CLUSTER), Buffer.alloc(3 * CLUSTER))
  await disk.close!()
  const again = await overlay({ file })
  deepEqual(await read(again, 0, 3 * CLUSTER), Buffer.alloc(3 * CLUSTER))
  const bytes = pattern(512, 13)
  await write(again, 2 * CLUSTER + 512, bytes)
  deepEqual(await read(again, 2 * CLUSTER, 1536), Buffer.concat([Buffer.alloc(512), bytes, Buffer.alloc(512)]), 'zeroes stay around what is written')
  await again.close!()
})

test('a discard of a part copies nothing: what is still the base\'s stays, what is not is zero', async () => {
  const content = pattern(4 * CLUSTER, 14)
  const { base, file } = baseImage(content)
  const disk = await overlay({ base, file, clusterSize: CLUSTER })
  await write(disk, CLUSTER, new Uint8Array(512).fill(1))
  await disk.discard!(512, 2 * CLUSTER, signal)
  deepEqual(await read(disk, 0, CLUSTER), content.subarray(0, CLUSTER))
  deepEqual(await read(disk, CLUSTER, CLUSTER), Buffer.alloc(CLUSTER))
  deepEqual(await read(disk, 2 * CLUSTER, CLUSTER), content.subarray(2 * CLUSTER, 3 * CLUSTER))
  await disk.close!()
})

test('write zeroes is exact, in parts of clusters too, at the odd end of the disk too', async () => {
  const content = pattern(3 * CLUSTER + 1024, 15)
  for (const [offset, length] of [[512, 512], [512, CLUSTER], [0, 512], [CLUSTER - 512, 512], [512, 2 * CLUSTER], [3 * CLUSTER, 1024], [CLUSTER + 512, 2 * CLUSTER + 512], [3 * CLUSTER + 512, 512]] as const) {
    const { base, file } = baseImage(content)
    const disk = await overlay({ base, file, clusterSize: CLUSTER })
    await disk.writeZeroes!(offset, length, true, signal)
    deepEqual(await read(disk, 0, content.length), Buffer.from(content).fill(0, offset, offset + length), `${length} at ${offset}`)
    await disk.close!()
  }
})

test('writes into one cluster of the base at once: all are there, and the rest is the base\'s', async () => {
  const content = pattern(2 * CLUSTER, 16)
  const { base, file } = baseImage(content)
  const disk = await overlay({ base, file, clusterSize: CLUSTER })
  const model = Buffer.from(content)
  await Promise.all([0, 1, 2, 4, 6].map((sector) => {
    const bytes = pattern(512, 100 + sector)
    bytes.copy(model, sector * 1024)
    return write(disk, sector * 1024, bytes)
  }))
  deepEqual(await read(disk, 0, content.length), model)
  await disk.close!()
})

test('an overlay over an overlay over a RAM disk that is smaller', async () => {
  const folder = temporaryFolder()
  const lowest = ram({ capacity: 5 * 512 })
  const content = pattern(5 * 512, 17)
  await write(lowest, 0, content)
  const middle = await overlay({ base: lowest, file: join(folder, 'middle.ovl'), capacity: 64 << 10 })
  const disk = await overlay({ base: middle, file: join(folder, 'top.ovl'), clusterSize: CLUSTER })
  const model = Buffer.concat([content, Buffer.alloc((64 << 10) - content.length)])
  deepEqual(await read(disk, 0, 64 << 10), model)
  await checkAgainstModel(disk, model, 18, 40, 'unknown')
  await disk.close!()
})

test('a base that is not the one the overlay was made over is refused', async () => {
  const { base, file } = baseImage(new Uint8Array(64 << 10))
  await (await overlay({ base, file })).close!()
  truncateSync(base, 128 << 10)
  await rejects(overlay({ base, file }), { code: 'ERR_OVERLAY_BASE', message: /made over a base of 65536 bytes, .*base\.img: this one has 131072\. Give it the base as it was, or rebase it\./ })
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY_BASE' })
  truncateSync(base, 64 << 10)
  await (await overlay({ file })).close!()
  const big = ram({ capacity: 64 << 10, blockSize: 64 << 10 })
  const small = `${file}.small`
  await (await overlay({ base, file: small, clusterSize: CLUSTER })).close!()
  await rejects(overlay({ base: big, file: small }), /not whole blocks of its base/)
})

test('a base without a path has to be given again', async () => {
  const file = join(temporaryFolder(), 'vm.ovl')
  const base = ram({ capacity: 64 << 10 })
  await (await overlay({ base, file })).close!()
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY_BASE', message: /say which base/ })
})

test('one user at a time; readers together', async () => {
  const { base, file } = baseImage(new Uint8Array(64 << 10))
  const disk = await overlay({ base, file })
  await rejects(overlay({ base, file }), { code: 'ERR_DISK_LOCKED' })
  await disk.close!()
  const readers = [await overlay({ file, readOnly: true }), await overlay({ file, readOnly: true })]
  await rejects(overlay({ file }), { code: 'ERR_DISK_LOCKED' })
  for (const reader of readers) await reader.close!()
})

test('nothing is made where there is no base, or nothing can be written', async () => {
  const { base, file } = baseImage(new Uint8Array(64 << 10))
  await rejects(overlay({ file }), { code: 'ERR_OVERLAY', message: /there is no overlay .* Say which base/ })
  await rejects(overlay({ base, file, readOnly: true }), { code: 'ERR_OVERLAY' })
  await rejects(overlay({ base, file, clusterSize: 5000 }), { code: 'ERR_DISK_OPTION' })
  await rejects(overlay({ base, file, capacity: 1000 }), { code: 'ERR_DISK_OPTION' })
  await rejects(overlay({ base: '/nowhere/base.img', file }), { code: 'ENOENT' })
  equal(existsSync(file), false)
  deepEqual(readdirSync(join(file, '..')), ['base.img'])
})

test('the base stays free for other readers, and is free after the close', async () => {
  const { base, file } = baseImage(new Uint8Array(64 << 10))
  const disk = await overlay({ base, file })
  await raw({ path: base, readOnly: true }).close!()
  await disk.close!()
  await raw({ path: base }).close!()
})

test.run()
