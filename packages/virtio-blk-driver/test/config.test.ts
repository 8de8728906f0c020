import { DRIVER_FEATURES } from '../src/features.ts'
import { VIRTIO_BLK_F_RO } from '@node-vmm/virtio-blk'
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1, featureMask, hasFeature } from '@node-vmm/vring'
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { parseBlockConfig } from '../src/config.ts'

function space (): Uint8Array {
  const bytes = new Uint8Array(60)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, 0x200000001n, true)
  view.setUint32(8, 65536, true)
  view.setUint32(12, 126, true)
  view.setUint32(20, 4096, true)
  view.setUint16(34, 4, true)
  view.setUint32(36, 100, true)
  view.setUint32(48, 200, true)
  return bytes
}

test('the configuration space is read where the specification has its fields', () => {
  assert.deepEqual(parseBlockConfig(space(), DRIVER_FEATURES & ~featureMask(VIRTIO_BLK_F_RO)), {
    capacity: 0x200000001 * 512, blockSize: 4096, readOnly: false, sizeMax: 65536, segmentsMax: 126, queues: 4,
    discardMax: 51200, writeZeroesMax: 102400
  })
})

test('a field without its feature means nothing', () => {
  assert.deepEqual(parseBlockConfig(space(), featureMask(VIRTIO_F_VERSION_1)), {
    capacity: 0x200000001 * 512, blockSize: 512, readOnly: false, sizeMax: 0xffffffff, segmentsMax: 1, queues: 1,
    discardMax: 0, writeZeroesMax: 0
  })
})

test('zeroes where a limit should be are no limit to divide by, and a short space is padded', () => {
  const { sizeMax, segmentsMax, blockSize, readOnly } = parseBlockConfig(new Uint8Array(8), DRIVER_FEATURES)
  assert.deepEqual([sizeMax, segmentsMax, blockSize, readOnly], [0xffffffff, 1, 512, true])
})

test('features are masks of bit numbers', () => {
  assert.equal(featureMask(0, 5, VIRTIO_F_VERSION_1), 0x100000021n)
  assert.equal(hasFeature(DRIVER_FEATURES, VIRTIO_F_EVENT_IDX), true)
  assert.equal(hasFeature(DRIVER_FEATURES, 30), false)
})

test.run()
