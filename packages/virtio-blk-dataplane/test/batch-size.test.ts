import assert from 'node:assert/strict'
import { test } from 'uvu'
import { BatchSize } from '../src/batch-size.ts'

interface Timed {
  readonly batch: BatchSize
  /** The sizes of the batches that take so many requests in. */
  serve (available: number, microseconds: number): number[]
  /** The thread sleeps. @param microseconds by default so long that no sizes are compared */
  sleep (microseconds?: number): void
}

/** Batches whose time the test sets. */
function make (): Timed {
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
  const sleep = (microseconds = 200): void => {
    batch.sleep()
    now += microseconds
  }
  return { serve, batch, sleep }
}

/** As `make`, with requests of so many microseconds known. The thread sleeps between turns: no part is tried. */
function learnt (microseconds: number): (available: number) => number[] {
  const { serve, sleep } = make()
  for (let turn = 0; turn < 1000; turn++) {
    sleep()
    serve(16, microseconds)
  }
  return (available) => serve(available, microseconds)
}

test('requests that take their time are submitted in batches of 4, 12, 36, then 64', () => {
  const { batch } = make()
  const ring = { countAvailable: () => 100 }
  for (const [batches, size] of [4, 12, 36, 64, 64].entries()) {
    assert.equal(batch.begin(batches, ring), size)
    batch.end(size, size - 1)
  }
})

test('of requests that are complete at once a quarter is a batch at first, and what is left makes no smaller ones', () => {
  for (const [available, sizes] of [[32, [8, 8, 8, 8]], [16, [4, 4, 4, 4]], [5, [2, 2, 1]], [3, [2, 1]]] as const) {
    const { serve } = make()
    serve(2, 1)
    assert.deepEqual(serve(available, 1), sizes)
  }
})

test('a batch is a part of the depth of the queue, not of what there is just now; a lower depth is noticed', () => {
  const { serve, sleep } = make()
  serve(2, 1)
  serve(32, 1)
  assert.deepEqual(serve(12, 1), [8, 4])
  for (let turn = 0; turn < 160; turn++) {
    sleep()
    serve(8, 1)
  }
  assert.deepEqual(serve(8, 1), [2, 2, 2, 2])
})

test('a queue is as deep while the guest has nearly half of it', () => {
  const { serve, sleep } = make()
  serve(2, 1)
  serve(32, 1)
  for (let turn = 0; turn < 160; turn++) {
    sleep()
    serve(19, 1)
  }
  assert.deepEqual(serve(19, 1), [8, 8, 3])
})

test('of many, a batch is all but what takes as long as a guest needs to wake up', () => {
  assert.deepEqual(learnt(1)(110), [50, 28, 28, 4])
  assert.deepEqual(learnt(2)(64), [34, 16, 14])
})

test('of requests that take no time there are never so many: a quarter is a batch', () => {
  assert.deepEqual(learnt(0.1)(128), [32, 32, 32, 32])
})

test('a batch has 64 requests at most', () => {
  assert.deepEqual(learnt(1)(400).slice(0, 2), [64, 64])
})

test('a batch that was interrupted for long changes little', () => {
  const { serve, sleep } = make()
  const turns = (count: number, microseconds: number): void => {
    for (let turn = 0; turn < count; turn++) {
      sleep()
      serve(16, microseconds)
    }
  }
  turns(1000, 1)
  // One of 16 is timed: all of them are slow once.
  turns(4, 100_000)
  const [size] = serve(110, 1)
  assert.ok(size! >= 50 && size! < 60, `a batch of ${size}`)
})

test('requests become asynchronous again when one of a batch is not complete at its end', () => {
  const { serve, batch } = make()
  serve(2, 1)
  assert.deepEqual(serve(16, 1), [4, 4, 4, 4])
  batch.begin(0, { countAvailable: () => 16 })
  batch.end(4, 3)
  assert.equal(batch.begin(1, { countAvailable: () => 16 }), 12)
})

test('a batch that submitted nothing says nothing about requests', () => {
  const { serve, batch } = make()
  serve(2, 1)
  batch.begin(0, { countAvailable: () => 16 })
  batch.end(0, 0)
  assert.equal(batch.begin(0, { countAvailable: () => 16 }), 4)
})

/**
 * A device that never sleeps, and a guest that does: it keeps `depth` requests in flight, is interrupted when something is
 * shown to it while it sleeps, needs `wakeUp` to wake up, and then takes all that is complete and submits as many anew, until
 * it finds nothing. Microseconds. @returns the mean size of a batch and interrupts for each request, once there was time to find it
 */
