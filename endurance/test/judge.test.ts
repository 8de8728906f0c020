import assert from 'node:assert/strict'
import { test } from 'uvu'
import { judge, LONG, type Sample, SAMPLES_MIN, SHORT, table } from '../soak/judge.ts'

const MIB = 2 ** 20

/** Samples of which the memory, or something else, is as a function of their number says. */
function life (count: number, of: (index: number) => Partial<Sample>): Sample[] {
  return Array.from({ length: count }, (_, index) => ({
    at: index, resident: 80 * MIB, heap: 5 * MIB, footprint: ['descriptor of socket', 'mapping r--p of /lib/libc'], p50: 1000, p99: 5000, requests: 10, ...of(index)
  }))
}

test('a program that grows at first, and then not, does not grow', () => {
  assert.deepEqual(judge(life(100, (index) => ({ resident: 60 * MIB + Math.min(index, 20) * MIB })), LONG), [])
})

test('one that plays does not grow, one that grows slowly does', () => {
  assert.deepEqual(judge(life(100, (index) => ({ resident: (80 + index * 7 % 11) * MIB })), LONG), [])
  assert.deepEqual(judge(life(100, (index) => ({ resident: (80 + index / 10) * MIB })), LONG), ['memory grew from 83.7 MiB to 88.7 MiB'])
  assert.deepEqual(judge(life(100, (index) => ({ resident: (80 + index / 10) * MIB })), SHORT), [])
  assert.match(judge(life(100, (index) => ({ heap: (5 + index) * MIB })), SHORT).join(), /^the JavaScript heap grew/)
})

test('descriptors and mappings are the same after warm-up, by what they are', () => {
  const footprint = ['descriptor of socket', 'descriptor of anon_inode:[eventfd]']
  assert.deepEqual(judge(life(40, (index) => index < 5 ? { footprint } : {}), LONG), [])
  assert.deepEqual(judge(life(40, (index) => index === 30 ? { footprint } : {}), LONG),
    ['at 30 s it holds other things than at 10 s: + descriptor of anon_inode:[eventfd], - mapping r--p of /lib/libc'])
})

test('too few samples say nothing', () => {
  assert.match(judge(life(SAMPLES_MIN - 1, () => ({})), LONG).join(), /too few/)
})

test('the table has a row for each part of the time', () => {
  const lines = table(life(100, () => ({})), 10).split('\n')
  assert.equal(lines.length, 11)
  assert.deepEqual(lines[1]!.trim().split(/ {2,}/), ['9 s', '80.0', '5.0', '1', '1', '100', '1 us', '5 us'])
})

test.run()
