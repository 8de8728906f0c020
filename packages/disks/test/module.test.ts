import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { fromModule } from '../src/module.ts'
import { ram } from '../src/ram.ts'
import { checkSpec, type DiskSpec, open } from '../src/spec.ts'
import { read } from './support/model.ts'

const url = new URL('support/echo-disk.js', import.meta.url)
const path = fileURLToPath(url)

test.after.each(cleanUp)

test('a module of one\'s own, by path or URL, opens a disk with the options that it is given', async () => {
  for (const name of [path, url.href]) {
    const disk = await open({ type: 'module', path: name, options: { byte: '7', size: '4096' } })
    equal(disk.capacity, 4096)
    deepEqual(await read(disk, 512, 1024), Buffer.alloc(1024, 7))
    await disk.close()
  }
})

test('it has its place in a stack: below an overlay, above an image, and is closed with it', async () => {
  const folder = temporaryFolder()
  const log = join(folder, 'log')
  writeFileSync(join(folder, 'base.img'), Buffer.alloc(1 << 20, 9))
  const spec: DiskSpec = {
    type: 'throttle',
    ops: 1e6,
    disk: { type: 'overlay', file: join(folder, 'vm.ovl'), base: { type: 'module', path, options: { log }, disk: { type: 'raw', path: join(folder, 'base.img') } } }
  }
  const disk = await open(checkSpec(JSON.parse(JSON.stringify(spec))))
  deepEqual(await read(disk, 8192, 4096), Buffer.alloc(4096, 9))
  await disk.close()
  const lines = readFileSync(log, 'utf8').split('\n')
  ok(lines.includes('read 8192'), lines.join())
  equal(lines.filter((line) => line === 'closed').length, 1)
})

test('numbers and flags of a JSON file become text', () => {
  const options = checkSpec({ type: 'module', path: 'x', options: { a: 1, b: true, c: 'd' } })
  deepEqual(options, { type: 'module', path: 'x', options: { a: '1', b: 'true', c: 'd' } })
})

test('what is no disk module is refused, and the disk below is closed', async () => {
  const folder = temporaryFolder()
  const module = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text)
    return join(folder, name)
  }
  await rejects(open({ type: 'module', path: join(folder, 'missing.mjs') }), { code: 'ERR_DISK_MODULE', message: /missing\.mjs cannot be loaded: / })
  await rejects(open({ type: 'module', path: module('wrong.mjs', '(') }), { code: 'ERR_DISK_MODULE', message: /wrong\.mjs cannot be loaded: / })
  await rejects(open({ type: 'module', path: module('none.mjs', 'export const disk = {}') }), { code: 'ERR_DISK_MODULE', message: /exports no function openDisk/ })
  await rejects(open({ type: 'module', path: module('empty.mjs', 'export const openDisk = () => ({})') }), { code: 'ERR_DISK_MODULE', message: /has no method read/ })
  const failing = module('failing.mjs', 'export const openDisk = () => { throw Object.assign(new Error("no medium"), { code: "ENOMEDIUM" }) }')
  let closed = 0
  const lower = Object.assign(ram({ capacity: 512 }), { close: () => { closed++ } })
  await rejects(fromModule({ path: failing, disk: lower }), { code: 'ENOMEDIUM' })
  equal(closed, 0, 'who has opened it closes it')
})

test.run()
