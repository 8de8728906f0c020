import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { layOutRing, RawRing } from '../src/driver/index.ts'
import {
  CHAIN_DESCRIPTORS_MAX, DescriptorChain, SplitVring, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, type VringFaultCode
} from '../src/index.ts'
import { BORDER, DATA, type Fixture, type FixtureOptions, HIGH, NOWHERE, READ_ONLY, setUp, snapshot } from './support/fixture.ts'

const NEXT = VIRTQ_DESC_F_NEXT
const WRITE = VIRTQ_DESC_F_WRITE
const INDIRECT = VIRTQ_DESC_F_INDIRECT
const TABLE = HIGH + 0x1000

/** What a hostile driver does to a ring of 4, and what the device is to say of it. */
interface Case {
  readonly does: (fixture: Fixture) => void
  readonly code: VringFaultCode
  /** @default 0 */
  readonly head?: number | undefined
  readonly options?: FixtureOptions
}

/** Offers one descriptor. */
const one = (descriptor: Parameters<Fixture['raw']['descriptor']>[1]) => ({ raw }: Fixture): void => {
  raw.descriptor(0, descriptor)
  raw.available(0)
}
/** Offers a table of these entries, as they are. */
const table = (...entries: Parameters<Fixture['raw']['descriptor']>[1][]) => ({ raw }: Fixture): void => {
  entries.forEach((entry, index) => raw.descriptor(index, entry, TABLE))
  raw.descriptor(0, { address: TABLE, length: 16 * entries.length, flags: INDIRECT })
  raw.available(0)
}
/** Offers a chain of these descriptors. */
const chained = (...descriptors: Parameters<Fixture['raw']['chain']>[0]) => ({ raw }: Fixture): void => raw.available(raw.chain(descriptors))

