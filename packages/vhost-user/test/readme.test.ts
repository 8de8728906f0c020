import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  assert.deepEqual(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))).trim().split('\n'), [
    'capacity 2048 sectors',
    'features 0x100000000',
    'queue 0 of 128: descriptors at 0x100000',
    'queue 0 stopped',
    'reset'
  ])
})

test.run()
