import { equal } from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'

test('the example of the README runs', () => {
  equal(runReadmeExample(fileURLToPath(new URL('..', import.meta.url))), '2048n 512n\n')
})

test.run()
