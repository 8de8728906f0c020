import { equal, match, ok } from 'node:assert/strict'
import { test } from 'uvu'
import type { LoadSample } from '../load.ts'
import { drawBars } from '../plot.ts'
import { best, type Measured, median, ratio, type Results, spread } from '../results.ts'
import { short } from '../tables.ts'

function measured (server: string, iops: (number | undefined)[]): Measured {
  const samples = iops.map((value) => value === undefined ? undefined : { iops: value, serverTime: 1000 / value } as LoadSample)
  return { case: 'a case', server, side: 'qsd', samples }
}

test('median and spread', () => {
  equal(median([3, 1, 2]), 2)
  equal(median([4, 1, 2, 3]), 2.5)
  ok(Number.isNaN(median([])))
  equal(spread([90, 100, 110]), 0.1)
})

test('a ratio is that of each round, where both have one', () => {
  // The machine was half as fast in the second round, for both.
  equal(ratio(measured('a', [200, 100, undefined, 20]), measured('b', [100, 50, 1000, 10]), 'iops'), 2)
  ok(Number.isNaN(ratio(measured('a', [1]), undefined, 'iops')))
})

test('the best has least time, and most IOPS', () => {
  const results = { measured: [measured('slow', [10]), measured('fast', [20]), measured('absent', [undefined])] } as unknown as Results
  equal(best(results, 'a case', 'qsd', 'iops')?.server, 'fast')
  equal(best(results, 'a case', 'qsd', 'serverTime')?.server, 'fast')
  equal(best(results, 'another case', 'qsd', 'iops'), undefined)
})

test('three significant digits', () => {
  equal([0, 0.0321, 0.55, 9.876, 12.34, 1234.5].map(short).join(' '), '0.00 0.032 0.55 9.88 12.3 1,235')
})

test('a plot has a bar for each value that there is', () => {
  const svg = drawBars({ title: 'a < b', unit: 'µs', labels: ['one', 'two'], series: [{ name: 'x', values: [1, 2] }, { name: 'y', values: [3, NaN] }] })
  match(svg, /a &lt; b/)
  // The background, two in the legend, three bars.
  equal(svg.match(/<rect /g)?.length, 1 + 2 + 3)
  ok(!svg.includes('NaN'))
})

test.run()
