import assert from 'node:assert/strict'
import { close } from '@node-vmm/libc'
import { GuestMemory } from '@node-vmm/hostmem'
import { test } from 'uvu'
import { DescriptorChain, SplitVring, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE } from '../src/index.ts'
import { layOutRing, RawRing } from '../src/driver/index.ts'

function setUp (size: number) {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x20000 }])
  close(fd)
  const layout = layOutRing(0x1000, size)
  return { memory, layout, raw: new RawRing(memory, layout) }
}

test('a descriptor may hold any bits', () => {
  const { memory, raw } = setUp(4)
  raw.descriptor(3, { address: 0xffffffffffffffffn, length: 0xffffffff, flags: 0xabcd, next: 0xffff })
  assert.deepEqual([...memory.read(0x1030, 16)], [...new Array(12).fill(0xff), 0xcd, 0xab, 0xff, 0xff])
  raw.descriptor(0, {}, 0x8000)
  raw.descriptor(1, { address: 0x1234, length: 2 }, 0x8000)
  assert.deepEqual([...memory.read(0x8010, 16)], [0x34, 0x12, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
})

test('a well-formed chain goes to a device and its used element comes back', () => {
  const { memory, layout, raw } = setUp(4)
  const device = new SplitVring(memory, layout)
  const head = raw.chain([{ address: 0x4000, length: 16 }, { address: 0x5000, length: 1, flags: VIRTQ_DESC_F_WRITE }], 2)
  assert.equal(head, 2)
  const chain = new DescriptorChain(memory)
  assert.equal(device.pop(chain), 'empty')
  raw.available(head)
  assert.equal(device.pop(chain), 'chain')
  assert.deepEqual([chain.head, chain.readableBytes, chain.writableBytes], [2, 16, 1])
  device.push(2, 1)
  device.publish()
  assert.deepEqual(raw.used(), [{ id: 2, length: 1 }])
})

test('a malformed ring breaks the device', () => {
  const { memory, layout, raw } = setUp(4)
  const chain = new DescriptorChain(memory)
  const jump = new SplitVring(memory, layout)
  raw.availableIndex(5)
  assert.equal(jump.pop(chain), 'broken')
  raw.availableIndex(0)
  raw.descriptor(0, { address: 0x8000, length: 32, flags: VIRTQ_DESC_F_INDIRECT })
  raw.chain([{ address: 0x4000, length: 1 }, { address: 0x4000, length: 1, flags: VIRTQ_DESC_F_INDIRECT }], 0, 0x8000)
  raw.available(0)
  const nested = new SplitVring(memory, { ...layout, features: 1n << 28n })
  assert.equal(nested.pop(chain), 'broken')
  assert.equal(nested.fault?.code, 'indirect-nested')
})

test('every word of both rings can be written, and stands where the specification has it', () => {
  const { memory, layout, raw } = setUp(4)
  raw.availableFlags(0x1111)
  raw.availableIndex(0x12222)
  raw.availableEntry(3, 0x3333)
  raw.usedEvent(0x4444)
  assert.deepEqual([...new Uint16Array(memory.read(layout.availableAddress, 14).buffer)], [0x1111, 0x2222, 0, 0, 0, 0x3333, 0x4444])
  raw.usedFlags(0x5555)
  raw.usedIndex(0x6666)
  raw.usedElement(1, { id: 0x77777777, length: 0x88888888 })
  raw.availableEvent(0x9999)
  const used = new DataView(memory.read(layout.usedAddress, 38).buffer)
  assert.deepEqual([0, 2, 36].map((at) => used.getUint16(at, true)), [0x5555, 0x6666, 0x9999])
  assert.deepEqual([4, 8, 12, 16, 20].map((at) => used.getUint32(at, true)), [0, 0, 0x77777777, 0x88888888, 0])
  assert.deepEqual([raw.getAvailableIndex(), raw.getUsedIndex(), raw.getUsedFlags(), raw.getAvailableEvent()], [0x2222, 0x6666, 0x5555, 0x9999])
})

test('used elements are read across the wrap of the index', () => {
  const { raw } = setUp(4)
  raw.usedElement(3, { id: 30, length: 1 })
  raw.usedElement(0, { id: 31, length: 2 })
  raw.usedIndex(1)
  assert.deepEqual(raw.used(65535), [{ id: 30, length: 1 }, { id: 31, length: 2 }])
})

test.run()
