import assert from 'node:assert/strict'
import { close } from '@node-vmm/libc'
import { GuestMemory } from '@node-vmm/hostmem'
import { test } from 'uvu'
import { DescriptorChain, PackedVring, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../src/index.ts'
import { layOutPackedRing, RawPackedRing } from '../src/driver/index.ts'

function setUp (size: number) {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x20000 }])
  close(fd)
  const layout = layOutPackedRing(0x1000, size)
  return { memory, layout, raw: new RawPackedRing(memory, layout) }
}

test('a descriptor may hold any bits', () => {
  const { memory, raw } = setUp(4)
  raw.descriptor(3, { address: 0xfffffffffffffffen, length: 0xffffffff, id: 0x1234, flags: 0xabcd })
  assert.deepEqual([...memory.read(0x1030, 16)], [0xfe, ...new Array(11).fill(0xff), 0x34, 0x12, 0xcd, 0xab])
  assert.deepEqual(raw.getDescriptor(3), { address: 0xfffffffffffffffen, length: 0xffffffff, id: 0x1234, flags: 0xabcd })
  raw.descriptor(1, { address: 0x1234, length: 2 }, 0x8000)
  assert.deepEqual([...memory.read(0x8010, 16)], [0x34, 0x12, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
})

test('an index runs through the ring, lap after lap', () => {
  const { raw } = setUp(3)
  const indices = [0x8000]
  while (indices.length < 8) indices.push(raw.after(indices.at(-1)!))
  assert.deepEqual(indices, [0x8000, 0x8001, 0x8002, 0, 1, 2, 0x8000, 0x8001])
  assert.deepEqual([raw.after(0x8001, 3), raw.after(0x8001, 4), raw.after(2, 6), raw.after(2, 0)], [1, 2, 2, 2])
  assert.equal(new RawPackedRing(raw.memory, { ...raw.layout, size: 32768 }).after(0xffff), 0)
})

test('a well-formed chain goes to a device, past the end of the ring too, and comes back used', () => {
  const { memory, layout, raw } = setUp(3)
  const device = new PackedVring(memory, { ...layout, availableIndex: 0x8002 })
  const chain = new DescriptorChain(memory)
  assert.equal(device.pop(chain), 'empty')
  const end = raw.chain([{ address: 0x4000, length: 16 }, { address: 0x5000, length: 1, flags: VIRTQ_DESC_F_WRITE }], 77, 0x8002)
  assert.equal(end, 1)
  assert.deepEqual(raw.getDescriptor(2), { address: 0x4000n, length: 16, id: 77, flags: 0x80 | VIRTQ_DESC_F_NEXT })
  assert.deepEqual(raw.getDescriptor(0), { address: 0x5000n, length: 1, id: 77, flags: 0x8000 | VIRTQ_DESC_F_WRITE })
  assert.ok(raw.isAvailable(0x8002) && raw.isAvailable(0) && !raw.isAvailable(1))
  assert.equal(device.pop(chain), 'chain')
  assert.deepEqual([chain.readableBytes, chain.writableBytes], [16, 1])
  assert.equal(raw.getUsed(0x8002), undefined)
  device.push(chain.head, 1)
  device.publish()
  assert.ok(raw.isUsed(0x8002) && !raw.isAvailable(0x8002) && !raw.isUsed(2))
  assert.deepEqual(raw.getUsed(0x8002), { id: 77, length: 1 })
})

test('a malformed ring breaks the device', () => {
  const { memory, layout, raw } = setUp(3)
  const device = new PackedVring(memory, layout)
  for (let position = 0; position < 3; position++) raw.descriptor(position, { address: 0x4000, length: 1, flags: 0x80 | VIRTQ_DESC_F_NEXT })
  assert.equal(device.pop(new DescriptorChain(memory)), 'broken')
  assert.equal(device.fault?.code, 'descriptor-loop')
})

test('what the device would write can be written, and stands where the specification has it', () => {
  const { memory, layout, raw } = setUp(3)
  raw.descriptor(1, { address: 0x1234, length: 5, id: 6, flags: 0x81 })
  raw.use(0x8001, { id: 0x7777, length: 0x88888888 }, VIRTQ_DESC_F_WRITE)
  assert.deepEqual(raw.getDescriptor(1), { address: 0x1234n, length: 0x88888888, id: 0x7777, flags: 0x8082 })
  raw.use(1, { id: 0, length: 0 })
  assert.equal(raw.getDescriptor(1).flags, 0)
  raw.driverEvent({ index: 0x9999, flags: 0x1111 })
  raw.deviceEvent({ index: 0x2222, flags: 0x3333 })
  assert.deepEqual([...new Uint16Array(memory.read(layout.availableAddress, 4).buffer)], [0x9999, 0x1111])
  assert.deepEqual([...new Uint16Array(memory.read(layout.usedAddress, 4).buffer)], [0x2222, 0x3333])
  assert.deepEqual([raw.getDriverEvent(), raw.getDeviceEvent()], [{ index: 0x9999, flags: 0x1111 }, { index: 0x2222, flags: 0x3333 }])
})

test.run()
