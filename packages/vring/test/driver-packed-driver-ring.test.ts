import assert from 'node:assert/strict'
import { close } from '@node-vmm/libc'
import { GuestMemory } from '@node-vmm/hostmem'
import { test } from 'uvu'
import { DescriptorChain, PackedVring, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from '../src/index.ts'
import { indexOf } from '../src/packed-index.ts'
import {
  type DriverRingOptions, layOutPackedRing, NOTHING_USED, PackedDriverRing, packedRingBytes, RawPackedRing, RING_FULL,
  USED_RING_BROKEN
} from '../src/driver/index.ts'
import { PlainPackedDevice, VringDevice } from './support/plain-device.ts'
import { traffic } from './support/traffic.ts'
import { heapGrowth } from '../../../test/support/heap-growth.ts'

const RING = 0x10000
const TABLES = 0x40000
const DATA = 0x80000

const AVAIL = 0x80
const USED = 0x8000

function setUp (size: number, options: DriverRingOptions = {}) {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: RING, size: 0x100000 }])
  close(fd)
  const layout = layOutPackedRing(RING, size)
  return { memory, layout, ring: new PackedDriverRing(memory, layout, options), raw: new RawPackedRing(memory, layout) }
}

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values)
const segment = { address: DATA, length: 1 }
const segments = (count: number) => Array.from({ length: count }, () => segment)

test('a packed ring is laid out with the alignments and sizes of the specification', () => {
  for (const size of [1, 2, 3, 5, 100, 256, 32767, 32768]) {
    const { descriptorAddress, availableAddress, usedAddress } = layOutPackedRing(0x1000, size)
    assert.equal(descriptorAddress, 0x1000)
    assert.deepEqual([availableAddress % 4, usedAddress % 4], [0, 0])
    assert.ok(availableAddress >= descriptorAddress + 16 * size)
    assert.ok(usedAddress >= availableAddress + 4)
    assert.ok(0x1000 + packedRingBytes(size) >= usedAddress + 4)
  }
  for (const size of [0, 0.5, 32769, -4, NaN]) assert.throws(() => layOutPackedRing(0, size), RangeError)
  for (const address of [8, -64, 0.5]) assert.throws(() => layOutPackedRing(address, 4), RangeError)
})

test('a direct chain stands in memory byte by byte as the specification says, its first flags last', () => {
  const { memory, layout, ring } = setUp(4)
  const id = ring.add([{ address: 0x1122334455667, length: 16 }], [{ address: 0x80, length: 0x200 }, { address: 0x90, length: 1 }])
  assert.equal(id, 0)
  assert.equal(ring.freeDescriptors, 1)
  // Flags: NEXT 1, WRITE 2, AVAIL 0x80.
  const rest = [
    0x80, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0x83, 0,
    0x90, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x82, 0]
  const first = [0x67, 0x56, 0x45, 0x34, 0x23, 0x12, 0x01, 0, 16, 0, 0, 0, 0, 0]
  assert.deepEqual(memory.read(layout.descriptorAddress, 48), bytes(...first, 0, 0, ...rest), 'not published yet')
  ring.publish()
  assert.deepEqual(memory.read(layout.descriptorAddress, 48), bytes(...first, 0x81, 0, ...rest))
})

test('all chains of a batch are shown by the first descriptor\'s flags', () => {
  const { ring, raw } = setUp(5)
  const flags = () => Array.from({ length: 5 }, (_, position) => raw.getDescriptor(position).flags)
  assert.deepEqual([ring.add(segments(2), []), ring.add([], segments(1)), ring.add(segments(1), [])], [0, 1, 2])
  assert.deepEqual(flags(), [0, AVAIL, AVAIL | 2, AVAIL, 0])
  ring.publish()
  assert.deepEqual(flags(), [AVAIL | 1, AVAIL, AVAIL | 2, AVAIL, 0])
  ring.publish()
  assert.deepEqual(flags(), [AVAIL | 1, AVAIL, AVAIL | 2, AVAIL, 0], 'nothing more to show')
  assert.deepEqual([0, 1, 2, 3].map((position) => raw.getDescriptor(position).id), [0, 0, 1, 2])
})

