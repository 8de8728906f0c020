import { equal, ok } from 'node:assert/strict'
import { test } from 'uvu'
import { Histogram } from '../histogram.ts'

test('percentiles are within two per cent of the values, over the whole range', () => {
  for (const scale of [1, 1000, 1e6, 1e8]) {
    const histogram = new Histogram()
    for (let value = 1; value <= 20; value++) histogram.add(value * scale)
    for (const [share, wanted] of [[0.05, 1], [0.5, 10], [0.95, 19], [1, 20]]) {
      const found = histogram.percentile(share)
      ok(Math.abs(found - wanted * scale) <= 0.02 * wanted * scale, `${share} of scale ${scale}: ${found}`)
    }
    equal(histogram.max, 20 * scale)
  }
})

test('what is too long counts as the longest; an empty one has nothing', () => {
  const histogram = new Histogram()
  equal(histogram.percentile(0.5), 0)
  histogram.add(1e12)
  equal(histogram.max, 0x7fffffff)
  ok(histogram.percentile(0.5) > 2e9)
  histogram.clear()
  equal(histogram.max, 0)
  equal(histogram.percentile(1), 0)
})

test.run()
