import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  assert.deepEqual(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n'), [
    '1048576 bytes, running',
    'write: 0',
    'flush: 0',
    'read: 0',
    'the same: true',
    'past the end: 1',
    '{ requests: 4, errors: 1, bytesRead: 4096, bytesWritten: 4096 }'
  ])
})

test('the disk of one\'s own of the README runs', () => {
  assert.equal(runReadmeExample(fileURLToPath(new URL('..', import.meta.url)), 1).trim(), '1048576 disk')
})

test.run()
