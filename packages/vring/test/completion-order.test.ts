import { deepEqual, equal } from 'node:assert/strict'
import { test } from 'uvu'
import { CompletionOrder } from '../src/completion-order.ts'

function takeAll (order: CompletionOrder): [number, number][] {
  const taken: [number, number][] = []
  for (let head = order.next(); head >= 0; head = order.next()) taken.push([head, order.take(head)])
  return taken
}

test('completions wait for those popped before them', () => {
  const order = new CompletionOrder(4)
  for (const head of [3, 1, 2]) order.popped(head)
  order.completed(2, 20)
  order.completed(1, 10)
  deepEqual(takeAll(order), [])
  order.completed(3, 0)
  deepEqual(takeAll(order), [[3, 0], [1, 10], [2, 20]])
})

test('a head comes again and again, around the circle', () => {
  const order = new CompletionOrder(2)
  for (let round = 0; round < 10; round++) {
    order.popped(0)
    order.popped(1)
    order.completed(1, round)
    equal(order.next(), -1)
    order.completed(0, round)
    deepEqual(takeAll(order), [[0, round], [1, round]])
  }
})

test('clear forgets all', () => {
  const order = new CompletionOrder(2)
  order.popped(1)
  order.completed(1, 5)
  order.clear()
  equal(order.next(), -1)
  order.popped(1)
  equal(order.next(), -1)
})

test.run()
