import assert from 'node:assert/strict'
import { test } from 'uvu'
import { History, type Stability } from '../power-cut/history.ts'
import { content, SECTOR_BYTES } from '../power-cut/sectors.ts'

const SECTORS = 8

/** A disk of which a sector has a write; 0 is what was there at first, -1 zeroes. */
function disk (writes: Readonly<Record<number, number>> = {}): Uint8Array {
  const bytes = content(0, 0, SECTORS)
  for (const [sector, write] of Object.entries(writes)) {
    bytes.set(write < 0 ? new Uint8Array(SECTOR_BYTES) : content(write, Number(sector), 1), Number(sector) * SECTOR_BYTES)
  }
  return bytes
}

/** Which of these writes may be in sector 2. */
function allowed (history: History, writes: readonly number[]): number[] {
  return writes.filter((write) => history.check(disk({ 2: write })).length === 0)
}

function made (stability: Stability = 'flushed'): { history: History, write: () => number, flush: () => void } {
  const history = new History(SECTORS, stability)
  return {
    history,
    write: () => {
      const number = history.begin('write', 2, 1)
      history.end(number)
      return number
    },
    flush: () => history.flush()()
  }
}

test('what nobody touched is as it was', () => {
  const history = new History(SECTORS, 'flushed')
  assert.deepEqual(history.check(history.initial), [])
  assert.deepEqual(history.check(disk({ 5: -1 })), [{ sector: 5, text: 'has zeroes, for which nobody asked' }])
  assert.deepEqual(history.check(disk({ 5: 1 })), [{ sector: 5, text: 'has write 1, which is of other sectors' }])
})

test('a write that no flush covers may be there or not', () => {
  const { history, write } = made()
  assert.equal(write(), 1)
  assert.equal(write(), 2)
  assert.deepEqual(allowed(history, [0, 1, 2]), [0, 1, 2])
  assert.equal(history.begin('write', 2, 1), 3)
  assert.deepEqual(allowed(history, [0, 1, 2, 3]), [0, 1, 2, 3], 'nor was it acknowledged')
})

test('a write that a flush covers is there, or a later one', () => {
  const { history, write, flush } = made()
  write()
  write()
  flush()
  assert.deepEqual(allowed(history, [0, 1, 2]), [2])
  write()
  assert.deepEqual(allowed(history, [0, 1, 2, 3]), [2, 3])
  assert.match(history.check(disk())[0]!.text, /^has what was there at first, but write (1|2) is stable and came later$/)
  assert.deepEqual([history.acknowledged, history.flushes], [3, 1])
})

test('a flush covers what was acknowledged before it was asked for, and only when it is acknowledged', () => {
  const { history, write } = made()
  const acknowledged = history.flush()
  write()
  acknowledged()
  assert.deepEqual(allowed(history, [0, 1]), [0, 1])
  history.flush()
  assert.deepEqual(allowed(history, [0, 1]), [0, 1])
  history.flush()()
  assert.deepEqual(allowed(history, [0, 1]), [1])
})

test('writes that overlapped in time may come in any order', () => {
  const { history, flush } = made()
  const [one, other] = [history.begin('write', 2, 1), history.begin('write', 2, 1)]
  history.end(other)
  history.end(one)
  flush()
  assert.deepEqual(allowed(history, [0, one, other]), [one, other])
})

test('write-through: each write is stable once it is acknowledged', () => {
  const { history, write } = made('acknowledged')
  write()
  assert.deepEqual(allowed(history, [0, 1]), [1])
  history.begin('write', 2, 1)
  assert.deepEqual(allowed(history, [0, 1, 2]), [1, 2])
})

test('zeroes are as any write; a discard leaves what was there, or zeroes', () => {
  const { history, write, flush } = made()
  write()
  flush()
  history.end(history.begin('discard', 2, 1))
  flush()
  assert.deepEqual(allowed(history, [-1, 0, 1]), [-1, 1])
  history.end(history.begin('zeroes', 2, 1))
  flush()
  assert.deepEqual(allowed(history, [-1, 0, 1]), [-1])
})

test('a sector that is torn, or another one\'s, is nobody\'s', () => {
  const { history, write } = made()
  write()
  const torn = disk({ 2: 1 })
  torn.set(content(0, 2, 1).subarray(0, 100), 2 * SECTOR_BYTES + 412)
  const elsewhere = disk()
  elsewhere.set(content(1, 3, 1), 2 * SECTOR_BYTES)
  for (const found of [torn, elsewhere]) assert.match(history.check(found)[0]!.text, /^has what nobody wrote, or parts of several writes/)
})

test.run()
