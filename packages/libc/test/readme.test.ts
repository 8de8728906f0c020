import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  const lines = runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n')
  assert.deepEqual(lines, ['take these - 2 descriptors', 'hello', '8 bytes, count 3'])
})

test.run()
