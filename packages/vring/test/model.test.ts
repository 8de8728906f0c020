import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'uvu'
import { DriverRing, indirectTableBytes, layOutPackedRing, layOutRing, PackedDriverRing } from '../src/driver/index.ts'
import {
  type DescriptorChain, featureMask, PackedVring, SplitVring, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, type Virtqueue,
  type VirtqueueState, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE
} from '../src/index.ts'
import { BORDER, DATA, HIGH, NOWHERE, randomIntegers, segmentsOf, setUp } from './support/fixture.ts'

// A queue as one would write it without shared memory: plain objects, and positions that never wrap. A position counts
// chains where the ring is split, and descriptors where it is packed.

interface ModelChain {
  /** What the driver calls it. */
  readonly head: number
  readonly readable: readonly [number, number][]
  readonly writable: readonly [number, number][]
  /** How far it moves a position. */
  readonly units: number
}

/** A chain that the device has: it may have a name of its own for it. */
interface TakenChain extends ModelChain {
  readonly deviceHead: number
  /** Bytes written, once it was pushed. */
  written?: number
}

class ModelQueue {
  added: ModelChain[] = []
  available: ModelChain[] = []
  /** In the order of their pops: what was not pushed, and with IN_ORDER what is behind such. */
  taken: TakenChain[] = []
  pushed: TakenChain[] = []
  used: TakenChain[] = []
  published: number
  usedUpTo: number
  polled: number
  /** The driver wants an interrupt when the device has passed this. */
  usedEvent: number
  /** The device wants a kick when the driver has passed this; undefined while it wants one for everything. */
  availableEvent: number | undefined
  interruptsWanted = true
  kicksWanted = true
  /** By this ring, not by the one before it. */
  kickAskedFor = false

  constructor (start: number, packed: boolean) {
    this.published = this.usedUpTo = this.polled = this.usedEvent = start
    this.availableEvent = packed ? undefined : start
  }

  get inFlight (): TakenChain[] {
    return this.taken.filter(({ written }) => written === undefined)
  }

  get popped (): number {
    return this.published - unitsOf(this.available)
  }
}

function unitsOf (chains: readonly ModelChain[]): number {
  return chains.reduce((sum, { units }) => sum + units, 0)
}

/** Splits a guest range where the fixture's regions meet. */
function split ([address, length]: [number, number]): [number, number][] {
  return address < BORDER && address + length > BORDER
    ? [[address, BORDER - address], [BORDER, address + length - BORDER]]
    : [[address, length]]
}

/** How a game is set up. */
interface Setup {
  readonly packed: boolean
  readonly size: number
  readonly eventIdx: boolean
  readonly inOrder: boolean
  readonly tables: boolean
  /** Where the rings begin: so many before an index wraps, or a lap ends. */
  readonly beforeWrap: number
  readonly lap: boolean
}

const setups = fc.record({
  packed: fc.boolean(), size: fc.integer({ min: 1, max: 32 }), eventIdx: fc.boolean(), inOrder: fc.boolean(), tables: fc.boolean(),
  beforeWrap: fc.nat(20), lap: fc.boolean()
}).map((setup): Setup => setup.packed ? setup : { ...setup, size: 2 ** Math.floor(Math.log2(setup.size)) })

/** A call by its number, and what decides its arguments. */
type Call = readonly [operation: number, seed: number]

const OPERATIONS = 12
const calls = fc.array(fc.tuple(fc.nat(OPERATIONS - 1), fc.noShrink(fc.nat({ max: 0xffffffff }))), { maxLength: 400, size: 'max' })

