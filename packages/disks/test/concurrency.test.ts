import { deepEqual, rejects } from 'node:assert/strict'
import { test } from 'uvu'
import { allDone, RangeLock } from '../src/concurrency.ts'

test('what overlaps waits, what does not goes on', async () => {
  const lock = new RangeLock()
  const order: string[] = []
  const release = await lock.lock(2, 5)
  const overlapping = lock.lock(5, 9).then((release) => {
    order.push('overlapping')
    release()
  })
  ;(await lock.lock(6, 6))()
  order.push('other')
  release()
  await overlapping
  deepEqual(order, ['other', 'overlapping'])
})

test('of many that want the same, one at a time has it', async () => {
  const lock = new RangeLock()
  let holders = 0
  let most = 0
  await Promise.all(Array.from({ length: 50 }, async (_, index) => {
    const release = await lock.lock(index % 3, 3)
    most = Math.max(most, ++holders)
    await new Promise(setImmediate)
    holders--
    release()
  }))
  deepEqual([most, holders], [1, 0])
})

test('a failure is told when all have ended', async () => {
  let ended = false
  const slow = new Promise<void>((resolve) => setTimeout(() => {
    ended = true
    resolve()
  }, 10))
  await rejects(allDone([Promise.reject(new Error('first')), slow, undefined]), /first/)
  deepEqual(ended, true)
})

test.run()
