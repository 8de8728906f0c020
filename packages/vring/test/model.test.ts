import assert from 'node:assert/strict'
import { test } from 'uvu'
import { DriverRing, indirectTableBytes } from '../src/driver/index.ts'
import {
  type DescriptorChain, SplitVring, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE
} from '../src/index.ts'
import { BORDER, DATA, HIGH, NOWHERE, randomIntegers, segmentsOf, setUp } from './support/fixture.ts'

// A queue as one would write it without shared memory: plain objects, and indices that never wrap.

interface ModelChain {
  readonly head: number
  readonly readable: readonly [number, number][]
  readonly writable: readonly [number, number][]
}

class ModelQueue {
  added: ModelChain[] = []
  available: ModelChain[] = []
  inFlight: ModelChain[] = []
  pushed: { head: number, written: number }[] = []
  used: { head: number, written: number }[] = []
  publishedTotal = 0
  usedTotal = 0
  polledTotal = 0
  /** The driver wants an interrupt when the used index has passed this. */
  usedEvent = 0
  /** The device wants a kick when the available index has passed this. */
  availableEvent = 0
  interruptsWanted = true
  kicksWanted = true
}

/** Splits a guest range where the fixture's regions meet. */
function split ([address, length]: [number, number]): [number, number][] {
  return address < BORDER && address + length > BORDER
    ? [[address, BORDER - address], [BORDER, address + length - BORDER]]
    : [[address, length]]
}

function play (seed: number, steps: number): void {
  const random = randomIntegers(seed)
  const size = 1 << random(6)
  const eventIdx = random(2) === 1
  const start = [0, 65536 - random(20), 0x8000 - random(20)][random(3)]!
  const fixture = setUp({ size, eventIdx, availableIndex: start & 0xffff, usedIndex: start & 0xffff })
  const { raw, chain } = fixture
  const tables = random(2) === 1 ? { address: DATA, segments: 4 } : undefined
  assert.ok(tables === undefined || DATA + indirectTableBytes(size, tables.segments) < 0x10000)
  const driver = new DriverRing(raw.memory, raw.layout, { eventIdx, index: start & 0xffff, ...(tables !== undefined && { indirect: tables }) })
  let ring = fixture.ring
  const model = new ModelQueue()
  model.publishedTotal = model.usedTotal = model.polledTotal = start
  model.usedEvent = model.availableEvent = start
  let decidedTotal: number | undefined
  let undecided = false
  let askedTotal = start

  const segment = (): [number, number] => [[HIGH, BORDER - 64][random(2)]! + random(64), 1 + random(100)]
  const operations: (() => void)[] = [
    function add () {
      const readable = Array.from({ length: random(3) }, segment)
      const writable = Array.from({ length: random(3) + (readable.length === 0 ? 1 : 0) }, segment)
      if (readable.length + writable.length > driver.segmentAddress.length) return
      const toSegments = (list: [number, number][]) => list.map(([address, length]) => ({ address, length }))
      const count = readable.length + writable.length
      if (count > size && (tables === undefined || count > tables.segments)) return
      const head = driver.add(toSegments(readable), toSegments(writable))
      if (head >= 0) model.added.push({ head, readable: readable.flatMap(split), writable: writable.flatMap(split) })
    },
    function publishAvailable () {
      driver.publish()
      model.publishedTotal += model.added.length
      model.available.push(...model.added.splice(0))
      const passed = eventIdx
        ? model.availableEvent >= askedTotal && model.availableEvent < model.publishedTotal
        : model.publishedTotal > askedTotal && model.kicksWanted
      assert.equal(driver.needsKick(), passed, 'kick')
      askedTotal = model.publishedTotal
    },
    function pop () {
      const expected = model.available.shift()
      assert.equal(ring.pop(chain), expected === undefined ? 'empty' : 'chain', ring.fault?.message)
      if (expected === undefined) return
      assert.deepEqual({ head: chain.head, ...segmentsOf(chain) }, expected)
      const sum = (list: readonly [number, number][]) => list.reduce((bytes, [, length]) => bytes + length, 0)
      assert.deepEqual([chain.readableBytes, chain.writableBytes], [sum(expected.readable), sum(expected.writable)])
      model.inFlight.push(expected)
    },
    function push () {
      const [done] = model.inFlight.splice(random(model.inFlight.length || 1), 1)
      if (done === undefined) return
      const written = random(5000)
      ring.push(done.head, written)
      model.pushed.push({ head: done.head, written })
    },
    function publishUsed () {
      ring.publish()
      undecided ||= model.pushed.length > 0
      model.usedTotal += model.pushed.length
      model.used.push(...model.pushed.splice(0))
    },
    function shouldNotify () {
      if (model.pushed.length > 0) return
      const passed = eventIdx
        ? decidedTotal === undefined || (model.usedEvent >= decidedTotal && model.usedEvent < model.usedTotal)
        : model.interruptsWanted
      assert.equal(ring.shouldNotify(), undecided && passed, 'interrupt')
      decidedTotal = model.usedTotal
      undecided = false
    },
    function poll () {
      const expected = model.used.shift()
      const head = driver.pollUsed()
      assert.equal(head, expected?.head ?? -1)
      if (expected === undefined) return
      model.polledTotal++
      assert.equal(driver.usedLength, expected.written)
    },
    function enableNotification () {
      assert.equal(ring.enableNotification(), model.available.length > 0 ? 'more' : 'empty')
      model.availableEvent = model.publishedTotal - model.available.length
      model.kicksWanted = true
    },
    function disableNotification () {
      ring.disableNotification()
      model.kicksWanted = false
    },
    function enableInterrupts () {
      assert.equal(driver.enableInterrupts(), model.used.length > 0 ? 'more' : 'empty')
      model.usedEvent = model.polledTotal
      model.interruptsWanted = true
    },
    function disableInterrupts () {
      driver.disableInterrupts()
      model.usedEvent = Infinity
      model.interruptsWanted = false
    },
    function saveAndRestore () {
      if (model.inFlight.length > 0 || model.pushed.length > 0 || undecided) return
      const state = ring.save()
      assert.deepEqual(state, { availableIndex: (model.publishedTotal - model.available.length) & 0xffff, usedIndex: model.usedTotal & 0xffff })
      ring = new SplitVring(fixture.memory, { ...raw.layout, features: BigInt(eventIdx) << 29n | 1n << 28n, ...state })
      decidedTotal = undefined
    }
  ]
  for (let step = 0; step < steps; step++) {
    const operation = operations[random(operations.length)]!
    try {
      operation()
      assert.equal(ring.moreAvailable(), model.available.length > 0)
      assert.equal(ring.inFlight, model.inFlight.length)
    } catch (error) {
      (error as Error).message = `seed ${seed}, step ${step}, ${operation.name}, ring of ${size}: ${(error as Error).message}`
      throw error
    }
  }
  fixture.memory.release()
  raw.memory.release()
}

test('the ring does what plain objects would, call by call', () => {
  const first = Number(process.env['SEED'] ?? Math.floor(Math.random() * 2 ** 31))
  const games = process.env['SEED'] === undefined ? 300 : 1
  console.log(`\nnote: ${games} games of 400 calls, from SEED=${first} on`)
  for (let seed = first; seed < first + games; seed++) play(seed, 400)
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
