import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'uvu'
import { Coverage } from '../src/coverage.ts'

test('pieces are taken as a table of bytes would take them', () => {
  const pieces = fc.array(fc.tuple(fc.integer({ min: -2, max: 34 }), fc.integer({ min: 0, max: 12 })), { maxLength: 40 })
  fc.assert(fc.property(pieces, (pieces) => {
    const bytes = new Array<boolean>(32).fill(false)
    const coverage = new Coverage(32)
    for (const [start, length] of pieces) {
      const fits = start >= 0 && length > 0 && start + length <= 32 && !bytes.slice(start, start + length).includes(true)
      assert.equal(coverage.add(start, length), fits)
      if (fits) bytes.fill(true, start, start + length)
      assert.equal(coverage.isComplete, !bytes.includes(false))
    }
  }))
})

test('a reply that is torn to shreds is not followed', () => {
  const coverage = new Coverage(1 << 20)
  let taken = 0
  while (coverage.add(2 * taken, 1)) taken++
  assert.equal(taken, 1024)
})

test.run()
