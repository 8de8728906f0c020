import assert from 'node:assert/strict'
import { closeSync, constants, openSync } from 'node:fs'
import { test } from 'uvu'
import { addSeals, ftruncate, memfdCreate } from '../../packages/libc/src/index.ts'
import { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP } from '../../packages/virtio-blk/src/index.ts'
import { hostile, SECTORS } from '../support/hostile.ts'
import { BORDER, HIGH_BYTES, NOWHERE, USER } from '../support/hostile-guest.ts'

const define = hostile()
/** See `fcntl(2)`: no write, and no writable mapping any more. */
const F_SEAL_WRITE = 0x8

function memoryFile (): number {
  const fd = memfdCreate('read-only')
  ftruncate(fd, 0x10000)
  return fd
}

function openedToRead (): number {
  const writable = memoryFile()
  try {
    return openSync(`/proc/self/fd/${writable}`, constants.O_RDONLY)
  } finally {
    closeSync(writable)
  }
}

function sealed (): number {
  const fd = memoryFile()
  addSeals(fd, F_SEAL_WRITE)
  return fd
}

define('memory that the device cannot write, for the used ring or else, is refused: the rings run on in what they have', async ({ connect }) => {
  const { front, queue, regions } = await connect()
  for (const [title, make] of Object.entries({ openedToRead, sealed })) {
    const fd = make()
    const region = { guestAddress: NOWHERE, userAddress: USER + NOWHERE, size: 0x10000, fd }
    await assert.rejects(front.addMemReg(region), { code: 'ERR_VHOST_USER_REFUSED' }, title)
    await assert.rejects(front.setMemTable([...regions, region]), { code: 'ERR_VHOST_USER_REFUSED' }, title)
    closeSync(fd)
    assert.equal((await queue.flush()).status, VIRTIO_BLK_S_OK, title)
  }
})

define('the used length is what was written, never more', async ({ connect }) => {
  const { queue, memory } = await connect()
  const { status, written, data } = await queue.read(SECTORS - 1, 1024)
  assert.deepEqual({ status, written }, { status: VIRTIO_BLK_S_IOERR, written: 1 })
  assert.ok(data.every((byte) => byte === 0xa5), 'nothing was read')
  assert.equal((await queue.read(0, 1024)).written, 1025)
  assert.equal((await queue.write(0, new Uint8Array(512))).written, 1)
  assert.equal((await queue.flush()).written, 1)
  assert.equal((await queue.request(99, 0, { writable: [{ address: BORDER - HIGH_BYTES, length: 4096 }] })).status, VIRTIO_BLK_S_UNSUPP)
  assert.equal(queue.used.at(-1)!.length, 1)
  assert.equal(memory.getUint8(BORDER - HIGH_BYTES), 0)
  const id = await queue.getId(4096)
  assert.deepEqual({ status: id.status, written: id.written }, { status: VIRTIO_BLK_S_OK, written: 21 })
  assert.ok(id.id.subarray(20).every((byte) => byte === 0xa5), 'nothing behind the serial number is written')
})

test.run()
