import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { DataPlane, type DataPlaneOptions, LatencyHistogram } from '../src/index.ts'
import { LatencyRecorder, LATENCY_SUM, LATENCY_WORDS } from '../src/latency.ts'
import { Guest } from './support/guest.ts'

const test = suite('latency')
const ends: (() => unknown)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const { bounds } = LatencyHistogram
const now = new Float64Array(1)

/** What requests leave that took so many microseconds. */
function recorded (...latencies: number[]): LatencyHistogram {
  const words = new Float64Array(LATENCY_WORDS)
  const recorder = new LatencyRecorder(words, 4)
  for (const latency of latencies) {
    now[0] = 1e12
    recorder.begin(3, now)
    now[0] += latency
    recorder.end(3, now)
  }
  return new LatencyHistogram(words.slice(0, bounds.length), words[LATENCY_SUM])
}

test('buckets grow without a gap, by an eighth at most, from a microsecond to more than ten seconds', () => {
  assert.equal(bounds.at(-1), Infinity)
  assert.ok(bounds.at(-2)! > 10e6)
  bounds.forEach((bound, bucket) => {
    const below = bounds[bucket - 1] ?? 0
    assert.ok(bound > below, `${below}, ${bound}`)
    if (below >= 1 && bound < Infinity) assert.ok(bound - below <= below / 8, `${below}, ${bound}`)
  })
})

test('each latency is in the bucket whose bounds are around it', () => {
  for (const [bucket, bound] of bounds.entries()) {
    const below = bounds[bucket - 1] ?? 0
    for (const latency of [below, Math.min(bound, 2 * below + 1) - 0.01]) {
      const { counts } = recorded(latency)
      assert.equal(counts.indexOf(1), bucket, `${latency} µs`)
    }
  }
  assert.equal(recorded(1e12).percentile(0.5), Infinity)
})

test('percentiles, sum and difference of what was measured', () => {
  const nothing = new LatencyHistogram()
  assert.deepEqual([nothing.count, nothing.sum, nothing.percentile(0.5), nothing.percentile(1)], [0, 0, 0, 0])
  const some = recorded(...Array.from({ length: 98 }, () => 10), 1000, 5000)
  assert.deepEqual([some.count, some.sum], [100, 980 + 6000])
  const [p50, p99, longest] = [0.5, 0.99, 1].map((share) => some.percentile(share)) as [number, number, number]
  assert.ok(p50 > 10 && p50 <= 11.25, `${p50}`)
  assert.ok(p99 > 1000 && p99 <= 1125, `${p99}`)
  assert.ok(longest > 5000 && longest <= 5625, `${longest}`)
  const both = some.plus(recorded(20))
  assert.deepEqual([both.count, both.sum], [101, some.sum + 20])
  assert.deepEqual(both.minus(some), recorded(20))
})

/** A data plane whose disk answers a read when the test lets it, on this thread. */
async function start (options: DataPlaneOptions = {}): Promise<{ plane: DataPlane, guest: Guest, waiting: (() => void)[] }> {
  const waiting: (() => void)[] = []
  const plane = DataPlane.create({
    disk: { capacity: 1 << 20, read: () => new Promise((resolve) => { waiting.push(resolve) }), flush: () => {} },
    queues: 2,
    ...options
  })
  const guest = new Guest()
  ends.push(() => guest.close(), () => plane.close())
  await plane.startQueue(1, guest.setup)
  return { plane, guest, waiting }
}

test('a request takes as long as its disk, and no longer than its guest waits', async () => {
  const { plane, guest, waiting } = await start({ latency: true })
  const sent = performance.now()
  const read = guest.read(0, 512)
  while (waiting.length === 0) await new Promise(setImmediate)
  const begun = performance.now()
  while (performance.now() - begun < 3);
  waiting.pop()!()
  await read
  const waited = 1000 * (performance.now() - sent)
  const { count, sum } = plane.latency(1)
  assert.equal(count, 1)
  assert.ok(sum >= 3000 && sum <= waited, `${sum} µs of ${waited}`)
  assert.ok(plane.latency(1).percentile(1) >= sum)
  assert.equal(plane.latency(0).count, 0)
  assert.throws(() => plane.latency(2), { code: 'ERR_QUEUE' })
})

test('requests of every kind are timed, those without a disk and those that fail as well', async () => {
  const { plane, guest } = await start({ latency: true })
  await guest.flush()
  await guest.getId()
  await guest.request(77, 0)
  await guest.read(1 << 20, 512)
  assert.equal(plane.latency(1).count, 4)
  assert.equal(plane.statistics(1).requests, 4)
})

test('nothing is timed unless asked for, nor what was in flight when it was', async () => {
  const { plane, guest, waiting } = await start()
  await guest.flush()
  const early = guest.read(0, 512)
  while (waiting.length === 0) await new Promise(setImmediate)
  plane.measureLatency(true)
  await guest.flush()
  waiting.pop()!()
  await early
  assert.equal(plane.latency(1).count, 1)
  await guest.flush()
  assert.equal(plane.latency(1).count, 2)
  plane.measureLatency(false)
  await guest.flush()
  await guest.flush()
  plane.measureLatency(true)
  await guest.flush()
  assert.equal(plane.latency(1).count, 3)
})

test.run()
