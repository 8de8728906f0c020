import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { copyFileSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { createOverlay } from '../src/overlay-create.ts'
import { commit, rebase } from '../src/overlay-tools.ts'
import { overlay } from '../src/overlay.ts'
import { ram } from '../src/ram.ts'
import { raw } from '../src/raw.ts'
import { checkAgainstModel, pattern, read, signal, write } from './support/model.ts'

const CLUSTER = 4096

test.after.each(cleanUp)

/** A base image and an overlay over it with changes. @returns what the overlay's disk has, too */
async function changedOverlay (bytes = 20 * CLUSTER + 1024): Promise<{ folder: string, base: string, file: string, model: Buffer }> {
  const folder = temporaryFolder()
  const [base, file] = [join(folder, 'base.img'), join(folder, 'vm.ovl')]
  const model = pattern(bytes, 1)
  writeFileSync(base, model)
  const disk = await overlay({ base, file, clusterSize: CLUSTER })
  await checkAgainstModel(disk, model, 2, 6, 'unknown')
  await disk.close!()
  return { folder, base, file, model }
}

async function contentOf (file: string): Promise<Buffer> {
  const disk = await overlay({ file })
  const content = await read(disk, 0, disk.capacity)
  await disk.close!()
  return content
}

test('a commit gives the base what the overlay has, and empties it', async () => {
  const { base, file, model } = await changedOverlay(4 << 20)
  const before = statSync(file).blocks
  await commit({ file })
  deepEqual(readFileSync(base), model)
  deepEqual(await contentOf(file), model)
  ok(statSync(file).blocks < before / 2, `${statSync(file).blocks} of ${before} sectors`)
  // Empty: what the base has, the overlay has.
  const image = raw({ path: base })
  await write(image, 0, new Uint8Array(512).fill(7))
  await image.close!()
  equal((await contentOf(file))[0], 7)
})

test('a commit to a disk without write zeroes', async () => {
  const { base, file, model } = await changedOverlay()
  const memory = ram({ capacity: model.length })
  await write(memory, 0, readFileSync(base))
  const { writeZeroes: _, ...plain } = memory
  await commit({ file, base: plain })
  deepEqual(await read(memory, 0, model.length), model)
})

test('a commit that is interrupted is done again', async () => {
  const { base, file, model } = await changedOverlay()
  const image = raw({ path: base })
  let left = 3
  const failing = { ...image, write: (...args: Parameters<NonNullable<typeof image.write>>) => left-- > 0 ? image.write!(...args) : Promise.reject(new Error('interrupted')) }
  await rejects(commit({ file, base: failing }), /interrupted/)
  await image.close!()
  await commit({ file })
  deepEqual(readFileSync(base), model)
})

test('a signal ends a commit and a rebase, which can be done again', async () => {
  const { base, file, model } = await changedOverlay()
  const reason = new Error('enough')
  const aborted = AbortSignal.abort(reason)
  await rejects(commit({ file, signal: aborted }), reason)
  await rejects(rebase({ file, newBase: base, signal: aborted }), reason)

  const writing = new AbortController()
  const image = raw({ path: base })
  const write = async (...args: Parameters<NonNullable<typeof image.write>>): Promise<void> => {
    await image.write!(...args)
    writing.abort(reason)
  }
  await rejects(commit({ file, base: { ...image, write }, signal: writing.signal }), reason)
  await image.close!()
  deepEqual(await contentOf(file), model)

  const reading = new AbortController()
  const memory = ram({ capacity: model.length })
  const read = (...args: Parameters<typeof memory.read>): void | Promise<void> => {
    reading.abort(reason)
    return memory.read(...args)
  }
  await rejects(rebase({ file, newBase: { ...memory, read }, signal: reading.signal }), reason)
  deepEqual(await contentOf(file), model)
  await commit({ file })
  deepEqual(readFileSync(base), model)
})

test('a commit of a larger overlay asks for the base to be extended first', async () => {
  const folder = temporaryFolder()
  const [base, file] = [join(folder, 'base.img'), join(folder, 'vm.ovl')]
  writeFileSync(base, pattern(8192, 3))
  const disk = await overlay({ base, file, capacity: 64 << 10 })
  const model = await read(disk, 0, 64 << 10)
  await checkAgainstModel(disk, model, 4, 20, 'unknown')
  await disk.close!()
  await rejects(commit({ file }), { code: 'ERR_OVERLAY_BASE', message: /truncate -s 65536/ })
  truncateSync(base, 64 << 10)
  await commit({ file })
  deepEqual(readFileSync(base), model)
  deepEqual(await contentOf(file), model)
})

test('a commit to what is not the base, or cannot be written, is refused', async () => {
  const { file } = await changedOverlay()
  await rejects(commit({ file, base: ram({ capacity: 1 << 20 }) }), { code: 'ERR_OVERLAY_BASE', message: /was made over a base of 82944 bytes/ })
  await rejects(commit({ file, base: { ...ram({ capacity: 82944 }), readOnly: true } }), { code: 'ERR_OVERLAY_BASE', message: /cannot be written/ })
})

test('tools and disks exclude each other', async () => {
  const { file, base } = await changedOverlay()
  const disk = await overlay({ file })
  await rejects(commit({ file }), { code: 'ERR_DISK_LOCKED' })
  await rejects(rebase({ file, newBase: base }), { code: 'ERR_DISK_LOCKED' })
  await disk.close!()
})

test('a safe rebase leaves the disk as it is, over any other base', async () => {
  for (const bytes of [20 * CLUSTER + 1024, 10 * CLUSTER, 40 * CLUSTER]) {
    const { folder, file, model } = await changedOverlay()
    const newBase = join(folder, 'other.img')
    writeFileSync(newBase, Buffer.concat([pattern(bytes / 2, 1), pattern(bytes / 2, 9)]))
    await rebase({ file, newBase })
    deepEqual(await contentOf(file), model, `onto a base of ${bytes} bytes`)
  }
})

test('a safe rebase copies only what differs', async () => {
  const folder = temporaryFolder()
  const [base, newBase, file] = [join(folder, 'base.img'), join(folder, 'other.img'), join(folder, 'vm.ovl')]
  const content = pattern(64 * CLUSTER, 5)
  writeFileSync(base, content)
  await createOverlay({ base, file, clusterSize: CLUSTER })
  const other = Buffer.from(content)
  other[5 * CLUSTER]! ^= 1
  writeFileSync(newBase, other)
  const before = statSync(file).blocks
  await rebase({ file, newBase })
  deepEqual(await contentOf(file), content)
  ok(statSync(file).blocks - before <= 16, `${statSync(file).blocks - before} sectors more`)
})

test('an unsafe rebase changes the name only: for a base that was moved', async () => {
  const { folder, base, file, model } = await changedOverlay()
  renameSync(base, join(folder, 'moved.img'))
  await rejects(contentOf(file), { code: 'ENOENT' })
  await rejects(rebase({ file, newBase: join(folder, 'moved.img') }), { code: 'ENOENT' }, 'the old one is needed to compare')
  await rebase({ file, newBase: join(folder, 'moved.img'), safe: false })
  deepEqual(await contentOf(file), model)
})

test('a safe rebase that is interrupted changes nothing', async () => {
  const { folder, file, model } = await changedOverlay()
  const memory = ram({ capacity: model.length })
  let left = 3
  const failing = { ...memory, read: (...args: Parameters<typeof memory.read>) => left-- > 0 ? memory.read(...args) : Promise.reject(new Error('interrupted')) }
  await rejects(rebase({ file, newBase: failing }), /interrupted/)
  deepEqual(await contentOf(file), model)
  copyFileSync(join(folder, 'base.img'), join(folder, 'copy.img'))
  await rebase({ file, newBase: join(folder, 'copy.img') })
  deepEqual(await contentOf(file), model)
})

test('a safe rebase from a base that is not the old one is refused', async () => {
  const { file, base } = await changedOverlay()
  await rejects(rebase({ file, base: ram({ capacity: 1 << 20 }), newBase: base }), { code: 'ERR_OVERLAY_BASE', message: /safe: false/ })
})

test('a new base without a path is none that can be opened again by itself', async () => {
  const { file, model } = await changedOverlay()
  const memory = ram({ capacity: model.length })
  await rebase({ file, newBase: memory })
  await rejects(contentOf(file), /say which base it has/)
  const disk = await overlay({ file, base: memory })
  deepEqual(await read(disk, 0, model.length), model)
  await disk.flush!(signal)
  await disk.close!()
})

test.run()
