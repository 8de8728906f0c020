import assert from 'node:assert/strict'
import { test } from 'uvu'
import {
  VIRTIO_BLK_F_RO, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_BARRIER, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES
} from '../../packages/virtio-blk/src/index.ts'
import { hostile, SECTORS, SERIAL, sectorPattern } from '../support/hostile.ts'

const define = hostile({ readOnly: true })

for (const [title, features] of [['that the guest knows to be so', 1n << BigInt(VIRTIO_BLK_F_RO)], ['whose guest did not look', 0n]] as const) {
  define(`a read-only disk ${title}: what would write fails, reads, FLUSH and GET_ID work`, async ({ connect, sectors }) => {
    const guest = await connect({ features })
    const { queue } = guest
    const failed = { status: VIRTIO_BLK_S_IOERR, written: 1 }
    assert.deepEqual(await queue.write(3, new Uint8Array(4096)), failed)
    assert.deepEqual(await queue.write(3, new Uint8Array(0)), failed)
    const data = { address: guest.place(new Uint8Array(512)), length: 512 }
    assert.deepEqual(await queue.request(VIRTIO_BLK_T_OUT + VIRTIO_BLK_T_BARRIER, 3, { readable: [data] }), failed)
    const range = Buffer.alloc(16)
    range.writeUInt32LE(8, 8)
    const readable = [{ address: guest.place(range), length: 16 }]
    for (const type of [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES]) {
      const { status, written } = await queue.request(type, 0, { readable })
      assert.ok(status === VIRTIO_BLK_S_IOERR || status === VIRTIO_BLK_S_UNSUPP, `status ${status}`)
      assert.equal(written, 1)
    }
    assert.deepEqual(await queue.flush(), { status: VIRTIO_BLK_S_OK, written: 1 })
    assert.equal(Buffer.from((await queue.getId()).id).toString('latin1').replaceAll('\0', ''), SERIAL)
    assert.deepEqual((await queue.read(3, 512)).data, sectorPattern(3, 1))
    assert.ok(Buffer.compare(sectors(0, SECTORS), sectorPattern(0, SECTORS)) === 0, 'the image is as it was')
  })
}

test.run()
