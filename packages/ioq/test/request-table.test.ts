import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { RequestTable } from '@node-vmm/ioq'

const test = suite('RequestTable')

function tableWith (pieces: readonly [low: number, high: number, length: number][], offset = 0): RequestTable {
  const table = new RequestTable(4, 16)
  const word = table.prepare(1, pieces.length)
  pieces.forEach(([low, high, length], index) => table.iovecs.set([low, high, length, 0], word + index * 4))
  table.remaining[1] = pieces.reduce((sum, [, , length]) => sum + length, 0)
  table.offset[1] = offset
  return table
}

function left (table: RequestTable): number[][] {
  return Array.from({ length: table.count[1]! }, (_, index) => {
    const word = table.first[1]! + index * 4
    return [...table.iovecs.subarray(word, word + 3)]
  })
}

test('advances within a segment', () => {
  const table = tableWith([[0x1000, 0, 100], [0x5000, 0, 50]], 4096)
  table.advance(1, 30)
  assert.deepEqual(left(table), [[0x1000 + 30, 0, 70], [0x5000, 0, 50]])
  assert.equal(table.offset[1], 4126)
  assert.equal(table.remaining[1], 120)
  table.close()
})

test('advances to the border of a segment, past an empty one, and to the end', () => {
  const table = tableWith([[0x1000, 0, 100], [0x3000, 0, 0], [0x5000, 0, 50]])
  table.advance(1, 100)
  assert.deepEqual(left(table), [[0x5000, 0, 50]])
  table.advance(1, 50)
  assert.deepEqual(left(table), [])
  assert.equal(table.remaining[1], 0)
  table.close()
})

test('carries into the high half of an address', () => {
  const table = tableWith([[0xfffffff0, 0x7f, 0x100]])
  table.advance(1, 0x10)
  assert.deepEqual(left(table), [[0, 0x80, 0xf0]])
  table.advance(1, 1)
  assert.deepEqual(left(table), [[1, 0x80, 0xef]])
  table.close()
})

test('advances by more than 32 bits', () => {
  const table = tableWith([[0, 1, 0xfffff000], [0, 3, 0xfffff000]], 2 ** 33)
  table.advance(1, 0xfffff000 + 0x80000000)
  assert.deepEqual(left(table), [[0x80000000, 3, 0x7ffff000]])
  assert.equal(table.offset[1], 2 ** 33 + 0xfffff000 + 0x80000000)
  table.close()
})

test('keeps the iovecs of different requests apart', () => {
  const table = new RequestTable(64, 1024)
  const ranges: [number, number][] = []
  for (let id = 0; id < 64; id++) {
    for (const count of [8, 1024]) {
      const word = table.prepare(id, count)
      ranges.push([word, word + count * 4])
    }
  }
  ranges.sort(([one], [other]) => one - other)
  ranges.forEach(([start], index) => assert.ok(index === 0 || start >= ranges[index - 1]![1]))
  assert.ok(ranges.at(-1)![1] <= table.iovecs.length)
  table.close()
})

test('has room for the largest queue', () => {
  const table = new RequestTable(32768, 1024)
  const word = table.prepare(32767, 1024)
  table.iovecs[word + 4095] = 7
  assert.equal(table.iovecs[word + 4095], 7)
  table.close()
})

test('hands out what finished in order, around the end of its ring', () => {
  const table = new RequestTable(4, 1)
  for (let round = 0; round < 10; round++) {
    for (let id = 0; id < 3; id++) table.finish(id, -5 - round)
    for (let id = 0; id < 3; id++) {
      assert.equal(table.finishedId, id)
      assert.equal(table.finishedResult, -5 - round)
      table.dropFinished()
    }
    assert.equal(table.finishedCount, 0)
  }
  table.finish(1, 10)
  table.finish(2, 20)
  assert.equal(table.undoFinish(), 20)
  assert.equal(table.finishedId, 1)
  table.close()
})

test.run()