function play (setup: Setup, made: readonly Call[]): void {
  const { packed, size, eventIdx, inOrder, lap } = setup
  // Packed: a position from which on a lap of either kind ends soon. Split: the 16 bits of an index end, or its upper half begins.
  const start = packed ? (lap ? 0 : size) + Math.max(0, size - 1 - setup.beforeWrap) : (lap ? 0x8000 : 0x10000) - setup.beforeWrap
  const indexOf = (position: number): number => packed ? position % size | (Math.floor(position / size) % 2 === 0 ? 0x8000 : 0) : position & 0xffff
  const fixture = setUp({ size: packed ? 1 : size })
  const { raw, chain } = fixture
  const layout = packed ? layOutPackedRing(0, size) : layOutRing(0, size)
  const tables = setup.tables ? { address: DATA, segments: 4 } : undefined
  assert.ok(tables === undefined || DATA + indirectTableBytes(size, tables.segments) < 0x10000)
  const options = { eventIdx, inOrder, index: indexOf(start), ...(tables !== undefined && { indirect: tables }) }
  const driver = packed ? new PackedDriverRing(raw.memory, layout, options) : new DriverRing(raw.memory, layout, options)
  const features = featureMask(VIRTIO_F_INDIRECT_DESC, ...eventIdx ? [VIRTIO_F_EVENT_IDX] : [], ...inOrder ? [VIRTIO_F_IN_ORDER] : [])
  const open = (state: VirtqueueState): Virtqueue => packed
    ? new PackedVring(fixture.memory, { ...layout, features, ...state })
    : new SplitVring(fixture.memory, { ...layout, features, ...state })
  let ring = open({ availableIndex: indexOf(start), usedIndex: indexOf(start) })
  const model = new ModelQueue(start, packed)
  let decided: number | undefined
  let undecided = false
  let asked = start
  let random: (bound: number) => number

  const segment = (): [number, number] => [[HIGH, BORDER - 64][random(2)]! + random(64), 1 + random(100)]
  const operations: (() => void)[] = [
    function add () {
      const readable = Array.from({ length: random(3) }, segment)
      const writable = Array.from({ length: random(3) + (readable.length === 0 ? 1 : 0) }, segment)
      if (readable.length + writable.length > driver.segmentAddress.length) return
      const toSegments = (list: [number, number][]) => list.map(([address, length]) => ({ address, length }))
      const count = readable.length + writable.length
      const isIndirect = tables !== undefined && count > 1 && count <= tables.segments
      if (!isIndirect && count > size) return
      const head = driver.add(toSegments(readable), toSegments(writable))
      if (head < 0) return
      model.added.push({ head, readable: readable.flatMap(split), writable: writable.flatMap(split), units: packed && !isIndirect ? count : 1 })
    },
    function publishAvailable () {
      driver.publish()
      model.published += unitsOf(model.added)
      model.available.push(...model.added.splice(0))
      const { availableEvent, published } = model
      const passed = !eventIdx || availableEvent === undefined
        ? published > asked
        : availableEvent >= asked && availableEvent < published
      const found = driver.needsKick()
      // An event that lies more than a lap behind may look like one of this lap: a kick too many does no harm.
      const isFar = packed && availableEvent !== undefined && published - availableEvent > size
      if (!isFar || !found) assert.equal(found, passed && (model.kicksWanted || (eventIdx && !packed)), 'kick')
      asked = published
    },
    function pop () {
      const expected = model.available.shift()
      assert.equal(ring.pop(chain), expected === undefined ? 'empty' : 'chain', ring.fault?.message)
      if (expected === undefined) return
      const { head, readable, writable } = expected
      assert.deepEqual(segmentsOf(chain), { readable, writable })
      if (!packed) assert.equal(chain.head, head)
      const sum = (list: readonly [number, number][]) => list.reduce((bytes, [, length]) => bytes + length, 0)
      assert.deepEqual([chain.readableBytes, chain.writableBytes], [sum(readable), sum(writable)])
      assert.ok(model.taken.every(({ deviceHead }) => deviceHead !== chain.head), `head ${chain.head} is in flight`)
      model.taken.push({ ...expected, deviceHead: chain.head })
    },
    function push () {
      const { inFlight } = model
      const done = inFlight[random(inFlight.length || 1)]
      if (done === undefined) return
      done.written = random(5000)
      ring.push(done.deviceHead, done.written)
      if (inOrder) while (model.taken[0]?.written !== undefined) model.pushed.push(model.taken.shift()!)
      else model.pushed.push(...model.taken.splice(model.taken.indexOf(done), 1))
    },
    function publishUsed () {
      ring.publish()
      undecided ||= model.pushed.length > 0
      model.usedUpTo += unitsOf(model.pushed)
      model.used.push(...model.pushed.splice(0))
    },
    function shouldNotify () {
      if (model.pushed.length > 0) return
      const passed = eventIdx
        ? decided === undefined || (model.usedEvent >= decided && model.usedEvent < model.usedUpTo)
        : model.interruptsWanted
      const isFar = packed && eventIdx && model.usedUpTo - model.usedEvent > size
      const found = ring.shouldNotify()
      if (!isFar) assert.equal(found, undecided && passed && (model.interruptsWanted || !packed), 'interrupt')
      decided = model.usedUpTo
      undecided = false
    },
    function poll () {
      const expected = model.used.shift()
      const head = driver.pollUsed()
      assert.equal(head, expected?.head ?? -1)
      if (expected === undefined) return
      model.polled += expected.units
      assert.equal(driver.usedLength, expected.written)
    },
    function enableNotification () {
      assert.equal(ring.enableNotification(), model.available.length > 0 ? 'more' : 'empty')
      model.availableEvent = eventIdx ? model.popped : undefined
      model.kicksWanted = model.kickAskedFor = true
    },
    function disableNotification () {
      ring.disableNotification()
      // Of a split ring with EVENT_IDX, one that was passed.
      if (model.kickAskedFor && eventIdx && !packed && model.available.length === 0) model.availableEvent = model.popped - 1
      model.kicksWanted = model.kickAskedFor = false
    },
    function enableInterrupts () {
      assert.equal(driver.enableInterrupts(), model.used.length > 0 ? 'more' : 'empty')
      model.usedEvent = model.polled
      model.interruptsWanted = true
    },
    function disableInterrupts () {
      driver.disableInterrupts()
      model.usedEvent = Infinity
      model.interruptsWanted = false
    },
    function saveAndRestore () {
      if (model.taken.length > 0 || model.pushed.length > 0 || undecided) return
      const state = ring.save()
      assert.deepEqual(state, { availableIndex: indexOf(model.popped), usedIndex: indexOf(model.usedUpTo) })
      ring = open(state)
      model.kickAskedFor = false
      decided = undefined
    }
  ]
  assert.equal(operations.length, OPERATIONS)
  try {
    made.forEach(([operation, seed], step) => {
      random = randomIntegers(seed)
      try {
        ring.prefetch(fixture.memory, 3)
        operations[operation]!()
        assert.equal(ring.moreAvailable(), model.available.length > 0)
        assert.equal(ring.countAvailable(Infinity), model.available.length)
        assert.equal(ring.countAvailable(2), Math.min(2, model.available.length))
        assert.equal(ring.inFlight, model.inFlight.length)
      } catch (error) {
        (error as Error).message = `${made.slice(0, step + 1).map(([each]) => operations[each]!.name).join(', ')}: ${(error as Error).message}`
        throw error
      }
    })
  } finally {
    fixture.memory.release()
    raw.memory.release()
  }
}

