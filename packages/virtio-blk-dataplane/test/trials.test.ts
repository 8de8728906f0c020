import assert from 'node:assert/strict'
import { test } from 'uvu'
import { Trials } from '../src/trials.ts'

/** Batches of an epoch, and epochs that each choice has before one is preferred, as the source has them. */
const EPOCH = 32
const ROUNDS = 24

/** Three choices whose cost, in microseconds a request, the test sets, and how many interrupts an epoch has by each. */
function make (costs: number[], interrupts: (choice: number) => number = () => 0, margin?: number): { trials: Trials, epoch: (spoil?: boolean) => number, epochs: (count: number) => number[] } {
  let now = 1e9
  const trials = new Trials(costs.length, (times, at) => { times[at] = now }, margin)
  /** One epoch of batches of 10. @returns the choice that it was done by */
  const epoch = (spoil = false): number => {
    const { current } = trials
    for (let batch = 1; batch <= EPOCH; batch++) {
      now += 10 * costs[current]!
      if (spoil) trials.spoil()
      if (batch <= interrupts(current)) trials.interrupt()
      assert.equal(trials.count(10), batch === EPOCH)
    }
    return current
  }
  /** How many of so many epochs were done by each choice. */
  const epochs = (count: number): number[] => {
    const done = costs.map(() => 0)
    for (let left = count; left > 0; left--) done[epoch()]!++
    return done
  }
  return { trials, epoch, epochs }
}

test('the first choice is taken until something is known, then all take turns, before one is preferred', () => {
  const { trials, epoch, epochs } = make([1, 2, 2])
  for (let turn = 0; turn < 5; turn++) assert.equal(epoch(true), 0)
  assert.equal(epoch(), 0)
  assert.deepEqual(epochs(3 * ROUNDS), [ROUNDS, ROUNDS, ROUNDS])
  assert.equal(trials.current, 0)
})

test('the choice that costs least is found, wherever it is, and others are tried now and then', () => {
  for (const best of [0, 1, 2]) {
    const { epochs } = make([2, 2, 2].map((cost, choice) => choice === best ? 1 : cost))
    epochs(400)
    const done = epochs(320)
    assert.ok(done[best]! >= 300, `choice ${best}: ${done}`)
    assert.ok(done.every((count) => count >= 3), `choice ${best}: ${done}`)
  }
})

test('an interrupt counts as 9 microseconds', () => {
  // Of 320 requests an epoch: choices of 1, 1.1 and 1.2 microseconds each, with a few interrupts, none, and none.
  for (const [interrupts, preferred] of [[4, 1], [3, 0]] as const) {
    const { trials, epoch, epochs } = make([1, 1.1, 1.2], (choice) => choice === 0 ? interrupts : 0)
    epochs(400)
    assert.ok(epochs(320)[preferred]! >= 300, `${interrupts} interrupts`)
    epoch(true)
    assert.equal(trials.current, preferred)
  }
})

test('a choice is left only for a later one that is cheaper by the margin', () => {
  for (const [costs, preferred] of [[[1.04, 1], 0], [[1.06, 1], 1], [[1.2, 1, 0.97], 1], [[1.2, 1, 0.94], 2], [[1, 0.97, 0.94], 2]] as const) {
    const { epochs } = make([...costs], () => 0, 1.05)
    epochs(400)
    assert.ok(epochs(320)[preferred]! >= 300, `${costs}`)
  }
})

test('what has become dearer is left', () => {
  const costs = [2, 1, 2]
  const { epochs } = make(costs)
  epochs(400)
  costs[1] = 4
  epochs(480)
  assert.ok(epochs(320)[1]! <= 10)
})

test('what makes all dearer, or cheaper, changes no choice', () => {
  for (const factor of [0.8, 1.25]) {
    const costs = [1.2, 1, 1.2]
    const { epochs } = make(costs)
    epochs(400)
    for (const choice of costs.keys()) costs[choice]! *= factor
    const done = epochs(320)
    assert.ok(done[1]! >= 300, `${done}`)
  }
})

test('what is forgotten is found out anew', () => {
  const costs = [2, 1, 2]
  const { trials, epoch, epochs } = make(costs)
  epochs(400)
  costs[1] = 10
  trials.forget()
  assert.equal(epoch(), 1)
  epochs(3 * ROUNDS)
  assert.equal(epochs(5)[1], 0)
})

test('epochs in which the guest had nothing to do are no measure, and nothing is tried meanwhile', () => {
  const costs = [2, 1, 2]
  const { epoch, epochs } = make(costs)
  epochs(400)
  costs[1] = 100
  for (let turn = 0; turn < 100; turn++) assert.equal(epoch(true), 1)
  costs[1] = 1
  // The epoch after a spoilt one is whole again.
  assert.equal(epoch(), 1)
  assert.ok(epochs(320)[1]! >= 300)
})

test('time that is left out does not count', () => {
  let now = 1e9
  const trials = new Trials(2, (times, at) => { times[at] = now })
  const took = new Float64Array(2)
  for (let batch = 0; batch < 390 * EPOCH; batch++) {
    const choice = trials.current
    now += [20, 10][choice]!
    took[0] = now
    now += [0, 100][choice]!
    took[1] = now
    trials.leaveOut(took, 0, 1)
    trials.count(10)
  }
  assert.equal(trials.current, 1)
})

test('one epoch that was interrupted for long changes no choice', () => {
  const costs = [1.5, 1, 1.5]
  const { trials, epoch, epochs } = make(costs)
  epochs(400)
  while (trials.current !== 1) epoch()
  costs[1] = 10_000
  epoch()
  costs[1] = 1
  assert.ok(epochs(320)[1]! >= 300)
})

test.run()
