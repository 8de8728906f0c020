import { deepEqual, equal, match, notEqual, rejects, throws } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { type DiskFaultRule, faulty } from '../src/faulty.ts'
import { ram } from '../src/ram.ts'
import { checkAgainstModel, pattern, read, signal, write } from './support/model.ts'

function disk (...rules: DiskFaultRule[]) {
  return faulty({ disk: ram({ capacity: 64 << 10 }), rules, seed: 1 })
}

const EIO = { fault: { kind: 'error' } } as const

test('without a rule that fits it is the disk below', async () => {
  await checkAgainstModel(disk({ ...EIO, operation: 'read', at: 100_000 }), Buffer.alloc(64 << 10), 1, 50)
})

test('an error is told, with its code, and nothing is done', async () => {
  const faultyDisk = disk({ fault: { kind: 'error', code: 'ENOSPC' }, operation: 'write' })
  await rejects(write(faultyDisk, 0, pattern(512, 1)), { code: 'ENOSPC', message: 'this write was to fail: ENOSPC' })
  deepEqual(await read(faultyDisk, 0, 512), Buffer.alloc(512))
})

test('every operation can fail', async () => {
  const faultyDisk = disk(EIO)
  for (const request of [
    () => read(faultyDisk, 0, 512), () => write(faultyDisk, 0, Buffer.alloc(512)), () => faultyDisk.flush!(signal),
    () => faultyDisk.discard!(0, 512, signal), () => faultyDisk.writeZeroes!(0, 512, true, signal)
  ]) await rejects(async () => request(), { code: 'EIO' })
})

test('a rule can name the request, counted among those of its operation', async () => {
  const faultyDisk = disk({ ...EIO, operation: 'read', at: 1 })
  await read(faultyDisk, 0, 512)
  await write(faultyDisk, 0, Buffer.alloc(512))
  await rejects(read(faultyDisk, 0, 512), { code: 'EIO' })
  await read(faultyDisk, 0, 512)
})

test('a rule can be for a range: what touches it, and no flush', async () => {
  const faultyDisk = disk({ ...EIO, offset: 4096, length: 1024 })
  await rejects(read(faultyDisk, 3584, 1024), { code: 'EIO' })
  await rejects(read(faultyDisk, 4608, 4096), { code: 'EIO' })
  await read(faultyDisk, 0, 4096)
  await read(faultyDisk, 5120, 4096)
  await faultyDisk.flush!(signal)
})

test('the first rule that fits counts', async () => {
  const faultyDisk = disk({ fault: { kind: 'error', code: 'EAGAIN' }, operation: 'read', at: 0 }, EIO)
  await rejects(read(faultyDisk, 0, 512), { code: 'EAGAIN' })
  await rejects(read(faultyDisk, 0, 512), { code: 'EIO' })
})

test('the same seed makes the same choices, another makes others', async () => {
  async function failures (seed: number): Promise<string> {
    const faultyDisk = faulty({ disk: ram({ capacity: 4096 }), rules: [{ ...EIO, probability: 0.5 }], seed })
    let failures = ''
    for (let index = 0; index < 64; index++) failures += await read(faultyDisk, 0, 512).then(() => '.', () => 'x')
    return failures
  }
  equal(await failures(7), await failures(7))
  notEqual(await failures(7), await failures(8))
  match(await failures(7), /\..*x|x.*\./)
})

test('a short write is torn: its first half is there', async () => {
  const faultyDisk = disk({ fault: { kind: 'short' }, operation: 'write' })
  const bytes = pattern(4096, 2)
  await rejects(write(faultyDisk, 0, bytes), { code: 'EIO' })
  deepEqual(await read(faultyDisk, 0, 4096), Buffer.concat([bytes.subarray(0, 2048), Buffer.alloc(2048)]))
  await rejects(write(faultyDisk, 8192, bytes.subarray(0, 512)), { code: 'EIO' })
  deepEqual(await read(faultyDisk, 8192, 512), Buffer.alloc(512))
})

test('a late request is done later; one that never ends, ends with its queue', async () => {
  const late = disk({ fault: { kind: 'late', milliseconds: 20 }, operation: 'read' })
  const before = performance.now()
  await read(late, 0, 512)
  equal(performance.now() - before >= 19, true)
  const controller = new AbortController()
  const requests = [late, disk({ fault: { kind: 'late', milliseconds: 2 ** 31 - 1 } }), disk({ fault: { kind: 'never' } })].map(
    (faultyDisk) => Promise.resolve(faultyDisk.read(0, [new Uint8Array(512)], controller.signal)))
  await requests[0]
  const ended = Promise.allSettled(requests.slice(1))
  controller.abort(new Error('stopped'))
  deepEqual((await ended).map(({ status }) => status), ['rejected', 'rejected'])
})

test('a seed that was not given is printed', () => {
  const program = `import { faulty } from ${JSON.stringify(new URL('../src/faulty.ts', import.meta.url).href)}
    faulty({ disk: { capacity: 512, read () {} }, rules: [] })`
  const loader = fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url))
  const { stderr } = spawnSync(process.execPath, ['--import', loader, '--conditions=@node-vmm/source', '--input-type=module', '-e', program], { encoding: 'utf8', timeout: 60_000 })
  match(stderr, /^faulty disk: give it seed=\d+ to have the same faults again$/m)
})

test('rules that mean nothing are refused', () => {
  throws(() => disk({ ...EIO, probability: 2 }), { code: 'ERR_DISK_OPTION' })
  throws(() => disk({ fault: { kind: 'late', milliseconds: -1 } }), { code: 'ERR_DISK_OPTION' })
  throws(() => disk({ fault: { kind: 'gone' } as never }), /error, short, late or never/)
})

test.run()
