import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  assert.deepEqual(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n'), [
    'the device says: desserts',
    'the device says: reward',
    'broken: the chain of head 2: address unmapped, 8 bytes at 0xdead0000',
    'and from now on: broken'
  ])
})

test.run()
