import assert from 'node:assert/strict'
import { close } from '@node-vmm/libc'
import { GuestMemory } from '@node-vmm/hostmem'
import { test } from 'uvu'
import { DescriptorChain, SplitVring, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from '../src/index.ts'
import {
  DriverRing, type DriverRingOptions, indirectTableBytes, layOutRing, NOTHING_USED, RawRing, RING_FULL, ringBytes, USED_RING_BROKEN
} from '../src/driver/index.ts'
import { heapGrowth } from '../../../test/support/heap-growth.ts'

const RING = 0x10000
const TABLES = 0x40000
const DATA = 0x80000

function setUp (size: number, options: DriverRingOptions = {}) {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: RING, size: 0x100000 }])
  close(fd)
  const layout = layOutRing(RING, size)
  return { memory, layout, ring: new DriverRing(memory, layout, options), raw: new RawRing(memory, layout) }
}

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values)

test('a ring is laid out with the alignments and sizes of the specification', () => {
  for (const size of [1, 2, 4, 128, 256, 32768]) {
    const { descriptorAddress, availableAddress, usedAddress } = layOutRing(0x1000, size)
    assert.equal(descriptorAddress % 16, 0)
    assert.equal(availableAddress % 2, 0)
    assert.equal(usedAddress % 64, 0)
    assert.ok(availableAddress >= descriptorAddress + 16 * size)
    assert.ok(usedAddress >= availableAddress + 6 + 2 * size)
    assert.ok(0x1000 + ringBytes(size) >= usedAddress + 6 + 8 * size)
  }
  for (const size of [0, 0.5, 3, 65536, -4, NaN]) assert.throws(() => layOutRing(0, size), RangeError)
  for (const address of [8, -64, 0.5]) assert.throws(() => layOutRing(address, 4), RangeError)
})

test('a direct chain stands in memory byte by byte as the specification says', () => {
  const { memory, layout, ring } = setUp(4)
  const head = ring.add([{ address: 0x1122334455667, length: 16 }], [{ address: 0x80, length: 0x200 }, { address: 0x90, length: 1 }])
  assert.equal(head, 0)
  assert.equal(ring.freeDescriptors, 1)
  assert.deepEqual(memory.read(layout.descriptorAddress, 48), bytes(
    0x67, 0x56, 0x45, 0x34, 0x23, 0x12, 0x01, 0, 16, 0, 0, 0, 1, 0, 1, 0,
    0x80, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 3, 0, 2, 0,
    0x90, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 3, 0))
  assert.deepEqual(memory.read(layout.availableAddress, 8), bytes(0, 0, 0, 0, 0, 0, 0, 0), 'not published yet')
  ring.publish()
  assert.deepEqual(memory.read(layout.availableAddress, 8), bytes(0, 0, 1, 0, 0, 0, 0, 0))
})

test('an indirect chain takes one descriptor and its own table', () => {
  const { memory, layout, ring } = setUp(4, { indirect: { address: TABLES, segments: 3 } })
  ring.add([{ address: DATA, length: 1 }], [])
  assert.equal(ring.add([{ address: DATA, length: 16 }], [{ address: DATA + 16, length: 512 }, { address: DATA + 528, length: 1 }]), 1)
  assert.equal(ring.freeDescriptors, 2)
  const table = TABLES + 3 * 16
  assert.equal(memory.getUint64(layout.descriptorAddress + 16), BigInt(table))
  assert.equal(memory.getUint32(layout.descriptorAddress + 24), 48)
  assert.equal(memory.getUint16(layout.descriptorAddress + 28), 4, 'INDIRECT alone')
  const read = (index: number): number[] => [
    Number(memory.getUint64(table + index * 16)), memory.getUint32(table + index * 16 + 8),
    memory.getUint16(table + index * 16 + 12), memory.getUint16(table + index * 16 + 14)]
  assert.deepEqual(read(0), [DATA, 16, 1, 1])
  assert.deepEqual(read(1), [DATA + 16, 512, 3, 2])
  assert.deepEqual(read(2).slice(0, 3), [DATA + 528, 1, 2])
  assert.equal(ring.add([], Array.from({ length: 4 }, () => ({ address: DATA, length: 1 }))), RING_FULL, 'longer than a table: direct')
})

test('a full ring says so, and takes chains again once used ones were polled', () => {
  const { ring, raw } = setUp(4)
  const pair = (): number => ring.add([{ address: DATA, length: 16 }], [{ address: DATA + 16, length: 1 }], 7000)
  assert.deepEqual([pair(), pair(), pair()], [0, 2, RING_FULL])
  assert.equal(ring.inFlight, 2)
  ring.publish()
  assert.equal(ring.pollUsed(), NOTHING_USED)
  raw.usedElement(0, { id: 2, length: 1 })
  raw.usedIndex(1)
  assert.equal(ring.pollUsed(), 2)
  assert.equal(ring.usedLength, 1)
  assert.equal(ring.usedToken, 7000)
  assert.equal(ring.pollUsed(), NOTHING_USED)
  assert.equal(ring.nextHead, 2)
  assert.equal(pair(), 2)
  assert.equal(pair(), RING_FULL)
})

