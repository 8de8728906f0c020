import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  assert.deepEqual(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n'), [
    'hello from above the hole',
    'in the hole: 0',
    'over the end: 0',
    'good: true',
    'now: 1 region; before: 2'
  ])
})

test.run()
