import { GuestMemory } from '@node-vmm/hostmem'
import { close, ftruncate, memfdCreate } from '@node-vmm/libc'
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { layOutRing, RawRing } from '../src/driver/index.ts'
import {
  DescriptorChain, SplitVring, type VringInit, VIRTIO_F_EVENT_IDX, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_WRITE, VIRTQ_USED_F_NO_NOTIFY
} from '../src/index.ts'
import { BORDER, DATA, type Fixture, HIGH, READ_ONLY, segmentsOf, setUp, snapshot } from './support/fixture.ts'

const STARTS = [0, 1, 0x7fff, 0x8000, 0xffff]

/** Makes a chain of one readable segment available, with this descriptor as its head. */
function offer ({ raw }: Fixture, head = 0): void {
  raw.chain([{ address: DATA + head, length: 1 }], head)
  raw.available(head)
}

function popHead ({ ring, chain }: Fixture): number | string {
  const result = ring.pop(chain)
  return result === 'chain' ? chain.head : result
}

/** Serves this many chains, one at a time; asks for nothing. */
function serve (fixture: Fixture, chains: number): void {
  for (let served = 0; served < chains; served++) {
    offer(fixture)
    assert.equal(popHead(fixture), 0)
    fixture.ring.push(0, served)
    fixture.ring.publish()
  }
}

// Set-up

for (const [name, change, code] of [
  ['of no entries', { size: 0 }, 'ERR_RING_SIZE'],
  ['of 3 entries', { size: 3 }, 'ERR_RING_SIZE'],
  ['of 65536 entries', { size: 65536 }, 'ERR_RING_SIZE'],
  ['of a fraction of an entry', { size: 0.5 }, 'ERR_RING_SIZE'],
  ['with a descriptor table at a multiple of 8', { descriptorAddress: DATA + 8 }, 'ERR_RING_ALIGNMENT'],
  ['with an available ring at an odd address', { availableAddress: DATA + 1 }, 'ERR_RING_ALIGNMENT'],
  ['with a used ring at a multiple of 2', { usedAddress: DATA + 2 }, 'ERR_RING_ALIGNMENT'],
  ['with a descriptor table outside memory', { descriptorAddress: 0x20000 }, 'ERR_RING_MEMORY'],
  ['with an available ring whose event word is outside memory', { availableAddress: 0x10000 - 12 }, 'ERR_RING_MEMORY'],
  ['with a used ring that straddles two regions', { usedAddress: BORDER - 8 }, 'ERR_RING_MEMORY'],
  ['with a used ring in read-only memory', { usedAddress: READ_ONLY }, 'ERR_RING_MEMORY'],
  ['with a used ring at the end of the address space', { usedAddress: Number.MAX_SAFE_INTEGER - 3 }, 'ERR_RING_MEMORY'],
  ['with an available ring in its descriptor table', { availableAddress: 62 }, 'ERR_RING_OVERLAP'],
  ['with a used ring over the available ring\'s event word', { availableAddress: DATA, usedAddress: DATA + 12 }, 'ERR_RING_OVERLAP'],
  ['that begins at index 65536', { availableIndex: 65536 }, 'ERR_RING_INDEX'],
  ['that begins at index -1', { usedIndex: -1 }, 'ERR_RING_INDEX'],
  ['that begins at index 0.5', { availableIndex: 0.5 }, 'ERR_RING_INDEX']
] as [string, Partial<VringInit>, string][]) {
  test(`a ring ${name} is refused at set-up`, () => {
    const { memory, raw } = setUp()
    const before = snapshot(memory)
    assert.throws(() => new SplitVring(memory, { ...raw.layout, features: 1n << BigInt(VIRTIO_F_EVENT_IDX), ...change }), { name: 'VringError', code })
    assert.ok(snapshot(memory).equals(before))
  })
}

test('a ring that a file offset misaligns in this process is refused', () => {
  const fd = memfdCreate('odd')
  ftruncate(fd, 0x3000)
  const memory = GuestMemory.map([{ guestAddress: 0, size: 0x2000, fd, offset: 1 }])
  close(fd)
  assert.throws(() => new SplitVring(memory, layOutRing(0, 4)), { code: 'ERR_RING_ALIGNMENT' })
  memory.release()
})