test('chains that no ring could hold are refused, and leave it as it was', () => {
  const { ring } = setUp(4)
  assert.throws(() => ring.add([], []), /1 to 4 segments: not 0/)
  assert.throws(() => ring.add(Array.from({ length: 5 }, () => ({ address: DATA, length: 1 })), []), /1 to 4 segments: not 5/)
  assert.throws(() => ring.addChain(3, 2), RangeError)
  assert.equal(ring.freeDescriptors, 4)
})

test('a ring outside memory, or not aligned, is refused', () => {
  const { memory, layout } = setUp(4)
  assert.throws(() => new DriverRing(memory, layOutRing(0x200000, 4)), { code: 'ERR_ACCESS' })
  assert.throws(() => new DriverRing(memory, { ...layout, availableAddress: layout.availableAddress + 1 }), RangeError)
  assert.throws(() => new DriverRing(memory, layout, { indirect: { address: 0x10ff00, segments: 64 } }), { code: 'ERR_ACCESS' })
})

for (const [name, corrupt] of Object.entries<(raw: RawRing) => void>({
  'a head that is no descriptor': (raw) => { raw.usedElement(0, { id: 4, length: 0 }); raw.usedIndex(1) },
  'a head that is free': (raw) => { raw.usedElement(0, { id: 3, length: 0 }); raw.usedIndex(1) },
  'a descriptor that is no head': (raw) => { raw.usedElement(0, { id: 2, length: 0 }); raw.usedIndex(1) },
  'a head beyond 16 bits': (raw) => { raw.usedElement(0, { id: 0x10000, length: 0 }); raw.usedIndex(1) },
  'one head twice': (raw) => { raw.usedElement(0, { id: 0, length: 0 }); raw.usedElement(1, { id: 0, length: 0 }); raw.usedIndex(2) },
  'more used than in flight': (raw) => raw.usedIndex(3),
  'an index that goes back': (raw) => raw.usedIndex(65535)
})) {
  test(`a device that writes ${name} to the used ring breaks it, for good`, () => {
    const { ring, raw } = setUp(4)
    ring.add([{ address: DATA, length: 1 }], [])
    ring.add([{ address: DATA, length: 1 }, { address: DATA, length: 1 }], [])
    ring.publish()
    corrupt(raw)
    let polled = ring.pollUsed()
    if (name === 'one head twice') {
      assert.equal(polled, 0)
      polled = ring.pollUsed()
    }
    assert.equal(polled, USED_RING_BROKEN)
    assert.ok(ring.broken)
    raw.usedIndex(0)
    assert.equal(ring.pollUsed(), USED_RING_BROKEN)
    assert.equal(ring.enableInterrupts(), 'empty', 'a loop that polls until empty must end')
  })
}

test('a device that scribbles over the descriptor table does not lead the driver astray', () => {
  const { memory, layout, ring, raw } = setUp(4)
  ring.add([{ address: DATA, length: 1 }, { address: DATA, length: 1 }], [])
  ring.publish()
  memory.write(layout.descriptorAddress, new Uint8Array(64).fill(0xff))
  raw.usedElement(0, { id: 0, length: 0 })
  raw.usedIndex(1)
  assert.equal(ring.pollUsed(), 0)
  assert.equal(ring.freeDescriptors, 4)
  assert.equal(ring.add(Array.from({ length: 4 }, () => ({ address: DATA, length: 1 })), []), 0)
})

test('without event indices, kicks and interrupts are flags', () => {
  const { ring, raw, memory, layout } = setUp(4)
  assert.equal(ring.needsKick(), false, 'nothing was published')
  ring.add([{ address: DATA, length: 1 }], [])
  ring.publish()
  assert.equal(ring.needsKick(), true)
  assert.equal(ring.needsKick(), false, 'asked already')
  raw.usedFlags(1)
  ring.add([{ address: DATA, length: 1 }], [])
  ring.publish()
  assert.equal(ring.needsKick(), false)

  ring.disableInterrupts()
  assert.equal(memory.getUint16(layout.availableAddress), 1)
  assert.equal(ring.enableInterrupts(), 'empty')
  assert.equal(memory.getUint16(layout.availableAddress), 0)
  raw.usedElement(0, { id: 0, length: 0 })
  raw.usedIndex(1)
  assert.equal(ring.enableInterrupts(), 'more')
})

test('with event indices, a kick is due when the published index passes avail_event, across the wrap too', () => {
  for (const index of [0, 100, 65533, 65534, 65535]) {
    for (const batch of [1, 2, 3, 4]) {
      for (let ahead = -2; ahead <= 5; ahead++) {
        const { ring, raw } = setUp(4, { eventIdx: true, index })
        raw.availableEvent(index + ahead + 0x10000)
        for (let count = 0; count < batch; count++) ring.add([{ address: DATA, length: 1 }], [])
        ring.publish()
        assert.equal(raw.getAvailableIndex(), (index + batch) & 0xffff)
        assert.equal(ring.needsKick(), ahead >= 0 && ahead < batch, `index ${index}, batch ${batch}, event ${ahead} ahead`)
      }
    }
  }
})

