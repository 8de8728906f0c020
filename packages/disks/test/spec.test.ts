import { deepEqual, equal, rejects, throws } from 'node:assert/strict'
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { checkSpec, type DiskSpec, open, openDisk } from '../src/spec.ts'
import { checkAgainstModel, pattern, read, write } from './support/model.ts'

test.after.each(cleanUp)

function files (): { base: string, file: string, key: string } {
  const folder = temporaryFolder()
  writeFileSync(join(folder, 'base.img'), pattern(1 << 20, 1))
  writeFileSync(join(folder, 'key'), 'secret')
  return { base: join(folder, 'base.img'), file: join(folder, 'vm.ovl'), key: join(folder, 'key') }
}

test('a stack from plain data: throttle over overlay over image; opened again by its file alone', async () => {
  const { base, file } = files()
  const content = readFileSync(base)
  const stack: DiskSpec = { type: 'throttle', ops: 100_000, disk: { type: 'overlay', base: { type: 'raw', path: base }, file } }
  const disk = await open(JSON.parse(JSON.stringify(stack)) as DiskSpec)
  const model = Buffer.from(content)
  await checkAgainstModel(disk, model, 2, 20, 'unknown')
  await disk.close!()
  deepEqual(readFileSync(base), content)
  const again = await openDisk({ type: 'overlay', file })
  deepEqual(await read(again, 0, model.length), model)
  await again.close!()
})

test('whatever it is, it can be disposed of, with what it owns', async () => {
  const { base, file, key } = files()
  const before = lowestFree()
  const image = { type: 'raw', path: base } as const
  for (const spec of [
    image, { ...image, readOnly: true }, { type: 'ram', capacity: 512 }, { type: 'throttle', disk: image }, { type: 'faulty', rules: [], seed: 1, disk: image },
    { type: 'overlay', base: image, file }, { type: 'encrypted', keyFile: key, format: true, disk: { type: 'overlay', base: { type: 'ram', capacity: 1 << 20 }, file: `${file}2` } }
  ] as DiskSpec[]) {
    const disk = await open(spec)
    await disk[Symbol.asyncDispose]()
    equal(lowestFree(), before, spec.type)
  }
})

test('every type in one stack', async () => {
  const { file, key } = files()
  const middle: DiskSpec = { type: 'overlay', file: `${file}.middle`, base: { type: 'ram', capacity: 1 << 20 } }
  const encrypted: DiskSpec = { type: 'encrypted', keyFile: key, format: true, disk: { type: 'overlay', file, base: middle } }
  await rejects(open(encrypted), { code: 'ERR_OVERLAY' }, 'the middle one is a base: it is neither made nor written')
  await (await open(middle)).close!()
  const disk = await open({
    type: 'faulty', rules: [{ fault: { kind: 'error' }, operation: 'read', at: 1 }], seed: 1, disk: { type: 'throttle', bytes: 1e12, disk: encrypted }
  })
  await write(disk, 4096, pattern(8192, 3))
  deepEqual(await read(disk, 4096, 8192), pattern(8192, 3))
  await rejects(read(disk, 4096, 8192), { code: 'EIO' })
  await disk.close!()
})

test('a base is opened read-only, whatever it says, through what stands on it too', async () => {
  const { base, file } = files()
  const image = { type: 'raw', path: base, readOnly: false } as const
  const one = await open({ type: 'overlay', base: image, file: `${file}1` })
  const other = await open({ type: 'overlay', base: { type: 'throttle', disk: image, ops: 1e6 }, file: `${file}2` })
  const reader = await open({ type: 'raw', path: base, readOnly: true })
  await rejects(open({ type: 'raw', path: base }), { code: 'ERR_DISK_LOCKED' })
  for (const disk of [one, other, reader]) await disk.close!()
})

test('a signal ends the attempt to open a stack, and nothing stays open', async () => {
  const { base, file, key } = files()
  const before = lowestFree()
  const reason = new Error('enough')
  await rejects(open({ type: 'overlay', file, base: { type: 'raw', path: base } }, { signal: AbortSignal.abort(reason) }), reason)
  equal(existsSync(file), false)

  const abort = new AbortController()
  const silent = createServer(() => abort.abort(reason))
  await new Promise<void>((resolve) => silent.listen(`${file}.socket`, resolve))
  const nbd: DiskSpec = { type: 'nbd', uri: `nbd+unix:///?socket=${file}.socket`, connectTimeout: 60_000 }
  await rejects(open({ type: 'encrypted', keyFile: key, disk: nbd }, { signal: abort.signal }), reason)
  await new Promise((resolve) => silent.close(resolve))
  equal(lowestFree(), before)
})