function settled (
  { depth, wakeUp, request = 1, interrupt = 5 }: { depth: number, wakeUp: number, request?: number, interrupt?: number }
): { mean: number, interrupts: number } {
  const [system, guest] = [3, 0.4]
  let now = 1e9
  let available = depth
  let shown = 0
  /** When the guest is awake and has done what it is doing; and what it has submitted by then. */
  let awakeAt = Infinity
  let submitted = 0
  const batch = new BatchSize((times, at) => { times[at] = now })
  const guestActs = (): void => {
    while (awakeAt <= now) {
      available += submitted
      submitted = shown
      shown = 0
      awakeAt = submitted === 0 ? Infinity : awakeAt + submitted * guest
    }
  }
  let batches = 0
  let requests = 0
  let interrupts = 0
  for (let turn = 0; turn < 20_000; turn++) {
    if (available === 0) now = awakeAt
    guestActs()
    let size = 0
    do {
      const taken = Math.min(available, batch.begin(0, { countAvailable: (max) => Math.min(max, available) }))
      available -= taken
      now += system + taken * request
      size += taken
      guestActs()
    } while (batch.isJoined && available > 0)
    batch.end(size, size)
    shown += size
    if (awakeAt === Infinity) {
      awakeAt = now + wakeUp
      now += interrupt
      batch.interrupt()
      if (turn >= 10_000) interrupts++
    }
    if (turn < 10_000) continue
    batches++
    requests += size
  }
  return { mean: requests / batches, interrupts: interrupts / requests }
}

test('what was found for one depth is forgotten for another', () => {
  const { serve } = make()
  serve(2, 1)
  const turns = (count: number, available: number): number[] => Array.from({ length: count }, () => serve(available, 1).length)
  turns(400, 8)
  // Too few epochs for a trial: only choices that take turns anew make batches of other sizes.
  const tried = new Set(turns(200, 32))
  assert.ok(tried.size >= 3, `batches of ${[...tried]}`)
})

test('a sleep is a part of what requests cost, but a long one is as long as the guest likes', () => {
  for (const [microseconds, tried] of [[20, true], [200, false]] as const) {
    const { serve, sleep } = make()
    serve(2, 1)
    const first = new Set<number>()
    for (let turn = 0; turn < 2000; turn++) {
      sleep(microseconds)
      first.add(serve(32, 1)[0]!)
    }
    assert.equal(first.size > 1, tried, `batches of ${[...first]} after sleeps of ${microseconds} µs`)
  }
})

test('where guests wake up soon, more than a quarter is a batch', () => {
  for (const depth of [8, 16, 32]) {
    const { mean } = settled({ depth, wakeUp: 6 })
    assert.ok(mean > depth * 0.3, `${mean} of ${depth}`)
  }
})

test('where guests wake up late, a quarter at most is a batch', () => {
  for (const depth of [32, 48, 64]) {
    const { mean } = settled({ depth, wakeUp: 60 })
    assert.ok(mean < depth * 0.26, `${mean} of ${depth}`)
  }
})

test('a larger batch is found where smaller ones keep guest and device in step', () => {
  // By 19 and 13 in turns a guest is interrupted for each batch; after 25 it is awake when the other 7 are done.
  const { interrupts } = settled({ depth: 32, wakeUp: 10 })
  assert.ok(interrupts < 0.04, `${interrupts} interrupts for each request`)
})

test('bug: a guest that had its requests in two parts had them so for ever, where one interrupt for all is cheaper', () => {
  const { interrupts } = settled({ depth: 32, wakeUp: 10, request: 2, interrupt: 9 })
  assert.ok(interrupts < 0.035, `${interrupts} interrupts for each request`)
})

test('a batch is joined with the next one when batches of all are tried, unless all is more than a batch may have', () => {
  for (const [available, joins] of [[32, true], [100, false]] as const) {
    const { batch, sleep } = make()
    let joined = 0
    for (let turn = 0; turn < 4000; turn++) {
      if (turn % 7 === 0) sleep(1)
      const size = batch.begin(0, { countAvailable: () => available })
      if (batch.isJoined) joined++
      if (batch.isJoined) assert.equal(size, available)
      batch.end(size, size)
    }
    assert.equal(joined > 0, joins)
    assert.ok(joined < 4000 / 32 + 1, `${joined} of 4000`)
  }
})

test('bug: requests that take their time again were joined for ever, after one batch that was', () => {
  const { batch, sleep } = make()
  for (let turn = 0; !batch.isJoined; turn++) {
    assert.ok(turn < 4000)
    if (turn % 7 === 0) sleep(1)
    batch.end(batch.begin(0, { countAvailable: () => 32 }), 32)
  }
  batch.end(32, 31)
  batch.begin(0, { countAvailable: () => 32 })
  assert.equal(batch.isJoined, false)
})

test('of single requests there is nothing to compare: sleeps between them are not timed', () => {
  let looks = 0
  const batch = new BatchSize((times, at) => {
    looks++
    times[at] = 1e9
  })
  for (let request = 0; request < 64; request++) {
    assert.ok(batch.begin(0, { countAvailable: () => 1 }) >= 1)
    batch.end(1, 1)
    batch.sleep()
  }
  // One batch of 16 is timed, and each epoch of the trials.
  assert.ok(looks <= 2 * 64 / 16 + 64 / 32, `${looks}`)
})

test.run()
