import assert from 'node:assert/strict'
import { test } from 'uvu'
import { layOutPackedRing, RawPackedRing } from '../src/driver/index.ts'
import {
  PackedVring, featureMask, VIRTIO_F_INDIRECT_DESC, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_USED, VIRTQ_DESC_F_WRITE
} from '../src/index.ts'
import { BORDER, DATA, HIGH, NOWHERE, segmentsOf, setUp } from './support/fixture.ts'

// Every packed ring of up to 4 descriptors, popped as far as that goes, against the walk that the specification describes
// (virtio 1.2, 2.8). Split rings: model.test.ts.

interface Entry { readonly flags: number, readonly id: number, readonly address: number }
type Segments = [address: number, length: number, write: boolean][]

const LENGTH = 5
const AVAILABLE = VIRTQ_DESC_F_AVAIL
const USED = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED

/** All that is popped from the start of the first lap, and how it ends: empty, or with the fault's code. */
function walkAll (entries: readonly Entry[], tables: ReadonlyMap<number, readonly Entry[]>): { chains: Segments[], end: string } {
  const chains: Segments[] = []
  const ids = new Set<number>()
  let at = 0
  // All are taken: what stands in the first one is of the last lap.
  while (at < entries.length && (entries[at]!.flags & USED) === AVAILABLE) {
    const segments: Segments = []
    for (;;) {
      if (at === entries.length) return { chains, end: 'descriptor-loop' }
      const { flags, id } = entries[at]!
      const fault = take(segments, entries[at]!, tables)
      if (fault !== undefined) return { chains, end: fault }
      at++
      if ((flags & VIRTQ_DESC_F_NEXT) !== 0) continue
      if (ids.has(id)) return { chains, end: 'head-in-flight' }
      ids.add(id)
      break
    }
    chains.push(segments)
  }
  return { chains, end: 'empty' }
}

/** Adds a descriptor's buffer, or its table's. @returns the code of the fault */
function take (segments: Segments, { flags, address }: Entry, tables: ReadonlyMap<number, readonly Entry[]>): string | undefined {
  if ((flags & VIRTQ_DESC_F_INDIRECT) === 0) return append(segments, address, (flags & VIRTQ_DESC_F_WRITE) !== 0)
  if ((flags & VIRTQ_DESC_F_NEXT) !== 0) return 'indirect-with-next'
  for (const inner of tables.get(address)!) {
    if ((inner.flags & VIRTQ_DESC_F_INDIRECT) !== 0) return 'indirect-nested'
    const fault = append(segments, inner.address, (inner.flags & VIRTQ_DESC_F_WRITE) !== 0)
    if (fault !== undefined) return fault
  }
  return undefined
}

function append (segments: Segments, address: number, write: boolean): string | undefined {
  if (!write && segments.at(-1)?.[2] === true) return 'readable-after-writable'
  if (address === NOWHERE) return 'address-unmapped'
  segments.push([address, LENGTH, write])
  return undefined
}

/** Pops from every ring, or with every table, of `count` entries with these words, and compares. */
function enumerate (count: number, words: readonly Entry[], indirect: boolean): number {
  const size = indirect ? 1 : count
  const { raw: { memory: driver }, chain, memory } = setUp({ size: 1 })
  const raw = new RawPackedRing(driver, layOutPackedRing(0, size))
  const ring = new PackedVring(memory, { ...raw.layout, features: featureMask(VIRTIO_F_INDIRECT_DESC) })
  const inner: Entry[] = [{ flags: 0, id: 0, address: BORDER + 8 }]
  raw.descriptor(0, { address: inner[0]!.address, length: LENGTH }, BORDER)
  const named: Entry = { flags: VIRTQ_DESC_F_INDIRECT | AVAILABLE, id: 0, address: HIGH }
  if (indirect) raw.descriptor(0, { ...named, length: 16 * count })
  const target = new Int32Array(driver.view(indirect ? HIGH : raw.layout.descriptorAddress, 16 * count))
  const entries = new Array<Entry>(count)
  const tables = new Map<number, readonly Entry[]>([[BORDER, inner], [HIGH, entries]])
  let tried = 0
  const choose = (index: number): void => {
    if (index < count) {
      for (const word of words) {
        entries[index] = word
        target[index * 4] = word.address
        target[index * 4 + 1] = word.address / 0x100000000
        target[index * 4 + 2] = (word.flags & VIRTQ_DESC_F_INDIRECT) === 0 ? LENGTH : 16
        target[index * 4 + 3] = word.id | word.flags << 16
        choose(index + 1)
      }
      return
    }
    ring.reset()
    const chains: Segments[] = []
    const available = ring.countAvailable(Infinity)
    ring.prefetch(memory, Infinity)
    let popped = ring.pop(chain)
    for (; popped === 'chain'; popped = ring.pop(chain)) {
      const { readable, writable } = segmentsOf(chain)
      chains.push([
        ...readable.map(([address, length]): [number, number, boolean] => [address, length, false]),
        ...writable.map(([address, length]): [number, number, boolean] => [address, length, true])
      ])
    }
    assert.deepEqual({ chains, end: ring.fault?.code ?? popped }, walkAll(indirect ? [named] : entries, tables), JSON.stringify(entries))
    assert.equal(ring.inFlight, chains.length)
    // Chains behind one that breaks the ring are counted too.
    assert.ok(ring.fault === undefined ? available === chains.length : available >= chains.length, `${available} of ${chains.length} available`)
    tried++
  }
  choose(0)
  return tried
}

/** Entries with every combination of these flags, ids, places and marks. */
function words (flags: readonly number[], ids: number, addresses: readonly number[], marks: readonly number[]): Entry[] {
  return flags.flatMap((each) => marks.flatMap((mark) => Array.from({ length: ids }, (_, id) => id).flatMap((id) =>
    ((each & VIRTQ_DESC_F_INDIRECT) !== 0 ? [BORDER] : addresses).map((address) => ({ flags: each | mark, id, address })))))
}

const ALL_FLAGS = [0, 1, 2, 3, 4, 5, 6, 7]

for (const count of [1, 2, 3]) {
  test(`every indirect table of ${count} in a packed ring pops, or breaks it, as the specification says`, () => {
    assert.equal(enumerate(count, words(ALL_FLAGS, 1, [DATA, NOWHERE], [0]), true), 12 ** count)
  })
}

for (const size of [1, 2]) {
  test(`every packed ring of ${size} pops, or breaks, as the specification says`, () => {
    assert.equal(enumerate(size, words(ALL_FLAGS, 2, [DATA, NOWHERE], [AVAILABLE, USED, VIRTQ_DESC_F_USED, 0]), false), (12 * 2 * 4) ** size)
  })
}

test('every packed ring of 3 pops, or breaks, as the specification says', () => {
  assert.equal(enumerate(3, words(ALL_FLAGS, 2, [DATA, NOWHERE], [AVAILABLE, USED]), false), (12 * 2 * 2) ** 3)
})

test('every packed ring of 4 pops, or breaks, as the specification says', () => {
  // Without what only ends a walk, of which smaller rings have seen every combination.
  assert.equal(enumerate(4, words([0, 1, 2, 3, 4], 2, [DATA], [AVAILABLE, USED]), false), (5 * 2 * 2) ** 4)
})

test.run()