test('an indirect chain takes one descriptor and its own table, without NEXT', () => {
  const { memory, ring, raw } = setUp(3, { indirect: { address: TABLES, segments: 3 } })
  ring.add([segment], [])
  assert.equal(ring.add([{ address: DATA, length: 16 }], [{ address: DATA + 16, length: 512 }, { address: DATA + 528, length: 1 }]), 1)
  assert.equal(ring.freeDescriptors, 1)
  const table = TABLES + 3 * 16
  assert.deepEqual(raw.getDescriptor(1), { address: BigInt(table), length: 48, id: 1, flags: AVAIL | 4 })
  const read = (index: number): number[] => [
    Number(memory.getUint64(table + index * 16)), memory.getUint32(table + index * 16 + 8),
    memory.getUint16(table + index * 16 + 12), memory.getUint16(table + index * 16 + 14)]
  assert.deepEqual([read(0), read(1), read(2)], [[DATA, 16, 0, 0], [DATA + 16, 512, 0, 2], [DATA + 528, 1, 0, 2]])
  assert.equal(ring.add([], segments(4).slice(0, 3)), 2)
  assert.equal(ring.add([], segments(1)), RING_FULL)
})

test('at the end of the ring the wrap counter turns, within a chain too', () => {
  const { ring, raw } = setUp(3)
  const flags = () => [0, 1, 2].map((position) => raw.getDescriptor(position).flags)
  ring.add(segments(2), [])
  ring.publish()
  raw.use(0x8000, { id: 0, length: 7 })
  assert.equal(ring.pollUsed(), 0)
  assert.equal(ring.usedLength, 7)
  assert.equal(ring.usedIndex, 0x8002)
  ring.add(segments(1), segments(1))
  ring.publish()
  assert.deepEqual(flags(), [USED | 2, AVAIL, AVAIL | 1], 'the second descriptor is the next lap\'s')
  assert.equal(ring.pollUsed(), NOTHING_USED)
  raw.use(0x8002, { id: 0, length: 1 })
  assert.equal(ring.pollUsed(), 0)
  assert.equal(ring.usedIndex, 1, 'past position 2 and 0: wrap counter 0')
  ring.add(segments(3), [])
  ring.publish()
  assert.deepEqual(flags(), [AVAIL, USED | 1, USED | 1])
})

for (const size of [1, 2, 3, 4, 5]) {
  test(`a ring of ${size} begins anywhere, in either lap, with nothing available and nothing used`, () => {
    for (let position = 0; position < size; position++) {
      for (const wrap of [0, 1]) {
        const index = indexOf(position, wrap)
        const { ring, raw } = setUp(size, { index })
        assert.equal(ring.usedIndex, index)
        for (let at = index, lap = 0; lap < size; lap++, at = raw.after(at)) assert.ok(!raw.isAvailable(at) && !raw.isUsed(at), `${at} from ${index}`)
        const device = new PlainPackedDevice(raw, { index })
        for (let count = 0; count < 3 * size; count++) {
          assert.equal(ring.pollUsed(), NOTHING_USED)
          assert.equal(device.take(), undefined)
          ring.add([segment], [])
          assert.equal(device.take(), undefined)
          ring.publish()
          device.give([device.take()!], 5)
          assert.ok(ring.pollUsed() >= 0)
          assert.equal(ring.usedLength, 5)
        }
      }
    }
    for (const index of [size, size | 0x8000, 0x10000, -1]) assert.throws(() => setUp(size, { index }), RangeError)
  })
}

test('a full ring says so, and takes chains again once used ones were polled, in any order', () => {
  const { ring, raw } = setUp(5)
  const add = (count: number, token: number): number => ring.add(segments(count), [], token)
  assert.deepEqual([add(2, 7000), add(2, 7001), add(2, 7002)], [0, 1, RING_FULL])
  assert.equal(ring.inFlight, 2)
  ring.publish()
  assert.equal(ring.pollUsed(), NOTHING_USED)
  // The second one is done first: it stands in the first one's place, and passes as many as it has itself.
  raw.use(0x8000, { id: 1, length: 1 })
  assert.equal(ring.pollUsed(), 1)
  assert.deepEqual([ring.usedLength, ring.usedToken, ring.nextHead, ring.freeDescriptors], [1, 7001, 1, 3])
  assert.deepEqual([add(3, 7003), add(1, 7004)], [1, RING_FULL])
  ring.publish()
  raw.use(0x8002, { id: 1, length: 3 })
  raw.use(0x0000, { id: 0, length: 4 })
  assert.equal(ring.pollUsed(), 1)
  assert.equal(ring.pollUsed(), 0)
  assert.deepEqual([ring.usedToken, ring.inFlight, ring.freeDescriptors], [7000, 0, 5])
})

test('chains that no ring could hold are refused, and leave it as it was', () => {
  const { ring } = setUp(3)
  assert.throws(() => ring.add([], []), /1 to 3 segments: not 0/)
  assert.throws(() => ring.add(segments(4), []), /1 to 3 segments: not 4/)
  assert.throws(() => ring.addChain(2, 2), RangeError)
  assert.equal(ring.freeDescriptors, 3)
})