test('the parts may touch each other and end with their region; what only the driver writes may be read-only', () => {
  const { memory } = setUp()
  const ring = new SplitVring(memory, { size: 4, descriptorAddress: READ_ONLY, availableAddress: READ_ONLY + 64, usedAddress: 0x10000 - 36 })
  assert.equal(ring.pop(new DescriptorChain(memory)), 'empty')
})

test('the smallest and the largest ring work', () => {
  for (const size of [1, 32768]) {
    const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x100000 }])
    close(fd)
    const raw = new RawRing(memory, layOutRing(0, size))
    const ring = new SplitVring(memory, raw.layout)
    const chain = new DescriptorChain(memory)
    for (let head = size - 1, turn = 0; turn < 3; turn++) {
      raw.chain([{ address: 0xff000, length: 4 }], head)
      raw.available(head)
      assert.equal(ring.pop(chain), 'chain', ring.fault?.message)
      ring.push(chain.head, turn)
      ring.publish()
    }
    assert.equal(raw.getUsedIndex(), 3)
    assert.deepEqual(raw.used(2), [{ id: size - 1, length: 2 }])
    memory.release()
  }
})

for (const start of STARTS) {
  test(`a ring goes on from index ${start}`, () => {
    const fixture = setUp({ availableIndex: start, usedIndex: start, eventIdx: true })
    const { raw, ring } = fixture
    raw.usedIndex(start)
    assert.deepEqual(ring.save(), { availableIndex: start, usedIndex: start })
    assert.equal(popHead(fixture), 'empty')
    for (let served = 0; served < 6; served++) {
      offer(fixture, served % 4)
      assert.equal(popHead(fixture), served % 4)
      ring.push(served % 4, served)
    }
    ring.publish()
    assert.equal(raw.getUsedIndex(), (start + 6) & 0xffff)
    assert.deepEqual(raw.used(start + 2, start + 6).map(({ length }) => length), [2, 3, 4, 5])
    assert.equal(ring.enableNotification(), 'empty')
    assert.equal(raw.getAvailableEvent(), (start + 6) & 0xffff)
  })
}

test('the used index to begin with is the one in memory, unless another is given', () => {
  const { memory, raw } = setUp()
  raw.usedIndex(77)
  assert.deepEqual(new SplitVring(memory, { ...raw.layout, availableIndex: 80 }).save(), { availableIndex: 80, usedIndex: 77 })
  assert.deepEqual(new SplitVring(memory, { ...raw.layout, usedIndex: 3 }).save(), { availableIndex: 0, usedIndex: 3 })
})

// Pop, push, publish

test('chains come in the order in which they were made available', () => {
  const fixture = setUp()
  assert.equal(popHead(fixture), 'empty')
  for (const head of [2, 0, 3]) offer(fixture, head)
  assert.deepEqual([popHead(fixture), popHead(fixture)], [2, 0])
  offer(fixture, 1)
  assert.deepEqual([popHead(fixture), popHead(fixture), popHead(fixture)], [3, 1, 'empty'])
  assert.equal(fixture.ring.inFlight, 4)
})

test('the index may run ahead by as many entries as the ring has', () => {
  const fixture = setUp()
  for (const head of [0, 1, 2, 3]) offer(fixture, head)
  assert.deepEqual([1, 2, 3, 4, 5].map(() => popHead(fixture)), [0, 1, 2, 3, 'empty'])
})

test('the driver sees what was pushed after publish, as one step of the index', () => {
  const fixture = setUp()
  const { raw, ring } = fixture
  for (const head of [0, 1, 2]) offer(fixture, head)
  for (let popped = 0; popped < 3; popped++) popHead(fixture)
  ring.push(1, 11)
  ring.push(2, 0xffffffff)
  assert.equal(raw.getUsedIndex(), 0)
  assert.equal(ring.inFlight, 1)
  ring.publish()
  assert.deepEqual(raw.used(), [{ id: 1, length: 11 }, { id: 2, length: 0xffffffff }])
  ring.push(0, 0)
  ring.publish()
  assert.deepEqual(raw.used(2), [{ id: 0, length: 0 }])
})

