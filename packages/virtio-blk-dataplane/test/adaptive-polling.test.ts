import assert from 'node:assert/strict'
import { test } from 'uvu'
import { AdaptivePolling } from '../src/adaptive-polling.ts'

/** Sleeps, by turning: a timer would be far too coarse. */
function sleep (polling: AdaptivePolling, microseconds: number): void {
  polling.beforeSleep()
  for (const end = performance.now() + microseconds / 1000; performance.now() < end;);
  polling.afterSleep()
}

/** How long one round of polling lasts, in microseconds. */
function poll (polling: AdaptivePolling): number {
  const begin = performance.now()
  polling.begin()
  while (polling.goesOn());
  return (performance.now() - begin) * 1000
}

test('short sleeps have it poll, longer and longer up to the limit', () => {
  const polling = new AdaptivePolling(1000)
  assert.equal(polling.isWorthIt, false)
  sleep(polling, 50)
  assert.equal(polling.isWorthIt, true)
  for (let times = 0; times < 20; times++) sleep(polling, 500)
  const lasted = poll(polling)
  // What is slept through is longer than this by what else the machine does.
  assert.ok(lasted >= 500, `${lasted} µs`)
})

test('a sleep longer than polling may last ends it', () => {
  const polling = new AdaptivePolling(1000)
  sleep(polling, 100)
  assert.equal(polling.isWorthIt, true)
  sleep(polling, 1500)
  assert.equal(polling.isWorthIt, false)
})

test('a limit of 0 never polls', () => {
  const polling = new AdaptivePolling(0)
  sleep(polling, 10)
  assert.equal(polling.isWorthIt, false)
})

test.run()