test('a ring does what plain objects would, call by call, whatever its layout', () => {
  const { SEED, PATH_IN_SEED: path, GAMES } = process.env
  const seed = Number(SEED ?? Math.floor(Math.random() * 2 ** 31))
  const numRuns = Number(GAMES ?? 300)
  console.log(`\nnote: ${numRuns} games of up to 400 calls with SEED=${seed}; a failure says the path to repeat it with PATH_IN_SEED`)
  fc.assert(fc.property(setups, calls, play), { seed, numRuns, ...(path !== undefined && { path }) })
})

// Every ring of up to 4 descriptors, against the walk that the specification describes.

interface Entry { readonly flags: number, readonly next: number, readonly address: number, readonly length: number }
type Walk = string | [address: number, length: number, write: boolean][]

/** @returns the segments, or the code of the fault */
function walk (entries: Entry[], tables: Map<number, Entry[]>, indirect = false): Walk {
  const segments: [number, number, boolean][] = []
  for (let index = 0, steps = 0; ; steps++) {
    if (index >= entries.length) return 'next-out-of-range'
    // More steps than there are descriptors: one was met twice.
    if (steps === entries.length) return 'descriptor-loop'
    const { flags, next, address, length } = entries[index]!
    const write = (flags & VIRTQ_DESC_F_WRITE) !== 0
    if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
      if (indirect) return 'indirect-nested'
      if ((flags & VIRTQ_DESC_F_NEXT) !== 0) return 'indirect-with-next'
      const inner = walk(tables.get(address)!, tables, true)
      if (typeof inner === 'string') return inner
      return ordered([...segments, ...inner])
    }
    segments.push([address, length, write])
    if (typeof ordered(segments) === 'string') return 'readable-after-writable'
    if (address === NOWHERE) return 'address-unmapped'
    if ((flags & VIRTQ_DESC_F_NEXT) === 0) return segments
    index = next
  }
}

