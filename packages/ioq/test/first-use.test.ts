import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import { measureFirstUse, whyNotMap } from '../src/first-use.ts'

const descriptors = (): number => readdirSync('/proc/self/fd').length
const mappings = (): number => readFileSync('/proc/self/maps', 'utf8').split('first-use').length - 1

test('the first use of a page is measured, in less time than anybody notices, and leaves nothing', () => {
  measureFirstUse()
  const before = descriptors()
  const begin = performance.now()
  const microseconds = Array.from({ length: 10 }, () => measureFirstUse())
  assert.ok(performance.now() - begin < 1000)
  assert.ok(microseconds.every((one) => one >= 0 && one < 1000), `${microseconds}`)
  assert.deepEqual([descriptors(), mappings()], [before, 0])
})

test('a first use that takes longer than a copy saves speaks against a mapping, and the text says how long', () => {
  assert.equal(whyNotMap(0), undefined)
  assert.equal(whyNotMap(0.4), undefined)
  assert.match(whyNotMap(4.57)!, /^the first use of each mapped page takes 4\.6 µs on this machine.*ask for mapped by its name/)
})

test('what was found stays so', () => {
  assert.equal(whyNotMap(), whyNotMap())
})

test.run()
