import assert from 'node:assert/strict'
import { test } from 'uvu'
import { parseOptions, SURFACES } from '../options.ts'

test('a surface, or all of them in turn', () => {
  assert.deepEqual(parseOptions(['--surface=ring', '--seed=7']), { surfaces: ['ring'], seconds: 10, seed: 7, first: 0, cases: Infinity })
  assert.deepEqual(parseOptions(['--surface=all', '--seed=7', '--seconds=1200'])!.surfaces, SURFACES)
})

test('cases are played however long they take, unless a time is given too', () => {
  assert.equal(parseOptions(['--surface=ring', '--cases=5'])!.seconds, Infinity)
  assert.equal(parseOptions(['--surface=ring', '--cases=5', '--seconds=3'])!.seconds, 3)
  assert.deepEqual(parseOptions(['--surface=ring', '--seed=7', '--case=12']), { surfaces: ['ring'], seconds: Infinity, seed: 7, first: 12, cases: 1 })
})

test('each time another seed', () => {
  assert.notEqual(parseOptions(['--surface=ring'])!.seed, parseOptions(['--surface=ring'])!.seed)
})

test('--help is no campaign', () => {
  assert.equal(parseOptions(['--help']), undefined)
})

for (const [args, pattern] of [
  [[], /--surface is one of ring, request, message, inflight, race or all: not undefined/],
  [['--surface=rings'], /not rings/],
  [['--surface=ring', '--seconds=0'], /--seconds is an integer from 1/],
  [['--surface=ring', '--seed=4294967296'], /--seed is an integer from 0 to 4294967295/],
  [['--surface=ring', '--case=1'], /give --seed too/],
  [['--surface=ring', '--color'], /--color/]
] as const) {
  test(`refused: ${args.join(' ') || 'nothing'}`, () => {
    assert.throws(() => parseOptions([...args]), pattern)
  })
}

test.run()