test('where it fails, nothing stays open', async () => {
  const { base, file, key } = files()
  const before = lowestFree()
  await rejects(open({ type: 'encrypted', keyFile: key, disk: { type: 'raw', path: base } }), { code: 'ERR_ENCRYPTED' })
  await rejects(open({ type: 'encrypted', keyFile: '/nowhere', disk: { type: 'raw', path: base } }), { code: 'ENOENT' })
  await rejects(open({ type: 'overlay', base: { type: 'throttle', disk: { type: 'raw', path: base } }, file, clusterSize: 1 }), { code: 'ERR_DISK_OPTION' })
  await rejects(open({ type: 'throttle', ops: 0, disk: { type: 'raw', path: base } }), { code: 'ERR_DISK_OPTION' })
  equal(lowestFree(), before)
  equal(existsSync(file), false)
})

function lowestFree (): number {
  const fd = openSync('/dev/null', 'r')
  closeSync(fd)
  return fd
}

test('sizes may have units, and short forms are written out', () => {
  deepEqual(checkSpec({ type: 'throttle', ops: '1000', bytes: { size: '1.5M', refillTime: '100' }, disk: { type: 'ram', capacity: '2G', blockSize: 4096 } }), {
    type: 'throttle', ops: { size: 1000 }, bytes: { size: 1.5 * 2 ** 20, refillTime: 100 }, disk: { type: 'ram', capacity: 2 ** 31, blockSize: 4096 }
  })
  deepEqual(checkSpec({ type: 'faulty', disk: { type: 'raw', path: 'x', readOnly: 'true' }, rules: [{ fault: 'short', offset: '1K' }] }), {
    type: 'faulty', disk: { type: 'raw', path: 'x', readOnly: true }, rules: [{ fault: { kind: 'short' }, offset: 1024 }]
  })
})

for (const [spec, message] of [
  [undefined, 'disk: a disk is an object with a type (raw, ram, nbd, overlay, throttle, encrypted, faulty, module)'],
  ['base.img', 'disk: a disk is an object with a type (raw, ram, nbd, overlay, throttle, encrypted, faulty, module)'],
  [{ type: 'qcow2' }, "disk: there is no type 'qcow2': raw, ram, nbd, overlay, throttle, encrypted, faulty, module"],
  [{ type: 'toString' }, "disk: there is no type 'toString': raw, ram, nbd, overlay, throttle, encrypted, faulty, module"],
  [{ type: 'raw' }, 'disk: a disk of type raw needs path'],
  [{ type: 'raw', path: 7 }, 'disk.path: text is needed: not 7'],
  [{ type: 'raw', path: 'x', readonly: true }, 'disk.readonly: a disk of type raw has no such option: path, readOnly'],
  [{ type: 'raw', path: 'x', readOnly: 'yes' }, 'disk.readOnly: true or false is needed: not "yes"'],
  [{ type: 'ram', capacity: '1X' }, 'disk.capacity: a number, or text such as 64K or 10G, is needed: not "1X"'],
  [{ type: 'ram', capacity: -1 }, 'disk.capacity: a number, or text such as 64K or 10G, is needed: not -1'],
  [{ type: 'overlay', file: 'f', base: { type: 'throttle', disk: { type: 'ram' } } }, 'disk.base.disk: a disk of type ram needs capacity'],
  [{ type: 'throttle', disk: { type: 'ram', capacity: 512 }, ops: { size: 1, refill: 5 } }, 'disk.ops.refill: a value here has no such option: size, refillTime, oneTimeBurst'],
  [{ type: 'faulty', disk: { type: 'ram', capacity: 512 }, rules: [{ fault: 'short' }, 'x'] }, 'disk.rules[1]: an object with fault!, operation, at, probability, offset, length is needed'],
  [{ type: 'faulty', disk: { type: 'ram', capacity: 512 }, rules: {} }, 'disk.rules: a list is needed: not {}']
] as const) {
  test(`${JSON.stringify(spec)} is refused, and where`, () => {
    throws(() => checkSpec(spec), { code: 'ERR_DISK_SPEC', message: message.replace('fault!', 'fault') })
  })
}

test.run()
