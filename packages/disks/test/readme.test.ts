import { equal } from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  equal(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))), [
    'the base: hello from the base',
    'one: hello from machine one',
    'other: hello from the base',
    'committed: hello from machine one', ''
  ].join('\n'))
})

test.run()
