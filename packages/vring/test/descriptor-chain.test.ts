import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { layOutRing, type RawDescriptor, RawRing } from '../src/driver/index.ts'
import { CHAIN_DESCRIPTORS_MAX, DescriptorChain, SplitVring, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE } from '../src/index.ts'
import { BORDER, DATA, type Fixture, HIGH, READ_ONLY, segmentsOf, setUp } from './support/fixture.ts'

const WRITE = VIRTQ_DESC_F_WRITE

function pop (fixture: Fixture, descriptors: RawDescriptor[]): DescriptorChain {
  const { raw, ring, chain } = fixture
  raw.available(raw.chain(descriptors))
  assert.equal(ring.pop(chain), 'chain', ring.fault?.message)
  return chain
}

/** Cuts `length` bytes from `address` on into descriptors of these lengths, the last one taking the rest. */
function frame (address: number, length: number, cuts: number[], flags = 0): RawDescriptor[] {
  const descriptors: RawDescriptor[] = []
  let at = 0
  for (const cut of [...cuts, length]) {
    const here = Math.min(cut, length - at)
    descriptors.push({ address: address + at, length: here, flags })
    at += here
  }
  return descriptors
}

test('a chain has readable segments, then writable ones, each at its host address', () => {
  const fixture = setUp()
  const chain = pop(fixture, [
    { address: DATA, length: 16 }, { address: HIGH + 8, length: 512, flags: WRITE }, { address: DATA + 16, length: 1, flags: WRITE }
  ])
  assert.deepEqual(segmentsOf(chain), { readable: [[DATA, 16]], writable: [[HIGH + 8, 512], [DATA + 16, 1]] })
  assert.deepEqual([chain.readableBytes, chain.writableBytes], [16, 513])
  for (let index = 0; index < 3; index++) {
    assert.equal(chain.hostAddress[index], fixture.memory.translate(chain.guestAddress[index]!, chain.length[index]!, false))
  }
})

test('a descriptor that straddles regions becomes a segment in each', () => {
  const chain = pop(setUp(), [{ address: BORDER - 10, length: 30, flags: WRITE }])
  assert.deepEqual(segmentsOf(chain).writable, [[BORDER - 10, 10], [BORDER, 20]])
  assert.equal(chain.writableBytes, 30)
})

test('a descriptor may end with the last byte of a region, and of the memory', () => {
  assert.deepEqual(segmentsOf(pop(setUp(), [{ address: BORDER - 1, length: 1, flags: WRITE }])).writable, [[BORDER - 1, 1]])
  assert.deepEqual(segmentsOf(pop(setUp(), [{ address: READ_ONLY + 0x3fff, length: 1 }])).readable, [[READ_ONLY + 0x3fff, 1]])
})

test('a chain is empty again for the next pop', () => {
  const fixture = setUp()
  pop(fixture, [{ address: DATA, length: 5 }, { address: DATA, length: 7, flags: WRITE }])
  fixture.ring.push(0, 0)
  const chain = pop(fixture, [{ address: DATA + 1, length: 3 }])
  assert.deepEqual(segmentsOf(chain), { readable: [[DATA + 1, 3]], writable: [] })
  assert.deepEqual([chain.readableBytes, chain.writableBytes], [3, 0])
})

test('as many descriptors as a table may have fit, even when the last straddles regions', () => {
  const { raw, ring, chain } = setUp()
  const table = HIGH
  raw.chain(Array.from({ length: CHAIN_DESCRIPTORS_MAX }, (_, index) =>
    index + 1 < CHAIN_DESCRIPTORS_MAX ? { address: DATA + index, length: 1 } : { address: READ_ONLY - 1, length: 2 }), 0, table)
  raw.descriptor(0, { address: table, length: 16 * CHAIN_DESCRIPTORS_MAX, flags: VIRTQ_DESC_F_INDIRECT })
  raw.available(0)
  assert.equal(ring.pop(chain), 'chain', ring.fault?.message)
  assert.equal(chain.readableCount, CHAIN_DESCRIPTORS_MAX + 1)
  assert.equal(chain.readableBytes, CHAIN_DESCRIPTORS_MAX + 1)
})