const cases: Record<string, Case> = {
  'the index jumps by one more than the ring has entries': {
    does: ({ raw }) => raw.availableIndex(5), code: 'available-index-jump', head: undefined
  },
  'the index jumps so across its wrap': {
    does: ({ raw }) => raw.availableIndex(65534 + 5), code: 'available-index-jump', head: undefined, options: { availableIndex: 65534 }
  },
  'the index goes back': {
    does: ({ raw }) => raw.availableIndex(9), code: 'available-index-jump', head: undefined, options: { availableIndex: 10 }
  },
  'a head is the ring\'s size': { does: ({ raw }) => raw.available(4), code: 'head-out-of-range', head: 4 },
  'a head is the largest number': { does: ({ raw }) => raw.available(65535), code: 'head-out-of-range', head: 65535 },
  'a head comes again while it is in flight': {
    does: (fixture) => {
      fixture.raw.descriptor(2, { address: DATA, length: 1 })
      fixture.raw.available(2)
      assert.equal(fixture.ring.pop(fixture.chain), 'chain')
      fixture.raw.available(2)
    },
    code: 'head-in-flight',
    head: 2
  },
  'the next descriptor is the ring\'s size': { does: one({ address: DATA, length: 1, flags: NEXT, next: 4 }), code: 'next-out-of-range' },
  'the next descriptor is the largest number': { does: one({ address: DATA, length: 1, flags: NEXT, next: 65535 }), code: 'next-out-of-range' },
  'a descriptor is its own next one': { does: one({ address: DATA, length: 1, flags: NEXT, next: 0 }), code: 'descriptor-loop' },
  'a descriptor without bytes is its own next one': { does: one({ flags: NEXT, next: 0 }), code: 'descriptor-loop' },
  'all descriptors make a loop': {
    does: ({ raw }) => {
      for (let index = 0; index < 4; index++) raw.descriptor(index, { address: DATA, length: 1, flags: NEXT, next: (index + 1) % 4 })
      raw.available(3)
    },
    code: 'descriptor-loop',
    head: 3
  },
  'a loop comes after a straight beginning': {
    does: ({ raw }) => {
      raw.chain([{ address: DATA, length: 1 }, { address: DATA, length: 1 }, {}], 0)
      raw.descriptor(2, { address: DATA, length: 1, flags: NEXT, next: 1 })
      raw.available(0)
    },
    code: 'descriptor-loop'
  },
  'a table is used though the feature was not negotiated': {
    does: table({ address: DATA, length: 1 }), code: 'indirect-not-negotiated', options: { indirect: false }
  },
  'a table has no bytes': { does: one({ address: TABLE, length: 0, flags: INDIRECT }), code: 'indirect-length' },
  'a table is a byte short': { does: one({ address: TABLE, length: 15, flags: INDIRECT }), code: 'indirect-length' },
  'a table is a byte long': { does: one({ address: TABLE, length: 17, flags: INDIRECT }), code: 'indirect-length' },
  'a table has more than the most descriptors': {
    does: one({ address: HIGH, length: 16 * (CHAIN_DESCRIPTORS_MAX + 1), flags: INDIRECT }), code: 'indirect-length'
  },
  'a table has 4 GiB less 16 bytes': { does: one({ address: TABLE, length: 0xfffffff0, flags: INDIRECT }), code: 'indirect-length' },
  'a table has a next descriptor': { does: one({ address: TABLE, length: 16, flags: INDIRECT | NEXT, next: 1 }), code: 'indirect-with-next' },
  'a table is in a table': { does: table({ address: TABLE, length: 16, flags: INDIRECT }), code: 'indirect-nested' },
  'a table is outside memory': { does: one({ address: NOWHERE, length: 16, flags: INDIRECT }), code: 'address-unmapped' },
  'the end of a table is outside memory': { does: one({ address: NOWHERE - 16, length: 32, flags: INDIRECT }), code: 'address-unmapped' },
  'a table is at the last address of all': { does: one({ address: 0xfffffffffffffff0n, length: 32, flags: INDIRECT }), code: 'address-unmapped' },
  'a descriptor of a table is its own next one': { does: table({ address: DATA, length: 1, flags: NEXT, next: 0 }), code: 'descriptor-loop' },
  'the descriptors of a table make a loop': {
    does: table({ address: DATA, length: 1, flags: NEXT, next: 1 }, { address: DATA, length: 1, flags: NEXT, next: 2 }, { flags: NEXT, next: 0 }),
    code: 'descriptor-loop'
  },
  'the next descriptor is behind its table': { does: table({ address: DATA, length: 1, flags: NEXT, next: 1 }), code: 'next-out-of-range' },
  'a readable descriptor follows a writable one': {
    does: chained({ address: DATA, length: 1, flags: WRITE }, { address: DATA, length: 1 }), code: 'readable-after-writable'
  },
  'a readable descriptor follows a writable one in a table': {
    does: table({ address: DATA, length: 1, flags: WRITE | NEXT, next: 1 }, { address: DATA, length: 1 }), code: 'readable-after-writable'
  },
  'a table with a readable descriptor follows a writable one': {
    does: (fixture) => {
      table({ address: DATA, length: 1 })(fixture)
      fixture.raw.descriptor(1, { address: TABLE, length: 16, flags: INDIRECT })
      fixture.raw.descriptor(0, { address: DATA, length: 1, flags: WRITE | NEXT, next: 1 })
    },
    code: 'readable-after-writable'
  },
  'a buffer is outside memory': { does: one({ address: NOWHERE, length: 1 }), code: 'address-unmapped' },
  'a buffer is between regions': { does: one({ address: 0x10000, length: 1, flags: WRITE }), code: 'address-unmapped' },
  'a buffer\'s last byte is outside memory': { does: one({ address: NOWHERE - 15, length: 16 }), code: 'address-unmapped' },
  'a buffer reaches into read-only memory': { does: one({ address: READ_ONLY - 1, length: 2, flags: WRITE }), code: 'address-unmapped' },
  'a buffer is in read-only memory': { does: one({ address: READ_ONLY, length: 1, flags: WRITE }), code: 'address-unmapped' },
  'a buffer\'s end wraps to address 0': { does: one({ address: 0xfffffffffffff000n, length: 0x2000 }), code: 'address-unmapped' },
  'a buffer\'s address loses bits as a number': { does: one({ address: 2n ** 63n + BigInt(DATA) + 1n, length: 1 }), code: 'address-unmapped' },
  'a buffer is at 2^53': { does: one({ address: 2n ** 53n, length: 0xffffffff }), code: 'address-unmapped' },
  'a buffer has 4 GiB less one byte': { does: one({ address: DATA, length: 0xffffffff, flags: WRITE }), code: 'address-unmapped' },
  'a chain in a table needs more segments than there are': {
    does: ({ raw }) => {
      const each = { address: BORDER - 1, length: 2 }
      raw.chain(Array.from({ length: CHAIN_DESCRIPTORS_MAX }, () => each), 0, READ_ONLY)
      raw.descriptor(0, { address: READ_ONLY, length: 16 * CHAIN_DESCRIPTORS_MAX, flags: INDIRECT })
      raw.available(0)
    },
    code: 'chain-too-long'
  },
  'a chain in a long ring needs more segments than there are': {
    does: ({ raw }) => raw.available(raw.chain(Array.from({ length: 2048 }, () => ({ address: HIGH, length: 1 })))),
    code: 'chain-too-long',
    options: { size: 2048 }
  }
}

