import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { test } from 'uvu'
import { ftruncate, memfdCreate } from '../../packages/libc/src/index.ts'
import { VIRTIO_BLK_S_IOERR } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { type HostileGuest, NO_STATUS, USER } from '../support/hostile-guest.ts'

const define = hostile()

/** Of the memory that is added: nothing of it is ever touched, and takes up space. */
const HALF = 0x80000000
const VAST = 0x10_0000_0000

async function addVastMemory ({ front }: HostileGuest): Promise<void> {
  const fd = memfdCreate('vast')
  ftruncate(fd, HALF)
  await front.addMemReg({ guestAddress: VAST, userAddress: USER + VAST, size: HALF, fd })
  closeSync(fd)
}

define('a chain of 2^32 bytes: the ring is broken', async ({ connect }) => {
  const guest = await connect()
  await addVastMemory(guest)
  const [header, , status] = guest.queue.goodChain()
  const [toRead, toWrite] = [{ address: VAST, length: HALF }, { address: VAST, length: HALF, flags: VIRTQ_DESC_F_WRITE }]
  await guest.queue.breaksByEach({ 'to read': [header, toRead, toRead, status], 'to write': [header, toWrite, toWrite, status] })
})

define('a chain of 2^32 bytes less one is a request that is too long: an I/O error', async ({ connect }) => {
  const guest = await connect()
  await addVastMemory(guest)
  const status = guest.filled(1, NO_STATUS)
  const written = await guest.queue.send([{ address: guest.header(0), length: 16 }],
    [{ address: VAST, length: HALF }, { address: VAST, length: HALF - 18 }, { address: status, length: 1 }])
  assert.equal(written, 1)
  assert.equal(guest.memory.getUint8(status), VIRTIO_BLK_S_IOERR)
})

test.run()