test('what the driver sent is copied together from any framing', () => {
  const wanted = Uint8Array.from({ length: 16 }, (_, index) => 0x80 + index)
  for (const address of [DATA, BORDER - 7]) {
    for (const cuts of [[], [1], [15], [8, 4, 2], [0, 3, 0, 5], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]) {
      const fixture = setUp({ size: 16 })
      fixture.memory.write(address, wanted)
      const chain = pop(fixture, frame(address, 16, cuts))
      const header = new Uint8Array(16)
      assert.equal(chain.copyReadable(header), 16)
      assert.deepEqual(header, wanted, `cuts ${cuts} at 0x${address.toString(16)}`)
    }
  }
})

test('a copy ends with the driver\'s bytes, or with the room for them', () => {
  const fixture = setUp()
  fixture.memory.write(DATA, Uint8Array.of(1, 2, 3, 4, 5))
  const chain = pop(fixture, [...frame(DATA, 5, [2]), { address: DATA + 5, length: 9, flags: WRITE }])
  const long = new Uint8Array(8).fill(0xee)
  assert.equal(chain.copyReadable(long), 5)
  assert.deepEqual([...long], [1, 2, 3, 4, 5, 0xee, 0xee, 0xee])
  const short = new Uint8Array(3)
  assert.equal(chain.copyReadable(short), 3)
  assert.deepEqual([...short], [1, 2, 3])
  assert.equal(chain.copyReadable(new Uint8Array(0)), 0)
})

test('what the device answers is spread over any framing, and over nothing else', () => {
  const answer = Uint8Array.from({ length: 20 }, (_, index) => index + 1)
  for (const address of [DATA, BORDER - 7]) {
    for (const cuts of [[], [1], [19], [8, 4, 2], [0, 3, 0, 5]]) {
      const fixture = setUp({ size: 16 })
      fixture.memory.write(address - 1, new Uint8Array(30).fill(0xee))
      const chain = pop(fixture, [{ address: DATA + 0x100, length: 16 }, ...frame(address, 20, cuts, WRITE)])
      assert.equal(chain.copyToWritable(answer), 20)
      assert.deepEqual([...fixture.memory.read(address - 1, 22)], [0xee, ...answer, 0xee])
    }
  }
})

test('a copy to the driver keeps within its limit, and within the chain', () => {
  const fixture = setUp()
  const chain = pop(fixture, [{ address: DATA, length: 16 }, ...frame(DATA + 16, 6, [2], WRITE)])
  fixture.memory.write(DATA, new Uint8Array(32))
  assert.equal(chain.copyToWritable(new Uint8Array(20).fill(1), 3), 3)
  assert.deepEqual([...fixture.memory.read(DATA + 15, 8)], [0, 1, 1, 1, 0, 0, 0, 0])
  assert.equal(chain.copyToWritable(new Uint8Array(20).fill(2), 0), 0)
  // Once went on into what an earlier chain had left behind its last segment.
  assert.equal(chain.copyToWritable(new Uint8Array(20).fill(3), 20), 6)
  assert.deepEqual([...fixture.memory.read(DATA + 15, 8)], [0, 3, 3, 3, 3, 3, 3, 0])
})

test('nothing is copied where there is nothing', () => {
  const chain = pop(setUp(), [{ address: DATA, length: 0 }])
  assert.equal(chain.copyReadable(new Uint8Array(4)), 0)
  assert.equal(chain.copyToWritable(new Uint8Array(4)), 0)
})

test('a long copy across a window of a large region loses nothing', () => {
  // Once dropped what a segment had behind the window that it begins in.
  const border = 0x40000000
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: border + 0x100000 }])
  close(fd)
  const raw = new RawRing(memory, layOutRing(0, 4))
  const ring = new SplitVring(memory, raw.layout)
  const chain = new DescriptorChain(memory)
  const sent = Uint8Array.from({ length: 0x20000 }, (_, index) => index * 7)
  memory.write(border - 9, sent)
  raw.available(raw.chain([{ address: border - 9, length: sent.length }, { address: border - 5, length: sent.length, flags: WRITE }]))
  assert.equal(ring.pop(chain), 'chain')
  const received = new Uint8Array(sent.length)
  assert.equal(chain.copyReadable(received), sent.length)
  assert.ok(Buffer.from(received).equals(sent))
  assert.equal(chain.copyToWritable(sent), sent.length)
  assert.ok(Buffer.from(memory.read(border - 5, sent.length)).equals(sent))
  memory.release()
})

test.run()
