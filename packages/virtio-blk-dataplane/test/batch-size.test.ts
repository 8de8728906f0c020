import assert from 'node:assert/strict'
import { test } from 'uvu'
import { BatchSize } from '../src/batch-size.ts'

/** Batches whose time the test sets: `serve` is the sizes of the batches that take `available` requests in, all of them. */
function make (): { serve: (available: number, microseconds: number) => number[], batch: BatchSize } {
  let now = 1e9
  const batch = new BatchSize((times, at) => { times[at] = now })
  const serve = (available: number, microseconds: number): number[] => {
    const sizes: number[] = []
    for (let left = available; left > 0;) {
      const size = Math.min(left, batch.begin(sizes.length, { countAvailable: () => left }))
      now += size * microseconds
      batch.end(size, size)
      sizes.push(size)
      left -= size
    }
    return sizes
  }
  return { serve, batch }
}

/** As `make`, with requests of so many microseconds known. */
function learnt (microseconds: number): (available: number) => number[] {
  const { serve } = make()
  for (let turn = 0; turn < 1000; turn++) serve(16, microseconds)
  return (available) => serve(available, microseconds)
}

test('requests that take their time are submitted in batches of 3, 12, 48, then 64', () => {
  const { batch } = make()
  const ring = { countAvailable: () => 100 }
  for (const [batches, size] of [3, 12, 48, 64, 64].entries()) {
    assert.equal(batch.begin(batches, ring), size)
    batch.end(size, size - 1)
  }
})

test('of requests that are complete at once a quarter is a batch, and what is left makes no smaller ones', () => {
  const serve = learnt(1)
  assert.deepEqual(serve(32), [8, 8, 8, 8])
  assert.deepEqual(serve(16), [4, 4, 4, 4])
  assert.deepEqual(serve(5), [2, 2, 1])
  assert.deepEqual(serve(3), [2, 1])
})

test('of many, a batch is all but what takes as long as a guest needs to wake up', () => {
  assert.deepEqual(learnt(1)(110), [50, 27, 27, 6])
  assert.deepEqual(learnt(2)(64), [34, 16, 14])
})

test('of requests that take no time there are never so many: a quarter is a batch', () => {
  assert.deepEqual(learnt(0.1)(128), [32, 32, 32, 32])
})

test('a batch has 64 requests at most', () => {
  assert.deepEqual(learnt(1)(400).slice(0, 2), [64, 64])
})

test('a batch that was interrupted for long changes little', () => {
  const { serve } = make()
  for (let turn = 0; turn < 1000; turn++) serve(16, 1)
  // One of 16 is timed: all of them are slow once.
  for (let turn = 0; turn < 4; turn++) serve(16, 100_000)
  const [size] = serve(110, 1)
  assert.ok(size! >= 50 && size! < 60, `a batch of ${size}`)
})

test('requests become asynchronous again when one of a batch is not complete at its end', () => {
  const { serve, batch } = make()
  serve(16, 1)
  assert.deepEqual(serve(16, 1), [4, 4, 4, 4])
  batch.begin(0, { countAvailable: () => 16 })
  batch.end(4, 3)
  assert.equal(batch.begin(0, { countAvailable: () => 16 }), 3)
})

test('a batch that submitted nothing says nothing about requests', () => {
  const { serve, batch } = make()
  serve(16, 1)
  batch.begin(0, { countAvailable: () => 16 })
  batch.end(0, 0)
  assert.equal(batch.begin(0, { countAvailable: () => 16 }), 4)
})

test.run()
