import assert from 'node:assert/strict'
import { truncateSync, writeFileSync } from 'node:fs'
import { test } from 'uvu'
import { native } from '../../packages/libc/src/library.ts'
import { SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile, SECTORS, sectorPattern } from '../support/hostile.ts'

const define = hostile()

const RLIMIT_FSIZE = 1
const UNLIMITED = 2n ** 64n - 1n
const prlimitC = native('int prlimit(int pid, int resource, const uint64_t *wanted, uint64_t *old)')

/** How large the files that a process writes may become: a write across it is short, one behind it fails with EFBIG. See `getrlimit(2)`. */
function limitFileSize (pid: number, bytes: bigint): void {
  assert.equal(prlimitC()(pid, RLIMIT_FSIZE, BigUint64Array.of(bytes, UNLIMITED), null), 0, 'prlimit')
}

define('a read that meets the end of the file is filled up with zeroes', async ({ connect, image, sectors }) => {
  const { queue } = await connect()
  const before = sectors(0, SECTORS)
  // In the middle of a sector, and the server is not told: the disk is as large as it was.
  truncateSync(image, 3000 * SECTOR_BYTES + 100)
  const expected = new Uint8Array(16 * SECTOR_BYTES)
  expected.set(before.subarray(2995 * SECTOR_BYTES, 3000 * SECTOR_BYTES + 100))
  const across = await queue.read(2995, expected.length)
  assert.deepEqual({ status: across.status, written: across.written }, { status: VIRTIO_BLK_S_OK, written: expected.length + 1 })
  assert.ok(Buffer.compare(across.data, expected) === 0)
  const behind = await queue.read(3500, 4096)
  assert.equal(behind.status, VIRTIO_BLK_S_OK)
  assert.ok(behind.data.every((byte) => byte === 0))
  writeFileSync(image, before)
})

define('a write that the kernel takes a part of is continued, and what it does not take is an I/O error', async ({ connect, image, program, sectors }) => {
  const { queue } = await connect()
  const before = sectors(0, SECTORS)
  truncateSync(image, 1024 * SECTOR_BYTES)
  const bytes = sectorPattern(2040, 16, 5)
  limitFileSize(program.pid, BigInt(2048 * SECTOR_BYTES))
  try {
    assert.deepEqual(await queue.write(2040, bytes), { status: VIRTIO_BLK_S_IOERR, written: 1 }, 'across the limit')
    assert.deepEqual(sectors(2040, 16), bytes.subarray(0, 8 * SECTOR_BYTES), 'the part that had room is there')
    assert.deepEqual(await queue.write(2048, bytes), { status: VIRTIO_BLK_S_IOERR, written: 1 }, 'behind the limit')
    assert.deepEqual(await queue.write(2032, bytes), { status: VIRTIO_BLK_S_OK, written: 1 }, 'up to the limit')
  } finally {
    limitFileSize(program.pid, UNLIMITED)
  }
  assert.deepEqual(await queue.write(2040, bytes), { status: VIRTIO_BLK_S_OK, written: 1 }, 'once there is room')
  assert.deepEqual(sectors(2040, 16), bytes)
  writeFileSync(image, before)
})

test.run()