function ordered (segments: [number, number, boolean][]): Walk {
  return segments.some(([, , write], index) => !write && segments[index - 1]?.[2]) ? 'readable-after-writable' : segments
}

function walkOf (chain: DescriptorChain): Walk {
  const { readable, writable } = segmentsOf(chain)
  return [
    ...readable.map(([address, length]): [number, number, boolean] => [address, length, false]),
    ...writable.map(([address, length]): [number, number, boolean] => [address, length, true])
  ]
}

/** Pops head 0 of every table of `count` entries with these words, where `write` puts one, and compares. */
function enumerate (count: number, words: readonly Entry[], indirect: boolean): number {
  const { raw, ring, chain, memory } = setUp({ size: indirect ? 1 : count })
  const table = indirect ? HIGH : raw.layout.descriptorAddress
  const inner: Entry[] = [{ flags: 0, next: 0, address: BORDER + 8, length: 3 }]
  raw.descriptor(0, inner[0]!, BORDER)
  if (indirect) raw.descriptor(0, { address: HIGH, length: 16 * count, flags: VIRTQ_DESC_F_INDIRECT })
  raw.available(0)
  const target = new Int32Array(raw.memory.view(table, 16 * count))
  const tables = new Map([[BORDER, inner]])
  const entries = new Array<Entry>(count)
  let tried = 0
  const choose = (index: number): void => {
    if (index === count) {
      ring.reset()
      ring.prefetch(memory, Infinity)
      const popped = ring.pop(chain)
      const found: Walk = popped === 'chain' ? walkOf(chain) : ring.fault!.code
      assert.deepEqual(found, walk(entries, tables, indirect), JSON.stringify(entries))
      for (let at = 0; at < chain.readableCount + chain.writableCount; at++) {
        assert.notEqual(memory.translate(chain.guestAddress[at]!, chain.length[at]!, at >= chain.readableCount), 0)
      }
      tried++
      return
    }
    for (const word of words) {
      entries[index] = word
      target[index * 4] = word.address
      target[index * 4 + 1] = word.address / 0x100000000
      target[index * 4 + 2] = word.length
      target[index * 4 + 3] = word.flags | word.next << 16
      choose(index + 1)
    }
  }
  choose(0)
  return tried
}

/** Entries with every combination of the three flags and of `next` up to one too far, at these addresses. */
function words (count: number, addresses: readonly number[]): Entry[] {
  return [0, 1, 2, 3, 4, 5, 6, 7].flatMap((flags) => Array.from({ length: count + 1 }, (_, next) => next).flatMap((next) =>
    (flags & VIRTQ_DESC_F_INDIRECT) !== 0
      ? [{ flags, next, address: BORDER, length: 16 }]
      : addresses.map((address) => ({ flags, next, address, length: 5 }))))
}

for (const [count, addresses] of [[1, [DATA, NOWHERE]], [2, [DATA, NOWHERE]], [3, [DATA, NOWHERE]]] as const) {
  test(`every indirect table of ${count} pops, or breaks the ring, as the specification says`, () => {
    assert.equal(enumerate(count, words(count, addresses), true), (12 * (count + 1)) ** count)
  })
}

for (const [size, addresses] of [[1, [DATA, NOWHERE]], [2, [DATA, NOWHERE]]] as const) {
  test(`every ring of ${size} pops, or breaks, as the specification says`, () => {
    assert.equal(enumerate(size, words(size, addresses), false), (12 * (size + 1)) ** size)
  })
}

test('every ring of 4 pops, or breaks, as the specification says', () => {
  // Without the flags that only end a walk, of which smaller rings have seen every combination.
  const some = words(4, [DATA]).filter(({ flags }) => flags !== 5 && flags !== 6 && flags !== 7)
  assert.equal(enumerate(4, some, false), (5 * 5) ** 4)
})

test.run()
