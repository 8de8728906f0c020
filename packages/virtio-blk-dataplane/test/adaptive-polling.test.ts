import assert from 'node:assert/strict'
import { test } from 'uvu'
import { AdaptivePolling } from '../src/adaptive-polling.ts'

/** A polling whose clocks the test sets, in microseconds: a thread may work in a part of the time that passes. */
function make (max: number): { polling: AdaptivePolling, pass: (microseconds: number, worked?: number) => void, sleep: (microseconds: number) => void } {
  let now = 1e9
  let work = 1e6
  const polling = new AdaptivePolling(max, (times, at) => { times[at] = now }, (times, at) => { times[at] = work })
  const pass = (microseconds: number, worked = 0): void => {
    now += microseconds
    work += worked
  }
  const sleep = (microseconds: number): void => {
    polling.beforeSleep()
    pass(microseconds)
    polling.afterSleep(false)
  }
  return { polling, pass, sleep }
}

/** How long it polls, in microseconds. */
function duration ({ polling, pass }: ReturnType<typeof make>): number {
  polling.begin()
  for (let passed = 0; ; passed++) {
    if (!polling.goesOn()) return passed
    pass(1)
  }
}

test('it begins with the first short sleep, and doubles up to the limit while sleeps are longer', () => {
  const made = make(32)
  assert.equal(made.polling.isWorthIt(0), false)
  const durations = [1, 2, 3, 4, 5].map(() => {
    made.sleep(30)
    assert.equal(made.polling.isWorthIt(0), true)
    return duration(made)
  })
  // A sleep shorter than it polls would have been saved: nothing to learn.
  assert.deepEqual(durations, [4, 8, 16, 32, 32])
})

test('a sleep longer than polling may last ends it', () => {
  const made = make(32)
  made.sleep(10)
  made.sleep(33)
  assert.equal(made.polling.isWorthIt(0), false)
  made.sleep(10)
  assert.equal(duration(made), 4)
})

test('a limit of 0 never polls', () => {
  const made = make(0)
  made.sleep(1)
  assert.equal(made.polling.isWorthIt(0), false)
})

test('the clock is that of the kernel', () => {
  const polling = new AdaptivePolling(1000)
  polling.beforeSleep()
  polling.afterSleep(false)
  polling.begin()
  const begin = performance.now()
  while (polling.goesOn());
  assert.ok(performance.now() - begin < 30_000)
})

test('it pauses where polling keeps finding nothing, and tries again later', () => {
  const { polling, sleep } = make(32)
  const failUntilPause = (): number => {
    for (let failures = 1; ; failures++) {
      sleep(10)
      polling.end(false)
      if (!polling.isWorthIt(0)) return failures
      assert.ok(failures < 100)
    }
  }
  assert.equal(failUntilPause(), 16)
  for (let sleeps = 0; sleeps < 127; sleeps++) {
    sleep(10)
    assert.equal(polling.isWorthIt(0), false)
  }
  sleep(10)
  assert.equal(polling.isWorthIt(0), true)
  for (let failures = 0; failures < 15; failures++) polling.end(false)
  polling.end(true)
  assert.equal(failUntilPause(), 16, 'a success makes up for all failures before it')
})

/** How long a disk's request takes, in microseconds, by how it is waited for, and how much of that the thread works. */
interface Times {
  readonly asleep?: number
  readonly inNaps?: number
  readonly polled?: number
  readonly work?: { readonly inNaps: number, readonly polled: number }
}

/** Of the last thousand requests of a disk, of so many, with so many in flight, how many were waited for in each way. */
function waitsOf (made: ReturnType<typeof make>, times: Times, between: (request: number) => void = () => {}, requests = 20_000, inFlight = 1): Required<Omit<Times, 'work'>> {
  const { asleep = 100, inNaps = 100, polled = 100, work = { inNaps: 0, polled: 0 } } = times
  const { polling, pass, sleep } = made
  sleep(10)
  const waits = { asleep: 0, inNaps: 0, polled: 0 }
  for (let request = 0; request < requests; request++) {
    const way = polling.isWorthIt(inFlight) ? 'polled' : polling.naps ? 'inNaps' : 'asleep'
    if (request >= requests - 1000) waits[way]++
    pass({ asleep, inNaps, polled }[way], { asleep: 0, ...work }[way])
    polling.complete(1)
    between(request)
  }
  return waits
}