test('only a head in flight can be pushed, once', () => {
  const fixture = setUp()
  const { raw, ring } = fixture
  for (const head of [0, 3, 4, -1, 0.5, NaN]) assert.throws(() => ring.push(head, 0), { name: 'VringError', code: 'ERR_NOT_IN_FLIGHT' })
  offer(fixture)
  popHead(fixture)
  ring.push(0, 0)
  assert.throws(() => ring.push(0, 0), { code: 'ERR_NOT_IN_FLIGHT' })
  ring.publish()
  assert.equal(ring.inFlight, 0)
  assert.equal(raw.getUsedIndex(), 1)
})

test('a head may come again as soon as it was pushed', () => {
  const fixture = setUp({ size: 1 })
  serve(fixture, 10)
  assert.equal(fixture.ring.fault, undefined)
})

for (const size of [1, 4, 256]) {
  test(`the indices of a ring of ${size} wrap from 65535 to 0`, () => {
    const fixture = setUp({ size, availableIndex: 65500, usedIndex: 65500 })
    serve(fixture, 65536 + 100)
    assert.equal(fixture.raw.getUsedIndex(), 64)
    assert.deepEqual(fixture.ring.save(), { availableIndex: 64, usedIndex: 64 })
    assert.deepEqual(fixture.raw.used(63, 64), [{ id: 0, length: 65536 + 99 }])
  })
}

test('what the driver writes over the used ring changes nothing', () => {
  const fixture = setUp()
  const { raw, ring } = fixture
  serve(fixture, 2)
  raw.usedIndex(9999)
  raw.usedFlags(0xffff)
  for (let slot = 0; slot < 4; slot++) raw.usedElement(slot, { id: 0xffffffff, length: 0xffffffff })
  offer(fixture, 3)
  assert.equal(popHead(fixture), 3)
  ring.push(3, 5)
  ring.publish()
  assert.equal(raw.getUsedIndex(), 3)
  assert.deepEqual(raw.used(2), [{ id: 3, length: 5 }])
})

test('what the driver changes in a chain after its pop changes nothing', () => {
  const fixture = setUp()
  offer(fixture)
  popHead(fixture)
  fixture.raw.descriptor(0, { address: HIGH, length: 999, flags: VIRTQ_DESC_F_WRITE })
  assert.deepEqual(segmentsOf(fixture.chain), { readable: [[DATA, 1]], writable: [] })
})

test('descriptors of no bytes add nothing, wherever they point', () => {
  const fixture = setUp()
  const { raw, ring, chain } = fixture
  raw.available(raw.chain([
    { address: 0xfffffffffffffff0n, length: 0 }, { address: DATA, length: 8 },
    { address: 0, length: 0, flags: VIRTQ_DESC_F_WRITE }, { address: DATA, length: 1, flags: VIRTQ_DESC_F_WRITE }
  ]))
  assert.equal(ring.pop(chain), 'chain')
  assert.deepEqual(segmentsOf(chain), { readable: [[DATA, 8]], writable: [[DATA, 1]] })
  ring.push(0, 0)
  raw.descriptor(1, {})
  raw.available(1)
  assert.equal(ring.pop(chain), 'chain')
  assert.deepEqual([chain.head, chain.readableBytes, chain.writableBytes], [1, 0, 0])
})

// Indirect tables

const REQUEST = [
  { address: HIGH + 0x1000, length: 16 },
  { address: DATA, length: 512, flags: VIRTQ_DESC_F_WRITE },
  { address: DATA + 512, length: 1, flags: VIRTQ_DESC_F_WRITE }
]
const REQUEST_SEGMENTS = { readable: [[HIGH + 0x1000, 16]], writable: [[DATA, 512], [DATA + 512, 1]] }

