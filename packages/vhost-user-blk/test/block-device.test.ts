import { GuestMemory } from '@node-vmm/hostmem'
import { close, eventfd } from '@node-vmm/libc'
import { DataPlane, VIRTIO_BLK_T_GET_ID, CONFIG_WRITEBACK } from '@node-vmm/virtio-blk-dataplane'
import assert from 'node:assert/strict'
import { readSync, writeSync } from 'node:fs'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { BlockDevice } from '../src/index.ts'
import { newImage } from './support/scratch.ts'

// A guest by hand: a ring of 8 at these addresses, and one GET_ID request.
const DESCRIPTORS = 0
const AVAILABLE = 0x1000
const USED = 0x2000
const HEADER = 0x3000
const DATA = 0x4000
const NEXT = 1
const WRITE = 2
const VERSION_1 = 1n << 32n
const RING_PACKED = 1n << 34n

const test = suite('block-device')

function guest (index: number): GuestMemory {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x10000 }])
  close(fd)
  memory.setUint32(HEADER, VIRTIO_BLK_T_GET_ID)
  for (const [number, [address, length, flags]] of [[HEADER, 16, NEXT], [DATA, 21, WRITE]].entries()) {
    memory.setUint32(DESCRIPTORS + 16 * number, address)
    memory.setUint32(DESCRIPTORS + 16 * number + 8, length)
    memory.setUint16(DESCRIPTORS + 16 * number + 12, flags)
    memory.setUint16(DESCRIPTORS + 16 * number + 14, number + 1)
  }
  memory.setUint16(AVAILABLE + 2, index)
  memory.setUint16(USED + 2, index)
  return memory
}

async function signalled (fd: number): Promise<void> {
  await eventually('somebody signals', () => {
    try {
      return readSync(fd, new Uint8Array(8)) === 8
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false
      throw error
    }
  })
}

test('it shows what the data plane offers', async () => {
  const plane = DataPlane.create({ path: newImage(), queues: 3, readOnly: true })
  const device = new BlockDevice(plane)
  assert.equal(device.features, plane.features)
  assert.equal(device.queueCount, 3)
  assert.deepEqual(device.getConfig(), plane.config)
  assert.equal(Buffer.from(device.getConfig()).readBigUInt64LE(0), 2048n)
  await plane.close()
})

test('of the configuration space the mode of the write cache can be written, until the next guest', async () => {
  const plane = DataPlane.create({ path: newImage() })
  const device = new BlockDevice(plane)
  assert.equal(device.getConfig()[CONFIG_WRITEBACK], 1)
  for (const [offset, ...data] of [[0, 1], [CONFIG_WRITEBACK, 2], [CONFIG_WRITEBACK, 0, 0], [CONFIG_WRITEBACK]]) {
    assert.equal(await device.setConfig(offset!, Uint8Array.from(data)), false)
  }
  assert.equal(plane.writeThrough, false)
  assert.equal(await device.setConfig(CONFIG_WRITEBACK, Uint8Array.of(0)), true)
  assert.equal(plane.writeThrough, true)
  assert.equal(device.getConfig()[CONFIG_WRITEBACK], 0)
  await device.reset()
  assert.equal(plane.writeThrough, false)
  await plane.close()
})

test('it keeps a record of what is in flight, for each layout of rings its own', async () => {
  const plane = DataPlane.create({ path: newImage() })
  const device = new BlockDevice(plane)
  // "Inflight I/O tracking": 16 bytes, 16 for each descriptor, in multiples of 64; packed: 32 and 32.
  assert.equal(device.inflightBytes(128, VERSION_1), 16 * 129 + 48)
  assert.equal(device.inflightBytes(128, VERSION_1 | RING_PACKED), 32 * 129 + 32)
  assert.equal(device.logsDirtyPages, true)
  await plane.close()
})

test('a queue starts at the index it is given, serves, and stops with the next', async () => {
  const plane = DataPlane.create({ path: newImage(), serial: 'by hand' })
  const device = new BlockDevice(plane)
  const memory = guest(0xffff)
  const [kickFd, callFd, laterFd] = [eventfd(), eventfd(), eventfd()]
  const setup = {
    memory, size: 8, descriptorAddress: DESCRIPTORS, availableAddress: AVAILABLE, usedAddress: USED, features: VERSION_1, kickFd, callFd
  }
  await device.startQueue(0, { ...setup, base: 0xffff })
  await assert.rejects(async () => device.startQueue(0, { ...setup, base: 0xffff }), { code: 'ERR_STATE' })

  // Entry 7 of the available ring is 0, the head; the index wraps.
  memory.storeUint16(AVAILABLE + 2, 0)
  writeSync(kickFd, BigUint64Array.of(1n))
  await signalled(callFd)
  assert.equal(Buffer.from(memory.read(DATA, 7)).toString(), 'by hand')
  assert.equal(memory.loadUint16(USED + 2), 0)

  await device.setCall(0, laterFd)
  memory.setUint8(DATA, 0)
  memory.storeUint16(AVAILABLE + 2, 1)
  writeSync(kickFd, BigUint64Array.of(1n))
  await signalled(laterFd)
  assert.equal(memory.getUint8(DATA), 'b'.charCodeAt(0))

  assert.equal(await device.stopQueue(0), 1)
  await assert.rejects(device.stopQueue(0), { code: 'ERR_STATE' })
  await plane.close()
  memory.release()
  for (const fd of [kickFd, callFd, laterFd]) close(fd)
})

test('a ring that cannot be one is refused, and the next one is served', async () => {
  const plane = DataPlane.create({ path: newImage() })
  const device = new BlockDevice(plane)
  const memory = guest(0)
  const kickFd = eventfd()
  const setup = { memory, descriptorAddress: DESCRIPTORS, availableAddress: AVAILABLE, usedAddress: USED, base: 0, features: VERSION_1, kickFd }
  await assert.rejects(async () => device.startQueue(0, { ...setup, size: 12 }), { code: 'ERR_RING_SIZE' })
  await assert.rejects(async () => device.startQueue(1, { ...setup, size: 8 }), { code: 'ERR_QUEUE' })
  await device.startQueue(0, { ...setup, size: 8 })
  assert.equal(await device.stopQueue(0), 0)
  await plane.close()
  memory.release()
  close(kickFd)
})

test.run()