test('with event indices, used_event asks for the next interrupt, or for one far away', () => {
  const { ring, memory, layout } = setUp(4, { eventIdx: true, index: 65535 })
  const usedEvent = layout.availableAddress + 4 + 4 * 2
  assert.equal(memory.getUint16(usedEvent), 65535, 'interrupts are wanted at first')
  ring.disableInterrupts()
  assert.equal(memory.getUint16(usedEvent), 0x7fff)
  assert.equal(ring.enableInterrupts(), 'empty')
  assert.equal(memory.getUint16(usedEvent), 65535)
  assert.equal(memory.getUint16(layout.availableAddress), 0, 'the flags stay 0')
})

for (const eventIdx of [false, true]) {
  for (const indirect of [false, true]) {
    test(`driver and device agree over random traffic${eventIdx ? ', event indices' : ''}${indirect ? ', indirect' : ''}`, () => {
      const size = 8
      const seed = Number(process.env.SEED ?? 20261)
      const random = generator(seed)
      const options = { eventIdx, index: 65500, ...(indirect && { indirect: { address: TABLES, segments: 4 } }) }
      const { memory, layout, ring } = setUp(size, options)
      assert.ok(TABLES + indirectTableBytes(size, 4) <= DATA)
      const features = (eventIdx ? 1n << BigInt(VIRTIO_F_EVENT_IDX) : 0n) | (indirect ? 1n << BigInt(VIRTIO_F_INDIRECT_DESC) : 0n)
      const device = new SplitVring(memory, { ...layout, features, availableIndex: 65500 })
      const chain = new DescriptorChain(memory)
      const expected = new Map<number, { token: number, readable: number[], writable: number[] }>()
      const popped: number[] = []
      let token = 0
      let finished = 0
      // What kicks and interrupts would do is played exactly: a lost one shows as a stall.
      let deviceAwake = false
      let driverAwake = true
      const serve = (): void => {
        do {
          while (device.pop(chain) === 'chain') {
            const wanted = expected.get(chain.head)!
            const lengths = Array.from(chain.length.subarray(0, chain.readableCount + chain.writableCount))
            assert.deepEqual(lengths, [...wanted.readable, ...wanted.writable], `seed ${seed}`)
            assert.equal(chain.readableCount, wanted.readable.length)
            popped.push(chain.head)
          }
        } while (device.enableNotification() === 'more')
        deviceAwake = false
      }
      const collect = (): void => {
        do {
          for (let head = ring.pollUsed(); head !== NOTHING_USED; head = ring.pollUsed()) {
            assert.equal(ring.usedToken, expected.get(head)!.token, `seed ${seed}`)
            assert.equal(ring.usedLength, head + 1)
            expected.delete(head)
            finished++
          }
        } while (ring.enableInterrupts() === 'more')
        driverAwake = false
      }
      for (let round = 0; round < 4000; round++) {
        for (let batch = random(4); batch > 0; batch--) {
          const lengths = Array.from({ length: 1 + random(4) }, () => 1 + random(100))
          const readable = random(lengths.length + 1)
          const chainOf = { token: ++token, readable: lengths.slice(0, readable), writable: lengths.slice(readable) }
          const segments = (all: number[]) => all.map((length) => ({ address: DATA + random(1000), length }))
          const head = ring.add(segments(chainOf.readable), segments(chainOf.writable), token)
          if (head === RING_FULL) break
          expected.set(head, chainOf)
        }
        ring.publish()
        if (ring.needsKick()) deviceAwake = true
        if (deviceAwake) serve()
        for (let some = random(5); some > 0 && popped.length > 0; some--) {
          const [head] = popped.splice(random(popped.length), 1)
          device.push(head!, head! + 1)
        }
        device.publish()
        if (device.shouldNotify()) driverAwake = true
        if (driverAwake) collect()
      }
      for (const head of popped.splice(0)) device.push(head, head + 1)
      device.publish()
      if (device.shouldNotify()) collect()
      assert.equal(device.fault, undefined)
      assert.equal(expected.size, 0, `seed ${seed}: ${expected.size} chains were lost`)
      assert.equal(ring.freeDescriptors, size)
      assert.ok(finished > 3000, `only ${finished}`)
    })
  }
}

test('a steady stream of chains allocates nothing', () => {
  const { ring, memory, layout } = setUp(128, { eventIdx: true, indirect: { address: TABLES, segments: 4 } })
  const device = new SplitVring(memory, { ...layout, features: 1n << BigInt(VIRTIO_F_EVENT_IDX) | 1n << BigInt(VIRTIO_F_INDIRECT_DESC) })
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

/** A small reproducible generator: `next(n)` is 0 to n - 1. */
function generator (seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor(state / 0x100000000 * below)
  }
}

test.run()
