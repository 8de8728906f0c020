import assert from 'node:assert/strict'
import { close } from '@node-vmm/libc'
import { GuestMemory } from '@node-vmm/hostmem'
import { test } from 'uvu'
import { BufferPool, type GuestBuffer } from '../src/buffer-pool.ts'

const PAGE = 4096

function makePool (pages: number): { memory: GuestMemory, pool: BufferPool } {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0x10000, size: pages * PAGE }])
  close(fd)
  return { memory, pool: new BufferPool(memory, 0x10000, pages * PAGE) }
}

test('buffers are pieces of guest memory, aligned, as long as asked for', () => {
  const { memory, pool } = makePool(4)
  const one = pool.allocate(1)!
  const two = pool.allocate(PAGE + 1)!
  assert.deepEqual([one.address, two.address], [0x10000, 0x11000])
  assert.deepEqual([one.bytes.length, two.bytes.length], [1, PAGE + 1])
  two.bytes.fill(7)
  assert.deepEqual(memory.read(0x12000, 2), Uint8Array.of(7, 0))
  assert.equal(pool.allocate(PAGE + 1), undefined)
  assert.equal(pool.allocate(0), undefined)
  assert.equal(pool.allocate(PAGE)!.address, 0x13000)
})

test('freeing twice frees once', () => {
  const { pool } = makePool(2)
  const one = pool.allocate(PAGE)!
  one.free()
  const again = pool.allocate(PAGE)!
  one.free()
  assert.equal(again.address, one.address)
  assert.notEqual(pool.allocate(PAGE)!.address, again.address)
})

test('random use never hands out a byte twice, and ends as it began', () => {
  let state = 20261
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor(state / 0x100000000 * below)
  }
  const { pool } = makePool(32)
  const held: GuestBuffer[] = []
  let refused = 0
  for (let round = 0; round < 5000; round++) {
    if (random(2) === 0 && held.length > 0) {
      held.splice(random(held.length), 1)[0]!.free()
      continue
    }
    const buffer = pool.allocate(1 + random(6 * PAGE))
    if (buffer === undefined) refused++
    else {
      for (const other of held) assert.ok(buffer.address >= other.address + other.bytes.length || other.address >= buffer.address + buffer.bytes.length)
      held.push(buffer)
    }
  }
  assert.ok(refused > 100, 'the pool was full at times')
  for (const buffer of held) buffer.free()
  assert.equal(pool.allocate(pool.capacity)!.address, 0x10000, 'all pieces were joined')
})

test.run()