for (const [name, table] of Object.entries({
  'in the ring\'s region': DATA + 0x1000,
  'above 4 GiB': HIGH,
  'at a multiple of 4 only': HIGH + 0x14,
  'at an odd address': HIGH + 0x15,
  'that ends with its region': BORDER - 48,
  'that straddles two regions': BORDER - 24,
  'in read-only memory': READ_ONLY
})) {
  test(`a table ${name} stands for its chain`, () => {
    const { raw, ring, chain } = setUp()
    raw.chain(REQUEST, 0, table === BORDER - 24 ? DATA + 0x1000 : table)
    if (table === BORDER - 24) raw.memory.write(table, raw.memory.read(DATA + 0x1000, 48))
    raw.descriptor(2, { address: table, length: 48, flags: VIRTQ_DESC_F_INDIRECT })
    raw.available(2)
    assert.equal(ring.pop(chain), 'chain', ring.fault?.message)
    assert.equal(chain.head, 2)
    assert.deepEqual(segmentsOf(chain), REQUEST_SEGMENTS)
  })
}

test('a table across a window of a large region stands for its chain', () => {
  const window = 0x40000000
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: HIGH, size: window + 0x10000 }, { guestAddress: 0, size: 0x10000 }])
  close(fd)
  const raw = new RawRing(memory, layOutRing(0, 4))
  const ring = new SplitVring(memory, { ...raw.layout, features: 1n << 28n })
  const chain = new DescriptorChain(memory)
  raw.chain([{ address: HIGH + window + 5, length: 1 }, { address: HIGH + window - 5, length: 10 }], 0, HIGH + window - 16)
  raw.descriptor(0, { address: HIGH + window - 16, length: 32, flags: VIRTQ_DESC_F_INDIRECT })
  raw.available(0)
  assert.equal(ring.pop(chain), 'chain', ring.fault?.message)
  assert.deepEqual(segmentsOf(chain).readable, [[HIGH + window + 5, 1], [HIGH + window - 5, 10]])
  memory.release()
})

test('a table may follow direct descriptors, and its own WRITE flag means nothing', () => {
  const { raw, ring, chain } = setUp()
  raw.chain([REQUEST[0]!, { address: HIGH, length: 32, flags: VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE }])
  raw.chain(REQUEST.slice(1), 0, HIGH)
  raw.available(0)
  assert.equal(ring.pop(chain), 'chain', ring.fault?.message)
  assert.deepEqual(segmentsOf(chain), REQUEST_SEGMENTS)
})

test('a table may have its descriptors in any order, and more than the ring has entries', () => {
  const { raw, ring, chain } = setUp({ size: 1 })
  const count = 9
  for (let at = 0; at < count; at++) {
    const entry = (at * 4) % count
    raw.descriptor(entry, { address: DATA + at, length: 1, flags: at + 1 < count ? 1 : 0, next: (entry + 4) % count }, HIGH)
  }
  raw.descriptor(0, { address: HIGH, length: 16 * count, flags: VIRTQ_DESC_F_INDIRECT })
  raw.available(0)
  assert.equal(ring.pop(chain), 'chain', ring.fault?.message)
  assert.deepEqual(segmentsOf(chain).readable, Array.from({ length: count }, (_, at) => [DATA + at, 1]))
})

// Notifications of the device: kicks

test('whether more is available is seen at once', () => {
  const fixture = setUp()
  assert.equal(fixture.ring.moreAvailable(), false)
  offer(fixture, 0)
  offer(fixture, 1)
  assert.equal(fixture.ring.moreAvailable(), true)
  popHead(fixture)
  assert.equal(fixture.ring.moreAvailable(), true)
  popHead(fixture)
  assert.equal(fixture.ring.moreAvailable(), false)
  offer(fixture, 2)
  assert.equal(fixture.ring.moreAvailable(), true)
})

test('without event indices kicks are switched by a flag', () => {
  const fixture = setUp()
  const { raw, ring } = fixture
  ring.disableNotification()
  assert.equal(raw.getUsedFlags(), VIRTQ_USED_F_NO_NOTIFY)
  assert.equal(ring.enableNotification(), 'empty')
  assert.equal(raw.getUsedFlags(), 0)
  ring.disableNotification()
  offer(fixture)
  assert.equal(ring.enableNotification(), 'more')
  popHead(fixture)
  assert.equal(ring.enableNotification(), 'empty')
  assert.equal(raw.getAvailableEvent(), 0, 'without the feature there is no such word')
})

