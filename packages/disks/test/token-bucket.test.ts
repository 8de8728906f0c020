import { equal, ok, throws } from 'node:assert/strict'
import { test } from 'uvu'
import { TokenBucket } from '../src/token-bucket.ts'

test('a full bucket is there at once, then it fills at its rate', () => {
  const bucket = new TokenBucket({ size: 100, refillTime: 1000 }, 0)
  equal(bucket.wait(100, 0), 0)
  bucket.take(100)
  equal(bucket.wait(1, 0), 10)
  equal(bucket.wait(30, 200), 100)
  equal(bucket.wait(30, 300), 0)
})

test('it never holds more than its size', () => {
  const bucket = new TokenBucket({ size: 100, refillTime: 1000 }, 0)
  equal(bucket.wait(100, 1_000_000), 0)
  bucket.take(100)
  equal(bucket.wait(100, 1_000_000), 1000)
})

test('the burst is taken first, once', () => {
  const bucket = new TokenBucket({ size: 10, refillTime: 1000, oneTimeBurst: 50 }, 0)
  equal(bucket.wait(60, 0), 0)
  bucket.take(45)
  equal(bucket.wait(15, 0), 0, 'five of the burst and the bucket are left')
  bucket.take(15)
  equal(bucket.wait(10, 0), 1000)
  equal(bucket.wait(10, 5000), 0)
  bucket.take(10)
  equal(bucket.wait(10, 5000), 1000, 'there is no second one')
})

test('what is larger than the bucket waits for a full one, and leaves a debt', () => {
  const bucket = new TokenBucket({ size: 10, refillTime: 1000 }, 0)
  bucket.take(1)
  equal(bucket.wait(1000, 0), 100)
  equal(bucket.wait(1000, 100), 0)
  bucket.take(1000)
  equal(bucket.wait(1, 100), (990 + 1) * 100)
  equal(bucket.wait(0, 100), 0, 'what takes nothing waits for nothing')
})

test('in the long run it gives its rate, whatever is asked for', () => {
  const bucket = new TokenBucket({ size: 1000, refillTime: 100 }, 0)
  let [now, taken] = [0, 0]
  for (let index = 0; index < 1000; index++) {
    const tokens = 1 + (index * 7919) % 3000
    now += bucket.wait(tokens, now)
    equal(Math.round(bucket.wait(tokens, now) * 1e6), 0)
    bucket.take(tokens)
    taken += tokens
  }
  ok(Math.abs(taken / now - 10) < 0.05, `${taken / now} a millisecond`)
})

test('what is no bucket is refused', () => {
  for (const wrong of [{ size: 0 }, { size: NaN }, { size: 1, refillTime: 0 }, { size: 1, oneTimeBurst: -1 }]) {
    throws(() => new TokenBucket(wrong, 0), { code: 'ERR_DISK_OPTION' })
  }
})

test.run()
