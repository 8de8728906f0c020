// VIRTIO_F_IN_ORDER in both layouts: virtio 1.2, 2.7.9 and 2.8.8.
import assert from 'node:assert/strict'
import { close } from '@node-vmm/libc'
import { GuestMemory } from '@node-vmm/hostmem'
import { test } from 'uvu'
import {
  type DriverQueue, DriverRing, type DriverRingOptions, layOutPackedRing, layOutRing, NOTHING_USED, PackedDriverRing,
  RawPackedRing, RawRing, RING_FULL, USED_RING_BROKEN
} from '../src/driver/index.ts'
import { DescriptorChain, PackedVring, SplitVring, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC } from '../src/index.ts'
import { type PlainDevice, PlainPackedDevice, PlainSplitDevice, VringDevice } from './support/plain-device.ts'
import { traffic } from './support/traffic.ts'

const RING = 0x10000
const TABLES = 0x40000
const DATA = 0x80000

function makeMemory (): GuestMemory {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: RING, size: 0x100000 }])
  close(fd)
  return memory
}

function split (size: number, options: DriverRingOptions = {}) {
  const memory = makeMemory()
  const layout = layOutRing(RING, size)
  return { ring: new DriverRing(memory, layout, { inOrder: true, ...options }), raw: new RawRing(memory, layout), memory }
}

function packed (size: number, options: DriverRingOptions = {}) {
  const memory = makeMemory()
  const layout = layOutPackedRing(RING, size)
  return { ring: new PackedDriverRing(memory, layout, { inOrder: true, ...options }), raw: new RawPackedRing(memory, layout), memory }
}

const segments = (count: number, length = 1) => Array.from({ length: count }, () => ({ address: DATA, length }))

function poll (ring: DriverQueue): { head: number, length: number, token: number }[] {
  const polled = []
  for (let head = ring.pollUsed(); head >= 0; head = ring.pollUsed()) polled.push({ head, length: ring.usedLength, token: ring.usedToken })
  return polled
}

test('split: the used element of a batch is that of its last chain, in the place of the first', () => {
  const { ring, raw } = split(8)
  for (let token = 1; token <= 4; token++) ring.add(segments(1), segments(1, token * 10), token)
  ring.publish()
  raw.usedElement(0, { id: 4, length: 7 })
  raw.usedElement(1, { id: 99, length: 99 })
  raw.usedIndex(3)
  assert.deepEqual(poll(ring), [{ head: 0, length: 10, token: 1 }, { head: 2, length: 20, token: 2 }, { head: 4, length: 7, token: 3 }],
    'those that were skipped count as written in full')
  assert.equal(ring.usedIndex, 3)
  raw.usedElement(3, { id: 6, length: 40 })
  raw.usedIndex(4)
  assert.deepEqual(poll(ring), [{ head: 6, length: 40, token: 4 }], 'the next element stands behind the whole batch')
})

test('split: several batches under one index, and a device that batches nothing', () => {
  const { ring, raw } = split(4, { index: 65534 })
  for (let token = 1; token <= 4; token++) ring.add(segments(1), [], token)
  ring.publish()
  raw.usedElement(2, { id: 1, length: 0 })
  raw.usedElement(0, { id: 2, length: 0 })
  raw.usedElement(1, { id: 3, length: 0 })
  raw.usedIndex(2)
  assert.deepEqual(poll(ring).map(({ token }) => token), [1, 2, 3, 4])
})

test('split: descriptors are taken in the order of the table, again and again, and link to the next one', () => {
  const { ring, raw, memory } = split(4)
  const heads = []
  for (let round = 0; round < 6; round++) {
    heads.push(ring.add(segments(3), []))
    ring.publish()
    raw.usedElement(round % 4, { id: heads[round]!, length: 0 })
    raw.usedIndex(round + 1)
    assert.equal(ring.pollUsed(), heads[round])
  }
  assert.deepEqual(heads, [0, 3, 2, 1, 0, 3])
  for (let index = 0; index < 4; index++) assert.equal(memory.getUint16(ring.layout.descriptorAddress + index * 16 + 14), (index + 1) % 4)
})

for (const [name, corrupt] of Object.entries<(raw: RawRing) => void>({
  'the second chain before the first': (raw) => { raw.usedElement(0, { id: 1, length: 0 }); raw.usedIndex(1) },
  'a batch that reaches further than its index': (raw) => { raw.usedElement(0, { id: 2, length: 0 }); raw.usedIndex(2) },
  'a chain that is not in flight': (raw) => { raw.usedElement(0, { id: 3, length: 0 }); raw.usedIndex(1) },
  'no head': (raw) => { raw.usedElement(0, { id: 1000, length: 0 }); raw.usedIndex(1) }
})) {
  test(`split: a device that gives back ${name} breaks the ring`, () => {
    const { ring, raw } = split(4)
    for (let count = 0; count < 3; count++) ring.add(segments(1), [])
    ring.publish()
    corrupt(raw)
    assert.equal(ring.pollUsed(), USED_RING_BROKEN)
    assert.ok(ring.broken)
    assert.equal(ring.pollUsed(), USED_RING_BROKEN)
    assert.equal(ring.enableInterrupts(), 'empty')
  })
}

