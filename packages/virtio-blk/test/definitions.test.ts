import { deepEqual, equal } from 'node:assert/strict'
import { test } from 'uvu'
import * as definitions from '../src/index.ts'

const named = (prefix: string): [string, number][] => Object.entries(definitions).filter(([name]) => name.startsWith(prefix)) as [string, number][]

// linux/virtio_blk.h is the other place where these stand: the values are part of the interface for ever.
test('request types, status values and feature bits are those of the specification', () => {
  deepEqual(Object.fromEntries(named('VIRTIO_BLK_T_')), {
    VIRTIO_BLK_T_IN: 0, VIRTIO_BLK_T_OUT: 1, VIRTIO_BLK_T_FLUSH: 4, VIRTIO_BLK_T_GET_ID: 8, VIRTIO_BLK_T_DISCARD: 11,
    VIRTIO_BLK_T_WRITE_ZEROES: 13, VIRTIO_BLK_T_BARRIER: 0x80000000
  })
  deepEqual(Object.fromEntries(named('VIRTIO_BLK_S_')), { VIRTIO_BLK_S_OK: 0, VIRTIO_BLK_S_IOERR: 1, VIRTIO_BLK_S_UNSUPP: 2 })
  deepEqual(Object.fromEntries(named('VIRTIO_BLK_F_')), {
    VIRTIO_BLK_F_SIZE_MAX: 1, VIRTIO_BLK_F_SEG_MAX: 2, VIRTIO_BLK_F_RO: 5, VIRTIO_BLK_F_BLK_SIZE: 6, VIRTIO_BLK_F_FLUSH: 9,
    VIRTIO_BLK_F_TOPOLOGY: 10, VIRTIO_BLK_F_CONFIG_WCE: 11, VIRTIO_BLK_F_MQ: 12, VIRTIO_BLK_F_DISCARD: 13, VIRTIO_BLK_F_WRITE_ZEROES: 14
  })
})

test('fields of the configuration space do not overlap, and end before its end', () => {
  const offsets = named('CONFIG_').filter(([name]) => name !== 'CONFIG_BYTES').map(([, offset]) => offset)
  equal(new Set(offsets).size, offsets.length)
  equal(Math.max(...offsets) < definitions.CONFIG_BYTES, true)
})

test.run()
