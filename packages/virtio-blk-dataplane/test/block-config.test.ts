import assert from 'node:assert/strict'
import { test } from 'uvu'
import { CONFIG_BYTES } from '@node-vmm/virtio-blk'
import { blockConfig, blockFeatures, type BlockGeometry } from '../src/block-config.ts'

const disk: BlockGeometry = {
  sectors: 0x123456789a,
  readOnly: false,
  blockSize: 512,
  physicalBlockSize: 4096,
  queues: 1,
  writeback: true,
  discardSegments: 2,
  packed: false,
  inOrder: false
}

const bits = (features: bigint): number[] => Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (features >> BigInt(bit) & 1n) === 1n)
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

// Bits by their numbers in virtio 1.2, 5.2.3 and 6: SEG_MAX 2, RO 5, BLK_SIZE 6, FLUSH 9, TOPOLOGY 10, CONFIG_WCE 11,
// MQ 12, DISCARD 13, WRITE_ZEROES 14, INDIRECT_DESC 28, EVENT_IDX 29, VERSION_1 32, RING_PACKED 34, IN_ORDER 35.
const always = [2, 6, 9, 10, 11, 28, 29, 32]
const cases: readonly (readonly [title: string, change: Partial<BlockGeometry>, more: number[]])[] = [
  ['a disk that may be written', {}, [13, 14]],
  ['one without discard', { discardSegments: 0 }, []],
  ['a read-only disk', { readOnly: true }, [5]],
  ['one with several queues', { queues: 2 }, [12, 13, 14]],
  ['one with write-through', { writeback: false }, [13, 14]],
  ['one with packed rings', { packed: true }, [13, 14, 34]],
  ['one with in-order completion', { inOrder: true }, [13, 14, 35]]
]
for (const [title, change, more] of cases) {
  test(`features: ${title} has the bits ${more}`, () => {
    assert.deepEqual(bits(blockFeatures({ ...disk, ...change })), [...always, ...more].sort((one, other) => one - other))
  })
}

test('every byte of the configuration space', () => {
  const config = blockConfig({ ...disk, queues: 3 })
  assert.equal(config.length, 96)
  assert.equal(CONFIG_BYTES, 96)
  assert.equal(hex(config), [
    '9a78563412000000', // capacity, in sectors
    '00000000', // size_max: not offered
    '7e000000', // seg_max: 126
    '00000000', // geometry: not offered
    '00020000', // blk_size
    '03', // physical_block_exp: 8 blocks
    '00', // alignment_offset
    '0800', // min_io_size, in blocks
    '00000000', // opt_io_size
    '01', // writeback
    '00',
    '0300', // num_queues
    '00002000', // max_discard_sectors: 1 GiB
    '02000000', // max_discard_seg
    '08000000', // discard_sector_alignment, in sectors
    '00002000', // max_write_zeroes_sectors
    '02000000', // max_write_zeroes_seg
    '01', // write_zeroes_may_unmap
    '000000',
    '00'.repeat(36) // secure erase and zones: not offered
  ].join(''))
})

test('what differs from disk to disk', () => {
  const device = new DataView(blockConfig({ ...disk, blockSize: 4096, physicalBlockSize: 4096, writeback: false, discardSegments: 0 }).buffer)
  assert.equal(device.getUint32(20, true), 4096)
  assert.equal(device.getUint8(24), 0)
  assert.equal(device.getUint16(26, true), 1)
  assert.equal(device.getUint8(32), 0)
  // Not offered, but never 0: drivers divide by them.
  assert.deepEqual([36, 40, 44, 48, 52].map((offset) => device.getUint32(offset, true)), [0x200000, 1, 8, 0x200000, 1])
})

test('the largest disk has an exact capacity', () => {
  assert.equal(new DataView(blockConfig({ ...disk, sectors: Number.MAX_SAFE_INTEGER }).buffer).getBigUint64(0, true), 2n ** 53n - 1n)
})

test.run()
