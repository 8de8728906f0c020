import { deepEqual, equal } from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'uvu'
import { bytesOf, clear, gather, PIECE_BYTES, scatter, slice, zeroes } from '../src/segments.ts'

const segments = fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 6 })

test('a slice is the same part as of all bytes in one, and the same memory', () => {
  fc.assert(fc.property(segments, fc.nat(60), fc.nat(60), (all, from, length) => {
    const part = slice(all, from, length)
    deepEqual(gather(part), gather(all).slice(from, from + length))
    equal(part.every((piece) => piece.length > 0), true)
    clear(part)
    deepEqual(gather(all).slice(from, from + length).every((byte) => byte === 0), true)
  }))
})

test('what is scattered is gathered', () => {
  fc.assert(fc.property(segments, (all) => {
    const bytes = Uint8Array.from({ length: bytesOf(all) }, (_, index) => index + 1)
    scatter(bytes, all)
    deepEqual(gather(all), bytes)
  }))
})

test('zeroes of any length', () => {
  for (const length of [0, 1, PIECE_BYTES, PIECE_BYTES * 2 + 512]) {
    equal(bytesOf(zeroes(length)), length)
    equal(zeroes(length).every((piece) => piece.every((byte) => byte === 0)), true)
  }
})

test.run()
