import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  const lines = runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n')
  assert.deepEqual(lines, ['request 0: 2048', 'request 1: 0', 'request 2: 4096', 'bytes: 42 42 0'])
})

test.run()
