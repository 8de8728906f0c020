import { GuestMemory } from '@node-vmm/hostmem'
import { close, NativeMemory } from '@node-vmm/libc'
import { deepEqual, equal } from 'node:assert/strict'
import { test } from 'uvu'
import { layOutRing, RawRing } from '../src/driver/index.ts'
import { DescriptorChain, InflightRecord, inflightRecordBytes, SplitVring, VIRTQ_DESC_F_WRITE } from '../src/index.ts'

const SIZE = 8

/** A ring whose memory and record outlive the devices that serve it. */
class Crashing {
  readonly memory: GuestMemory
  readonly raw: RawRing
  readonly record = new NativeMemory(inflightRecordBytes(SIZE))
  readonly chain: DescriptorChain

  constructor () {
    const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x10000 }])
    close(fd)
    this.memory = memory
    this.raw = new RawRing(memory, layOutRing(0x1000, SIZE))
    this.chain = new DescriptorChain(memory)
    for (let head = 0; head < SIZE; head++) this.raw.descriptor(head, { address: 0x8000, length: 64, flags: VIRTQ_DESC_F_WRITE })
  }

  /** A device that begins as vhost-user front-ends have it begin after a crash: at the used index. */
  device (availableIndex = this.memory.loadUint16(this.raw.layout.usedAddress + 2)): SplitVring {
    return new SplitVring(this.memory, { ...this.raw.layout, availableIndex }, { record: new InflightRecord(this.record.address, SIZE) })
  }

  popAll (device: SplitVring): number[] {
    const heads: number[] = []
    while (device.pop(this.chain) === 'chain') heads.push(this.chain.head)
    return heads
  }

  usedIndex (): number {
    return this.memory.loadUint16(this.raw.layout.usedAddress + 2)
  }

  free (): void {
    this.memory.release()
    this.record.close()
  }
}

function crashing (name: string, body: (ring: Crashing) => void): void {
  test(name, () => {
    const ring = new Crashing()
    try {
      body(ring)
    } finally {
      ring.free()
    }
  })
}

test('a record has whole cache lines', () => {
  deepEqual([1, 3, 4, 128, 32768].map(inflightRecordBytes), [64, 64, 128, 2112, 524352])
})

crashing('a new record knows nothing: the ring begins where the front-end says', (ring) => {
  ring.raw.available(5)
  deepEqual(ring.popAll(ring.device(0)), [5])
})

// Found by the fuzzer (inflight, seed 11, case 0): the chains popped again were counted anew, behind those that were not yet.
crashing('a device killed while it does things again leaves the old order to the next one', (ring) => {
  ring.raw.available(4, 2, 6)
  deepEqual(ring.popAll(ring.device(0)), [4, 2, 6])
  const killed = ring.device()
  killed.pop(ring.chain)
  equal(ring.chain.head, 4)
  deepEqual(ring.popAll(ring.device()), [4, 2, 6])
})

crashing('what was in flight is popped again in its old order, then what came later', (ring) => {
  ring.raw.available(4, 2, 6)
  const killed = ring.device(0)
  deepEqual(ring.popAll(killed), [4, 2, 6])
  killed.push(2, 0)
  killed.publish()
  ring.raw.available(1)

  const next = ring.device()
  equal(next.save().usedIndex, 1)
  equal(next.moreAvailable(), true)
  deepEqual(ring.popAll(next), [4, 6, 1])
  for (const head of [4, 6, 1]) next.push(head, 0)
  next.publish()
  equal(ring.usedIndex(), 4)
  deepEqual(ring.popAll(ring.device()), [])
})

crashing('killed before a batch was shown: all of it is done again', (ring) => {
  ring.raw.available(0, 1, 2)
  const killed = ring.device(0)
  ring.popAll(killed)
  killed.push(1, 0)
  killed.push(2, 0)
  deepEqual(ring.popAll(ring.device()), [0, 1, 2])
})

crashing('killed after a batch was shown, before its marks were cleared: none of it is done again', (ring) => {
  ring.raw.available(0, 1, 2)
  const killed = ring.device(0)
  ring.popAll(killed)
  const before = ring.record.u8.slice()
  killed.push(1, 0)
  killed.push(2, 0)
  killed.publish()
  // The record as it was when the used index was stored: the batch is linked, and its marks stand.
  const after = ring.record.u8.slice()
  ring.record.u8.set(before)
  ring.record.u8.set(after.subarray(12, 14), 12) // last_batch_head
  for (const head of [1, 2]) ring.record.u8.set(after.subarray(16 + head * 16 + 6, 16 + head * 16 + 8), 16 + head * 16 + 6) // next
  deepEqual(ring.popAll(ring.device()), [0])
})

crashing('the counter goes on, so that a second crash keeps the order too', (ring) => {
  ring.raw.available(7, 3)
  ring.popAll(ring.device(0))
  ring.raw.available(0)
  deepEqual(ring.popAll(ring.device()), [7, 3, 0])
  deepEqual(ring.popAll(ring.device()), [7, 3, 0])
})

crashing('a record of another size, or of another version, is begun anew', (ring) => {
  ring.raw.available(0)
  ring.popAll(ring.device(0))
  ring.record.u16[5] = SIZE + 1
  deepEqual(ring.popAll(ring.device(0)), [0])
  ring.record.u16[4] = 2
  deepEqual(ring.popAll(ring.device(0)), [0])
})

crashing('hostile links end, and lead nowhere outside', (ring) => {
  ring.raw.available(0, 1)
  ring.popAll(ring.device(0))
  ring.record.u16[6] = 1 // last_batch_head
  ring.record.u16[8 + 8 + 3] = 1 // of head 1: its own next
  ring.memory.storeUint16(ring.raw.layout.usedAddress + 2, 40000)
  const next = ring.device()
  deepEqual(ring.popAll(next), [0])
  ring.record.u16[6] = 60000
  ring.memory.storeUint16(ring.raw.layout.usedAddress + 2, 40001)
  deepEqual(ring.popAll(ring.device()), [0])
})

test.run()
