import assert from 'node:assert/strict'
import { errno } from '@node-vmm/libc'
import { test } from 'uvu'
import { DiskFailures, errorNumber } from '../src/disk-failures.ts'

const coded = (code: unknown): unknown => Object.assign(new Error(`it says ${String(code)}`), { code })

test('two codes are unsupported, all else is an I/O error', () => {
  for (const code of ['ENOTSUP', 'EOPNOTSUPP']) assert.equal(errorNumber(coded(code)), -errno.EOPNOTSUPP)
  for (const error of [coded('EIO'), coded(95), coded(undefined), undefined, null, 7, 'ENOTSUP', Symbol('x'), new Proxy({}, { get () { throw new Error('no') } })]) {
    assert.equal(errorNumber(error), -errno.EIO)
  }
})

test('each operation and code is told once in ten seconds, with how many were left out', () => {
  let now = 0
  const told: string[] = []
  const failures = new DiskFailures(({ message }) => told.push(message), () => now)
  for (let second = 0; second < 10; second++) {
    now = second * 1000
    failures.report('read', ' 512 bytes at offset 0', coded('EIO'))
    failures.report('flush', '', coded('EIO'))
  }
  failures.report('read', ' 512 bytes at offset 0', coded('ENOSPC'))
  assert.deepEqual(told.splice(0), [
    'the disk failed to read 512 bytes at offset 0: it says EIO', 'the disk failed to flush: it says EIO',
    'the disk failed to read 512 bytes at offset 0: it says ENOSPC'
  ])
  now = 10_000
  failures.report('read', ' 1024 bytes at offset 512', coded('EIO'))
  assert.deepEqual(told, ['the disk failed to read 1024 bytes at offset 512: it says EIO (and 9 more like the one before)'])
})

test('a disk that invents a code each time takes no memory for it', () => {
  const failures = new DiskFailures(() => {}, () => 0)
  const before = process.memoryUsage().heapUsed
  for (let code = 0; code < 100_000; code++) failures.report('read', '', { code: `E${code}`.padEnd(200, '.') })
  assert.ok(process.memoryUsage().heapUsed - before < 64 << 20)
})

test.run()
