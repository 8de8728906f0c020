import assert from 'node:assert/strict'
import { EventNotifier } from '@node-vmm/event-poll'
import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import { DescriptorChain, PackedVring, SplitVring } from '@node-vmm/vring'
import { layOutPackedRing, layOutRing, NOTHING_USED, packedRingBytes, ringBytes, USED_RING_BROKEN } from '@node-vmm/vring/driver'
import { test } from 'uvu'
import {
  Queue, QUEUE_FULL, type QueueData, STATUS_PENDING, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
} from '../src/index.ts'

const DATA = 0x20000

function setUp (changes: Partial<QueueData> = {}) {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x40000 }])
  close(fd)
  const [kick, call] = [EventNotifier.create(), EventNotifier.create()]
  const { packed = false } = changes
  const layout = packed ? layOutPackedRing(0, 8) : layOutRing(0, 8)
  const queue = Queue.attach({
    memory: memory.toData(), layout, packed, inOrder: false, requestAddress: packed ? packedRingBytes(8) : ringBytes(8), indirect: undefined,
    eventIdx: false, index: packed ? 0x8000 : 0,
    kickFd: kick.fd, callFd: call.fd, sizeMax: 0xffffffff, segmentsMax: 126, ...changes
  })
  const chain = new DescriptorChain(memory)
  const device = new (packed ? PackedVring : SplitVring)(memory, { ...layout, features: 1n << 28n })
  const segments = () => Array.from({ length: chain.readableCount + chain.writableCount }, (_, index) =>
    [chain.guestAddress[index], chain.length[index]])
  return { memory, queue, device, chain, segments, kick, call }
}

for (const packed of [false, true]) {
  test(`a write is its header and the data for the device to read, and a status to write${packed ? ' (packed)' : ''}`, () => {
    const { queue, device, chain, segments, memory, kick } = setUp({ packed })
    const head = queue.submit(VIRTIO_BLK_T_OUT, 0x1234567890, DATA, 1024, 42)
    assert.equal(device.pop(chain), 'empty')
    queue.kick()
    assert.equal(kick.clear(), true)
    assert.equal(device.pop(chain), 'chain')
    assert.equal(chain.head, head)
    assert.equal(chain.readableCount, 2)
    assert.deepEqual(segments().slice(1, 2), [[DATA, 1024]])
    const header = new DataView(memory.read(segments()[0]![0]!, 16).buffer)
    assert.deepEqual([header.getUint32(0, true), header.getUint32(4, true), header.getBigUint64(8, true)], [VIRTIO_BLK_T_OUT, 0, 0x1234567890n])
    const [status, length] = segments()[2]!
    assert.equal(length, 1)
    assert.equal(memory.getUint8(status!), STATUS_PENDING)

    memory.setUint8(status!, 1)
    device.push(head, 1)
    device.publish()
    assert.equal(queue.poll(), head)
    assert.deepEqual([queue.status, queue.token], [1, 42])
    assert.equal(queue.poll(), NOTHING_USED)
  })
}

test('a read is written by the device, and so is an id; a flush has no data', () => {
  for (const [type, length, readable, writable] of [
    [VIRTIO_BLK_T_IN, 4096, 1, 2], [VIRTIO_BLK_T_GET_ID, 20, 1, 2], [VIRTIO_BLK_T_FLUSH, 0, 1, 1]
  ] as const) {
    const { queue, device, chain } = setUp()
    queue.submit(type, 0, DATA, length)
    queue.kick()
    assert.equal(device.pop(chain), 'chain')
    assert.deepEqual([chain.readableCount, chain.writableCount, chain.writableBytes], [readable, writable, length + 1])
  }
})

for (const indirect of [undefined, { address: 0x10000, segments: 6 }]) {
  test(`data larger than a segment may be is split${indirect === undefined ? '' : ', in an indirect table'}`, () => {
    const { queue, device, chain, segments } = setUp({ sizeMax: 1000, segmentsMax: 4, indirect })
    assert.equal(queue.transferMax, 4000)
    queue.submit(VIRTIO_BLK_T_IN, 0, DATA, 3584)
    queue.kick()
    assert.equal(device.pop(chain), 'chain')
    assert.deepEqual(segments().slice(1, 5), [[DATA, 1000], [DATA + 1000, 1000], [DATA + 2000, 1000], [DATA + 3000, 584]])
    let more = 0
    while (queue.submit(VIRTIO_BLK_T_IN, 0, DATA, 512) !== QUEUE_FULL) more++
    assert.equal(more, indirect === undefined ? 0 : 7)
  })
}

test('a request that no ring could hold is refused', () => {
  const { queue } = setUp({ sizeMax: 512 })
  assert.equal(queue.transferMax, 6 * 512)
  assert.throws(() => queue.submit(VIRTIO_BLK_T_IN, 0, DATA, 7 * 512), RangeError)
  assert.equal(queue.inFlight, 0)
})

test('a device that does not write a status, or breaks the ring, is noticed', () => {
  const { queue, device, chain, memory } = setUp()
  queue.submit(VIRTIO_BLK_T_FLUSH, 0, 0, 0)
  queue.kick()
  device.pop(chain)
  device.push(chain.head, 0)
  device.publish()
  assert.equal(queue.poll(), 0)
  assert.equal(queue.status, STATUS_PENDING)
  memory.storeUint16(layOutRing(0, 8).usedAddress + 2, 100)
  assert.equal(queue.poll(), USED_RING_BROKEN)
  assert.ok(queue.broken)
})

test.run()