test('packed: one used descriptor stands for a batch, and the next one behind all of its descriptors', () => {
  const { ring, raw } = packed(7)
  ring.add(segments(1), segments(2, 10), 1)
  ring.add(segments(1), segments(1, 20), 2)
  ring.add(segments(1), [], 3)
  ring.add(segments(1), [], 4)
  assert.equal(ring.add(segments(1), []), RING_FULL)
  ring.publish()
  raw.use(0x8000, { id: 2, length: 5 })
  assert.equal(ring.pollUsed(), 0)
  assert.equal(ring.usedLength, 20)
  assert.equal(ring.enableInterrupts(), 'more', 'in the midst of a batch')
  assert.deepEqual(poll(ring), [{ head: 1, length: 20, token: 2 }, { head: 2, length: 5, token: 3 }])
  assert.equal(ring.usedIndex, 0x8006)
  assert.equal(ring.enableInterrupts(), 'empty')
  raw.use(0x8006, { id: 3, length: 0 })
  assert.deepEqual(poll(ring), [{ head: 3, length: 0, token: 4 }])
  assert.deepEqual([ring.usedIndex, ring.freeDescriptors], [0, 7])
})

test('packed: buffer ids are used in turn, and a batch may pass the end of the ring', () => {
  const { ring, raw } = packed(3)
  const add = (): number => ring.add(segments(1), [])
  assert.deepEqual([add(), add()], [0, 1])
  ring.publish()
  raw.use(0x8000, { id: 1, length: 0 })
  assert.deepEqual(poll(ring).map(({ head }) => head), [0, 1])
  assert.deepEqual([add(), add(), add()], [2, 0, 1])
  ring.publish()
  raw.use(0x8002, { id: 0, length: 0 })
  assert.deepEqual(poll(ring).map(({ head }) => head), [2, 0])
  assert.equal(ring.usedIndex, 1)
})

for (const [name, id] of [['that is not in flight', 3], ['that there is not', 1000]] as const) {
  test(`packed: a device that gives back an id ${name} breaks the ring`, () => {
    const { ring, raw } = packed(4)
    for (let count = 0; count < 3; count++) ring.add(segments(1), [])
    ring.publish()
    raw.use(0x8000, { id, length: 0 })
    assert.equal(ring.pollUsed(), USED_RING_BROKEN)
    assert.ok(ring.broken)
  })
}

test('packed: what was given back within a batch cannot come back later', () => {
  const { ring, raw } = packed(4)
  for (let count = 0; count < 3; count++) ring.add(segments(1), [])
  ring.publish()
  // Out of order, which looks like a batch of two; then the first one.
  raw.use(0x8000, { id: 1, length: 0 })
  assert.deepEqual(poll(ring).map(({ head }) => head), [0, 1])
  raw.use(0x8002, { id: 0, length: 0 })
  assert.equal(ring.pollUsed(), USED_RING_BROKEN)
})

for (const eventIdx of [false, true]) {
  for (const indirect of [false, true]) {
    const name = `${eventIdx ? ', event indices' : ''}${indirect ? ', indirect' : ''}`
    const common = { eventIdx, ...(indirect && { indirect: { address: TABLES, segments: 4 } }) }
    const features = [...(eventIdx ? [VIRTIO_F_EVENT_IDX] : []), ...(indirect ? [VIRTIO_F_INDIRECT_DESC] : []), VIRTIO_F_IN_ORDER]
      .reduce((mask, bit) => mask | 1n << BigInt(bit), 0n)
    const run = (ring: DriverQueue, device: PlainDevice): void => {
      const finished = traffic(ring, device, { data: DATA, segmentsMax: indirect ? 4 : Math.min(ring.size, 4), inOrder: true, rounds: 1000 })
      assert.ok(finished > 400, `only ${finished} with ${ring.size} descriptors`)
    }
    test(`random traffic in batches: split${name}`, () => {
      for (const size of [1, 2, 4, 64]) {
        const { ring, raw } = split(size, { ...common, index: 65500 })
        run(ring, new PlainSplitDevice(raw, { eventIdx, index: 65500 }))
      }
    })
    test(`random traffic in order: split, SplitVring${name}`, () => {
      const { ring, memory } = split(8, { ...common, index: 65500 })
      run(ring, new VringDevice(new SplitVring(memory, { ...ring.layout, features, availableIndex: 65500 }), new DescriptorChain(memory)))
    })
    test(`random traffic in batches: packed${name}`, () => {
      for (const size of [1, 2, 3, 4, 5, 64, 100]) {
        const { ring, raw } = packed(size, common)
        run(ring, new PlainPackedDevice(raw, { eventIdx }))
      }
    })
    test(`random traffic in order: packed, PackedVring${name}`, () => {
      const { ring, memory } = packed(7, common)
      run(ring, new VringDevice(new PackedVring(memory, { ...ring.layout, features }), new DescriptorChain(memory)))
    })
  }
}

test('without the feature an early id is only that chain', () => {
  const { ring, raw } = packed(4, { inOrder: false })
  for (let count = 0; count < 3; count++) ring.add(segments(1), [])
  ring.publish()
  raw.use(0x8000, { id: 1, length: 0 })
  assert.equal(ring.pollUsed(), 1)
  assert.equal(ring.pollUsed(), NOTHING_USED)
})

test.run()
