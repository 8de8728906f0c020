import assert from 'node:assert/strict'
import { test } from 'uvu'
import { availableRingBytes, descriptorTableBytes, needsEvent, usedRingBytes } from '../src/index.ts'

/** Whether an index that is counted up from `old` to `now` leaves `event` behind on the way. */
function passes (event: number, now: number, old: number): boolean {
  for (let index = old; index !== now; index = (index + 1) & 0xffff) {
    if (index === event) return true
  }
  return false
}

test('the parts of a ring have the sizes of the specification', () => {
  assert.equal(descriptorTableBytes(256), 4096)
  assert.deepEqual([availableRingBytes(256, false), availableRingBytes(256, true)], [516, 518])
  assert.deepEqual([usedRingBytes(256, false), usedRingBytes(256, true)], [2052, 2054])
  assert.deepEqual([descriptorTableBytes(1), availableRingBytes(1, true), usedRingBytes(1, true)], [16, 8, 14])
})

test('an event is needed when the index passed it, at and around every wrap', () => {
  for (const middle of [0, 0x7fff, 0x8000, 0xffff]) {
    for (let from = -6; from <= 6; from++) {
      const old = (middle + from) & 0xffff
      for (let steps = 0; steps <= 12; steps++) {
        const now = (old + steps) & 0xffff
        for (let offset = -16; offset <= 16; offset++) {
          const event = (old + offset) & 0xffff
          assert.equal(needsEvent(event, now, old), passes(event, now, old), `event ${event}, ${old} -> ${now}`)
        }
      }
    }
  }
})

test('an event is needed for exactly the indices passed, of all 65536', () => {
  for (const [old, steps] of [[65530, 0], [65530, 1], [65530, 20], [7, 65535]] as const) {
    let needed = 0
    for (let event = 0; event < 65536; event++) if (needsEvent(event, (old + steps) & 0xffff, old)) needed++
    assert.equal(needed, steps)
  }
})

test.run()