for (const start of STARTS) {
  test(`with event indices a kick is asked for at the next index, from ${start} on`, () => {
    const fixture = setUp({ eventIdx: true, availableIndex: start })
    const { raw, ring } = fixture
    for (let turn = 0; turn < 3; turn++) {
      assert.equal(ring.enableNotification(), 'empty')
      assert.equal(raw.getAvailableEvent(), (start + turn) & 0xffff)
      ring.disableNotification()
      assert.equal(raw.getAvailableEvent(), (start + turn - 1) & 0xffff, 'an event that was passed')
      assert.equal(raw.getUsedFlags(), 0)
      offer(fixture)
      assert.equal(ring.enableNotification(), 'more')
      popHead(fixture)
      ring.push(0, 0)
    }
  })
}

test('an index that came with an earlier look counts as more', () => {
  const fixture = setUp({ eventIdx: true })
  offer(fixture, 0)
  offer(fixture, 1)
  popHead(fixture)
  fixture.raw.availableIndex(1)
  assert.equal(fixture.ring.enableNotification(), 'more')
})

// Notifications of the driver: interrupts

test('without event indices interrupts are switched by a flag', () => {
  const fixture = setUp()
  const { raw, ring } = fixture
  serve(fixture, 1)
  assert.equal(ring.shouldNotify(), true)
  assert.equal(ring.shouldNotify(), false, 'nothing new')
  raw.availableFlags(VIRTQ_AVAIL_F_NO_INTERRUPT)
  serve(fixture, 1)
  assert.equal(ring.shouldNotify(), false)
  raw.availableFlags(0)
  assert.equal(ring.shouldNotify(), false, 'what it did not want before it is not told later')
  serve(fixture, 1)
  assert.equal(ring.shouldNotify(), true)
  raw.usedEvent(0x7777)
  serve(fixture, 1)
  assert.equal(ring.shouldNotify(), true, 'without the feature there is no such word')
})

test('nothing pushed is no reason to interrupt', () => {
  for (const eventIdx of [false, true]) assert.equal(setUp({ eventIdx, notifyOnEmpty: true }).ring.shouldNotify(), false)
})

for (const start of STARTS) {
  test(`with event indices the driver is interrupted when its event is passed, from ${start} on`, () => {
    const fixture = setUp({ eventIdx: true, availableIndex: start, usedIndex: start })
    const { raw, ring } = fixture
    raw.usedEvent(start - 5)
    serve(fixture, 1)
    assert.equal(ring.shouldNotify(), true, 'the first time always')
    raw.usedEvent(start + 3)
    raw.availableFlags(VIRTQ_AVAIL_F_NO_INTERRUPT)
    const decisions = []
    for (let served = 1; served < 6; served++) {
      serve(fixture, 1)
      decisions.push(ring.shouldNotify())
    }
    assert.deepEqual(decisions, [false, false, true, false, false])
    raw.usedEvent(start + 8)
    serve(fixture, 4)
    assert.equal(ring.shouldNotify(), true, 'passed within a batch')
    serve(fixture, 1)
    assert.equal(ring.shouldNotify(), false)
  })
}

test('a batch of 65536 or more passes every event', () => {
  for (const [batch, wanted] of [[65535, false], [65536, true], [65537, true]] as const) {
    const fixture = setUp({ eventIdx: true })
    serve(fixture, 1)
    fixture.ring.shouldNotify()
    // The one index that 65535 steps from 1 on do not pass.
    fixture.raw.usedEvent(0)
    serve(fixture, batch)
    assert.equal(fixture.ring.shouldNotify(), wanted, `${batch} chains`)
  }
})

for (const eventIdx of [false, true]) {
  test(`with NOTIFY_ON_EMPTY an empty ring interrupts whatever was suppressed${eventIdx ? ', with event indices too' : ''}`, () => {
    const fixture = setUp({ notifyOnEmpty: true, eventIdx })
    const { raw, ring } = fixture
    serve(fixture, 1)
    ring.shouldNotify()
    raw.availableFlags(VIRTQ_AVAIL_F_NO_INTERRUPT)
    raw.usedEvent(1000)
    serve(fixture, 1)
    assert.equal(ring.shouldNotify(), true)
    offer(fixture, 0)
    offer(fixture, 1)
    popHead(fixture)
    ring.push(0, 0)
    ring.publish()
    assert.equal(ring.shouldNotify(), false, 'one is available')
    offer(fixture, 2)
    popHead(fixture)
    popHead(fixture)
    ring.push(1, 0)
    ring.publish()
    assert.equal(ring.shouldNotify(), false, 'one is in flight')
    ring.push(2, 0)
    ring.publish()
    assert.equal(ring.shouldNotify(), true)
  })
}

