import { deepEqual, equal } from 'node:assert/strict'
import { test } from 'uvu'
import { advance, indexOf, positionOf, wrapOf } from '../src/packed-index.ts'

test('an index holds any position, and the wrap counter as bit 15', () => {
  equal(indexOf(0, 1), 0x8000)
  equal(indexOf(0x7fff, 0), 0x7fff)
  for (const wrap of [0, 1]) {
    for (const position of [0, 1, 255, 0x7fff]) {
      const index = indexOf(position, wrap)
      deepEqual([positionOf(index), wrapOf(index)], [position, wrap])
    }
  }
})

test('the wrap counter turns at the end of the ring, whatever its size', () => {
  for (const size of [1, 2, 3, 256, 0x8000]) {
    for (const wrap of [0, 1]) {
      const last = indexOf(size - 1, wrap)
      equal(advance(last, 0, size), last)
      equal(advance(last, 1, size), indexOf(0, 1 - wrap), `${size}`)
      equal(advance(last, size, size), indexOf(size - 1, 1 - wrap), `a lap of ${size}`)
      if (size > 1) equal(advance(indexOf(0, wrap), size - 1, size), last)
    }
  }
})

test.run()