for (const [name, { does, code, options = {}, ...rest }] of Object.entries(cases)) {
  test(`the ring is broken when ${name}`, () => {
    const fixture = setUp(options)
    const { raw, ring, chain, memory } = fixture
    does(fixture)
    const inFlight = ring.inFlight
    const at = ring.save()
    const before = snapshot(memory)
    assert.equal(ring.pop(chain), 'broken')
    assert.equal(ring.fault?.code, code, ring.fault?.message)
    assert.equal(ring.fault.head, 'head' in rest ? rest.head : 0)
    assert.ok(ring.fault.message.length > 10)
    assert.ok(snapshot(memory).equals(before), 'a fault writes nothing')

    // The driver mends its ring: too late until a reset.
    raw.descriptor(0, { address: DATA, length: 1 })
    for (let slot = 0; slot < raw.layout.size; slot++) raw.availableEntry(slot, 0)
    raw.availableIndex(at.availableIndex + 1)
    const mended = snapshot(memory)
    assert.equal(ring.pop(chain), 'broken')
    assert.equal(ring.inFlight, inFlight)
    ring.publish()
    ring.disableNotification()
    assert.equal(ring.enableNotification(), 'empty')
    assert.equal(ring.shouldNotify(), false)
    assert.deepEqual(ring.save(), at)
    assert.ok(snapshot(memory).equals(mended), 'a broken ring writes nothing')

    ring.reset()
    raw.availableIndex(1)
    assert.equal(ring.pop(chain), 'chain')
  })
}

test('what was popped before the fault may still be given back, and is not shown', () => {
  const fixture = setUp()
  const { raw, ring, chain } = fixture
  raw.descriptor(0, { address: DATA, length: 1 })
  raw.available(0, 9)
  assert.equal(ring.pop(chain), 'chain')
  assert.equal(ring.pop(chain), 'broken')
  ring.push(0, 1)
  ring.publish()
  assert.equal(ring.inFlight, 0)
  assert.deepEqual(raw.used(), [])
})

test('a chain of 2^32 bytes breaks the ring, one byte less does not', () => {
  // Sparse: nothing of it is touched but the ring.
  const half = 0x80000000
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x1000 }, { guestAddress: HIGH, size: half }])
  close(fd)
  for (const [more, wanted] of [[half - 1, 'chain'], [half, 'broken']] as const) {
    const raw = new RawRing(memory, layOutRing(0, 4))
    raw.availableIndex(0)
    const ring = new SplitVring(memory, raw.layout)
    raw.available(raw.chain([{ address: HIGH, length: half }, { address: HIGH, length: more, flags: WRITE }]))
    assert.equal(ring.pop(new DescriptorChain(memory)), wanted)
    assert.equal(ring.fault?.code, wanted === 'broken' ? 'chain-too-long' : undefined)
  }
  memory.release()
})

test.run()