test('the bits whose mask is the number 24 are not NOTIFY_ON_EMPTY', () => {
  // The data plane of 2012 tested the bit's number as a mask.
  const fixture = setUp({ features: 24n })
  fixture.raw.availableFlags(VIRTQ_AVAIL_F_NO_INTERRUPT)
  serve(fixture, 1)
  assert.equal(fixture.ring.shouldNotify(), false)
})

// Save, restore, reset

for (const start of STARTS) {
  test(`another ring goes on where one was saved, from ${start} on`, () => {
    const fixture = setUp({ eventIdx: true, availableIndex: start, usedIndex: start })
    serve(fixture, 3)
    offer(fixture, 2)
    const state = fixture.ring.save()
    assert.deepEqual(state, { availableIndex: (start + 3) & 0xffff, usedIndex: (start + 3) & 0xffff })
    const ring = new SplitVring(fixture.memory, { ...fixture.raw.layout, features: 1n << BigInt(VIRTIO_F_EVENT_IDX), ...state })
    const next = { ...fixture, ring }
    assert.equal(popHead(next), 2)
    ring.push(2, 9)
    ring.publish()
    assert.deepEqual(fixture.raw.used(start + 3), [{ id: 2, length: 9 }])
    fixture.raw.usedEvent(start + 100)
    assert.equal(ring.shouldNotify(), true, 'the first time always')
  })
}

test('a reset ring is a fresh one', () => {
  const fixture = setUp({ eventIdx: true })
  const { raw, ring } = fixture
  serve(fixture, 5)
  ring.shouldNotify()
  offer(fixture, 3)
  popHead(fixture)
  ring.break('for the test')
  ring.reset()
  assert.equal(ring.fault, undefined)
  assert.equal(ring.inFlight, 0)
  assert.deepEqual(ring.save(), { availableIndex: 0, usedIndex: 0 })
  assert.throws(() => ring.push(3, 0), { code: 'ERR_NOT_IN_FLIGHT' })
  raw.availableIndex(0)
  raw.usedIndex(0)
  raw.usedEvent(100)
  offer(fixture, 3)
  assert.equal(popHead(fixture), 3)
  ring.push(3, 1)
  ring.publish()
  assert.deepEqual(raw.used(), [{ id: 3, length: 1 }])
  assert.equal(ring.shouldNotify(), true, 'the first time always')
})

// Broken

test('a broken ring stays broken, pops and writes nothing, for its first reason', () => {
  for (const eventIdx of [false, true]) {
    const fixture = setUp({ eventIdx })
    const { raw, ring, memory } = fixture
    for (const head of [0, 1, 2]) offer(fixture, head)
    popHead(fixture)
    popHead(fixture)
    ring.push(0, 7)
    ring.break('no header', 1)
    const before = snapshot(memory)
    ring.break('later')
    assert.deepEqual(ring.fault, { code: 'device-refused', message: 'no header', head: 1 })
    assert.equal(popHead(fixture), 'broken')
    ring.push(1, 1)
    assert.equal(ring.inFlight, 0)
    assert.throws(() => ring.push(1, 1), { code: 'ERR_NOT_IN_FLIGHT' })
    ring.publish()
    ring.disableNotification()
    assert.equal(ring.enableNotification(), 'empty')
    assert.equal(ring.shouldNotify(), false)
    assert.equal(popHead(fixture), 'broken')
    assert.deepEqual(ring.save(), { availableIndex: 2, usedIndex: 1 }, 'where it stopped can still be asked')
    assert.equal(raw.getUsedIndex(), 0)
    assert.ok(snapshot(memory).equals(before))
  }
})

test.run()