test('beside a disk that has requests it polls only where they are done sooner, by more than a twentieth', () => {
  assert.ok(waitsOf(make(100), { polled: 80 }).polled > 900)
  assert.ok(waitsOf(make(100), { polled: 97 }).asleep > 900)
  assert.ok(waitsOf(make(100), { polled: 150 }).asleep > 900)
})

test('beside such a disk it naps where that is faster than a sleep, and polls where that is faster still', () => {
  assert.ok(waitsOf(make(100), { inNaps: 80 }).inNaps > 900)
  assert.ok(waitsOf(make(100), { inNaps: 97 }).asleep > 900)
  assert.ok(waitsOf(make(100), { inNaps: 80, polled: 78 }).inNaps > 900)
  assert.ok(waitsOf(make(100), { inNaps: 80, polled: 70 }).polled > 900)
})

test('what is best is known after 600 bursts', () => {
  assert.ok(waitsOf(make(100), { inNaps: 80 }, undefined, 1600).inNaps > 900)
})

test('what is best is known for each magnitude of what is in flight, whatever else was going on meanwhile', () => {
  const made = make(100)
  const few = { inNaps: 120, polled: 120 }
  const many = { inNaps: 80, polled: 120 }
  for (const inFlight of [3, 1]) assert.ok(waitsOf(made, few, undefined, 20_000, inFlight).asleep > 900)
  assert.ok(waitsOf(made, many, undefined, 1600, 16).inNaps > 900, 'it is found out at once')
  assert.ok(waitsOf(made, few, undefined, 1030, 1).asleep > 900, 'it is remembered')
  assert.ok(waitsOf(made, many, undefined, 1030, 63).inNaps > 900)
})

test('a load that has now many requests in flight, now few, is one that has many', () => {
  const { polling, pass, sleep } = make(100)
  sleep(10)
  let naps = 0
  for (let request = 0; request < 20_000; request++) {
    // As many of each as an epoch has bursts.
    const inFlight = request % 8 < 4 ? 1 : 20
    if (polling.isWorthIt(inFlight)) pass(120)
    else pass(polling.naps ? 80 : 100)
    if (request >= 19_000 && polling.naps) naps++
    polling.complete(1)
  }
  assert.ok(naps > 900, `${naps}`)
})

test('work counts, too, as a sixth of the time', () => {
  assert.ok(waitsOf(make(100), { inNaps: 80, work: { inNaps: 20, polled: 0 } }).inNaps > 900)
  assert.ok(waitsOf(make(100), { inNaps: 90, work: { inNaps: 45, polled: 0 } }).asleep > 900)
  assert.ok(waitsOf(make(100), { polled: 50, work: { inNaps: 0, polled: 50 } }).polled > 900)
  assert.ok(waitsOf(make(100), { polled: 87, work: { inNaps: 0, polled: 87 } }).asleep > 900)
})

test('where more than 3 are in flight, work counts as much as time', () => {
  const times = { polled: 60, work: { inNaps: 0, polled: 60 } }
  assert.ok(waitsOf(make(100), times, undefined, 20_000, 3).polled > 900)
  assert.ok(waitsOf(make(100), times, undefined, 20_000, 4).asleep > 900)
  assert.ok(waitsOf(make(100), { inNaps: 80, work: { inNaps: 10, polled: 0 } }, undefined, 20_000, 4).inNaps > 900)
})

test('without requests in flight it polls whatever is best beside a disk', () => {
  const made = make(100)
  waitsOf(made, { polled: 150 }, () => assert.equal(made.polling.isWorthIt(0), true))
})

test('how long guests have nothing to do says nothing about disks', () => {
  const made = make(100)
  const { polled } = waitsOf(made, { polled: 93 }, (request) => {
    if (request % 10 > 0) return
    made.sleep(20_000)
    made.sleep(10)
  })
  assert.ok(polled > 900, `${polled}`)
})

test('a guest that needs 200 microseconds each time, for its processor was asleep, keeps nothing from being learnt', () => {
  const made = make(100)
  const { inNaps } = waitsOf(made, { asleep: 400, inNaps: 300, polled: 400 }, () => made.sleep(200))
  assert.ok(inNaps > 900, `${inNaps}`)
})

test('a limit of 0 neither polls nor naps beside a disk', () => {
  assert.equal(waitsOf(make(0), { asleep: 100, inNaps: 80, polled: 80 }).asleep, 1000)
})

test.run()