test('a ring outside memory, or not aligned, is refused', () => {
  const { memory, layout } = setUp(4)
  assert.throws(() => new PackedDriverRing(memory, layOutPackedRing(0x200000, 4)), { code: 'ERR_ACCESS' })
  for (const wrong of [{ descriptorAddress: RING + 8 }, { availableAddress: layout.availableAddress + 2 }, { usedAddress: layout.usedAddress + 2 }]) {
    assert.throws(() => new PackedDriverRing(memory, { ...layout, ...wrong }), RangeError)
  }
  assert.throws(() => new PackedDriverRing(memory, layout, { indirect: { address: 0x10ff00, segments: 64 } }), { code: 'ERR_ACCESS' })
})

for (const [name, corrupt] of Object.entries<(raw: RawPackedRing) => void>({
  'an id that there is not': (raw) => raw.use(0x8000, { id: 4, length: 0 }),
  'an id that is free': (raw) => raw.use(0x8000, { id: 3, length: 0 }),
  'the largest id': (raw) => raw.use(0x8000, { id: 0xffff, length: 0 }),
  'one id twice': (raw) => { raw.use(0x8000, { id: 0, length: 0 }); raw.use(0x8001, { id: 0, length: 0 }) }
})) {
  test(`a device that uses ${name} breaks the ring, for good`, () => {
    const { ring, raw } = setUp(4)
    ring.add(segments(1), [])
    ring.add(segments(2), [])
    ring.publish()
    corrupt(raw)
    let polled = ring.pollUsed()
    if (name === 'one id twice') {
      assert.equal(polled, 0)
      polled = ring.pollUsed()
    }
    assert.equal(polled, USED_RING_BROKEN)
    assert.ok(ring.broken)
    raw.use(0x8000, { id: 1, length: 0 })
    assert.equal(ring.pollUsed(), USED_RING_BROKEN)
    assert.equal(ring.enableInterrupts(), 'empty', 'a loop that polls until empty must end')
  })
}

test('a device that uses what was never available breaks the ring', () => {
  const { ring, raw } = setUp(4)
  raw.use(0x8000, { id: 0, length: 0 })
  assert.equal(ring.pollUsed(), USED_RING_BROKEN)
})

test('a device that scribbles over the ring does not lead the driver astray', () => {
  const { memory, layout, ring, raw } = setUp(4)
  ring.add(segments(2), [], 7)
  ring.publish()
  memory.write(layout.descriptorAddress, new Uint8Array(64).fill(0x7f))
  assert.equal(ring.pollUsed(), NOTHING_USED)
  raw.use(0x8000, { id: 0, length: 0 })
  assert.equal(ring.pollUsed(), 0)
  assert.deepEqual([ring.usedToken, ring.freeDescriptors, ring.usedIndex], [7, 4, 0x8002])
  assert.equal(ring.add(segments(4), []), 0)
})

test('without event indices, kicks and interrupts are flags', () => {
  const { ring, raw } = setUp(4)
  assert.equal(ring.needsKick(), false, 'nothing was published')
  const kicksFor = (flags: number): boolean => {
    raw.deviceEvent({ index: 0, flags })
    ring.add([segment], [])
    assert.equal(ring.needsKick(), false, 'not published')
    ring.publish()
    return ring.needsKick()
  }
  assert.equal(kicksFor(0), true)
  assert.equal(ring.needsKick(), false, 'asked already')
  assert.equal(kicksFor(1), false)
  assert.equal(kicksFor(2), true, 'what means nothing without event indices is no reason to be silent')

  assert.deepEqual(raw.getDriverEvent(), { index: 0, flags: 0 }, 'interrupts are wanted at first')
  ring.disableInterrupts()
  assert.equal(raw.getDriverEvent().flags, 1)
  assert.equal(ring.enableInterrupts(), 'empty')
  assert.equal(raw.getDriverEvent().flags, 0)
  raw.use(0x8000, { id: 0, length: 0 })
  assert.equal(ring.enableInterrupts(), 'more')
})

test('with event indices, a kick is due when the batch passes the place that the device waits at', () => {
  let kicks = 0
  for (let size = 1; size <= 5; size++) {
    for (let start = 0; start < 2 * size; start++) {
      const index = start % size | (start < size ? 0x8000 : 0)
      for (let batch = 1; batch <= size; batch++) {
        // A device waits at the place that it will look at next: between the start of what is in flight and its end.
        for (let ahead = 0; ahead <= batch; ahead++) {
          const { ring, raw } = setUp(size, { eventIdx: true, index })
          raw.deviceEvent({ index: raw.after(index, ahead), flags: 2 })
          for (let count = 0; count < batch; count++) ring.add([segment], [])
          ring.publish()
          const due = ahead < batch
          assert.equal(ring.needsKick(), due, `size ${size}, from ${index}, ${batch} added, the device waits ${ahead} ahead`)
          if (due) kicks++
        }
      }
    }
  }
  assert.ok(kicks > 100)
})

