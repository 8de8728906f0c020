import assert from 'node:assert/strict'
import { truncateSync, writeFileSync } from 'node:fs'
import { test } from 'uvu'
import { SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile, SECTORS, sectorPattern } from '../support/hostile.ts'
import { NO_STATUS } from '../support/hostile-guest.ts'

const define = hostile()

const ranges: readonly (readonly [title: string, sector: number | bigint, length: number, status: number])[] = [
  ['the last sector', SECTORS - 1, 512, VIRTIO_BLK_S_OK],
  ['one past the end', SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR],
  ['at the end', SECTORS, 512, VIRTIO_BLK_S_IOERR],
  ['where sector times 512 wraps to 0', 2n ** 55n, 512, VIRTIO_BLK_S_IOERR],
  ['where sector times 512 wraps to a good one', 2n ** 55n + 1n, 512, VIRTIO_BLK_S_IOERR],
  ['where sector plus count wraps', 2n ** 64n - 1n, 1024, VIRTIO_BLK_S_IOERR],
  ['where sector times 512 is no exact number', 2n ** 53n - 1n, 512, VIRTIO_BLK_S_IOERR],
  ['at a negative offset', 2n ** 54n, 512, VIRTIO_BLK_S_IOERR],
  ['whose low half is 0', 2n ** 32n, 512, VIRTIO_BLK_S_IOERR]
]

define('a read or a write past the end, by whatever arithmetic, is an I/O error, and touches nothing', async ({ connect, sectors }) => {
  const guest = await connect()
  const before = sectors(0, SECTORS)
  for (const [title, sector, length, status] of ranges) {
    const read = await guest.queue.read(sector, length)
    const isOk = status === VIRTIO_BLK_S_OK
    assert.deepEqual({ status: read.status, written: read.written }, { status, written: isOk ? length + 1 : 1 }, title)
    if (isOk) continue
    assert.ok(read.data.every((byte) => byte === 0xa5), title)
    assert.deepEqual(await guest.queue.write(sector, new Uint8Array(length)), { status, written: 1 }, title)
  }
  assert.ok(Buffer.compare(sectors(0, SECTORS), before) === 0, 'the image is as it was')
})

define('the disk shrinks under load: what was sent before is served or refused, what comes after is refused', async ({ connect, frozen, program, image, sectors }) => {
  const guest = await connect({ size: 64 })
  const { queue, front, memory } = guest
  const before = sectors(0, SECTORS)
  const half = SECTORS / 2
  const capacity = async (): Promise<number> => Number(new DataView((await front.getConfig(0, 8)).slice().buffer).getBigUint64(0, true))
  const lines = program.output.length
  const reads: { data: number, status: number }[] = []
  await frozen(() => {
    truncateSync(image, half * SECTOR_BYTES)
    program.signal('SIGHUP')
    for (let index = 0; index < 20; index++) {
      const [data, status] = [guest.filled(4096), guest.filled(1, NO_STATUS)]
      queue.offer([
        { address: guest.header(VIRTIO_BLK_T_IN, half - 4), length: 16 },
        { address: data, length: 4096, flags: VIRTQ_DESC_F_WRITE }, { address: status, length: 1, flags: VIRTQ_DESC_F_WRITE }
      ], index * 3)
      reads.push({ data, status })
    }
    queue.kick.signal()
  })
  await queue.answers(reads.length)
  // Until the size is taken over, what is past the end of the file reads as zeroes.
  const cut = Buffer.concat([before.subarray((half - 4) * SECTOR_BYTES, half * SECTOR_BYTES), Buffer.alloc(4 * SECTOR_BYTES)])
  for (const { data, status } of reads) {
    const wanted = memory.getUint8(status) === VIRTIO_BLK_S_OK ? cut : Buffer.alloc(4096, 0xa5)
    assert.ok([VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR].includes(memory.getUint8(status)))
    assert.ok(wanted.equals(memory.read(data, 4096)))
  }
  await eventually('the new size is told', () => program.output.slice(lines).includes(`the disk has ${half * SECTOR_BYTES} bytes now`))
  assert.equal(await capacity(), half)
  assert.deepEqual((await queue.read(half - 1, SECTOR_BYTES)).data, sectorPattern(half - 1, 1))
  assert.equal((await queue.read(half - 1, 2 * SECTOR_BYTES)).status, VIRTIO_BLK_S_IOERR)
  assert.equal((await queue.write(half, sectorPattern(half, 1))).status, VIRTIO_BLK_S_IOERR)
  assert.equal(sectors(half, 1).length, 0, 'the file is not extended by a write')

  writeFileSync(image, before)
  program.signal('SIGHUP')
  await eventually('the old size is told', () => program.output.slice(lines).includes(`the disk has ${SECTORS * SECTOR_BYTES} bytes now`))
  assert.equal(await capacity(), SECTORS)
  assert.deepEqual((await queue.read(half, SECTOR_BYTES)).data, Uint8Array.from(before.subarray(half * SECTOR_BYTES, (half + 1) * SECTOR_BYTES)))
})

test.run()