test('one question about kicks speaks of all batches since the last one', () => {
  const { ring, raw } = setUp(4, { eventIdx: true })
  raw.deviceEvent({ index: 0x8000, flags: 2 })
  for (let count = 0; count < 3; count++) {
    ring.add([segment], [])
    ring.publish()
  }
  assert.equal(ring.needsKick(), true)
})

test('with event indices, kicks are asked for and refused by the flags as well', () => {
  const { ring, raw } = setUp(4, { eventIdx: true })
  for (const [flags, due] of [[0, true], [1, false]] as const) {
    raw.deviceEvent({ index: 0x8003, flags })
    ring.add([segment], [])
    ring.publish()
    assert.equal(ring.needsKick(), due)
  }
})

test('with event indices, interrupts are asked for at the next used place, or not at all', () => {
  const { ring, raw } = setUp(3, { eventIdx: true, index: 2 })
  assert.deepEqual(raw.getDriverEvent(), { index: 2, flags: 2 }, 'interrupts are wanted at first')
  ring.disableInterrupts()
  assert.equal(raw.getDriverEvent().flags, 1)
  ring.add([segment], [])
  ring.publish()
  raw.use(2, { id: 0, length: 0 })
  assert.equal(ring.enableInterrupts(), 'more')
  assert.equal(ring.pollUsed(), 0)
  assert.equal(ring.enableInterrupts(), 'empty')
  assert.deepEqual(raw.getDriverEvent(), { index: 0x8000, flags: 2 })
})

for (const eventIdx of [false, true]) {
  for (const indirect of [false, true]) {
    for (const [name, makeDevice] of Object.entries({
      'a plain device': (_memory: GuestMemory, raw: RawPackedRing, index: number) => new PlainPackedDevice(raw, { eventIdx, index }),
      PackedVring: (memory: GuestMemory, { layout }: RawPackedRing, index: number) => {
        const features = (eventIdx ? 1n << BigInt(VIRTIO_F_EVENT_IDX) : 0n) | (indirect ? 1n << BigInt(VIRTIO_F_INDIRECT_DESC) : 0n)
        return new VringDevice(new PackedVring(memory, { ...layout, features, availableIndex: index }), new DescriptorChain(memory))
      }
    })) {
      test(`driver and ${name} agree over random traffic${eventIdx ? ', event indices' : ''}${indirect ? ', indirect' : ''}`, () => {
        for (const size of [1, 2, 3, 4, 5, 8, 100]) {
          for (const index of [0x8000, size - 1]) {
            const { memory, ring, raw } = setUp(size, { eventIdx, index, ...(indirect && { indirect: { address: TABLES, segments: 4 } }) })
            const finished = traffic(ring, makeDevice(memory, raw, index), {
              data: DATA, segmentsMax: indirect ? 4 : Math.min(size, 4), inOrder: false, rounds: 1000
            })
            assert.ok(finished > 400, `only ${finished} with ${size} descriptors`)
          }
        }
      })
    }
  }
}

test('a steady stream of chains allocates nothing', () => {
  const { ring, memory, layout } = setUp(100, { eventIdx: true })
  const device = new PackedVring(memory, { ...layout, features: 1n << BigInt(VIRTIO_F_EVENT_IDX) })
  const chain = new DescriptorChain(memory)
  const stream = (batches: number): void => {
    for (let batch = 0; batch < batches; batch++) {
      for (let token = 0; token < 32; token++) {
        for (let segment = 0; segment < 3; segment++) {
          ring.segmentAddress[segment] = DATA + token * 1024
          ring.segmentLength[segment] = 512
        }
        ring.addChain(1, 2, token)
      }
      ring.publish()
      if (!ring.needsKick()) throw new Error('the device sleeps')
      while (device.pop(chain) === 'chain') device.push(chain.head, 1024)
      device.publish()
      if (device.enableNotification() !== 'empty' || !device.shouldNotify()) throw new Error('the driver sleeps')
      while (ring.pollUsed() !== NOTHING_USED);
      ring.enableInterrupts()
    }
  }
  const grown = heapGrowth(() => stream(2000), 2000 * 32)
  assert.ok(grown <= 2000 * 32, `${grown} bytes for 64,000 chains`)
})

test.run()
