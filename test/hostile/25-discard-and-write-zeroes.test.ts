import assert from 'node:assert/strict'
import { test } from 'uvu'
import {
  VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES
} from '../../packages/virtio-blk/src/index.ts'
import { hostile, SECTORS, sectorPattern } from '../support/hostile.ts'
import { inCase, type HostileQueue } from '../support/hostile-guest.ts'

const define = hostile({ flags: ['--discard-segments=2'] })

const UNMAP = 1
/** The most sectors of one range. */
const RANGE_MAX = 0x200000

interface Range {
  readonly sector: number | bigint
  readonly sectors: number
  readonly flags?: number
}

function encode (ranges: readonly Range[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(16 * ranges.length))
  ranges.forEach(({ sector, sectors, flags = 0 }, index) => {
    view.setBigUint64(16 * index, BigInt(sector), true)
    view.setUint32(16 * index + 8, sectors, true)
    view.setUint32(16 * index + 12, flags, true)
  })
  return new Uint8Array(view.buffer)
}

async function status (queue: HostileQueue, type: number, payload: Uint8Array): Promise<number> {
  const readable = payload.length === 0 ? [] : [{ address: queue.guest.place(payload), length: payload.length }]
  const answer = await queue.request(type, 0, { readable })
  assert.equal(answer.written, 1)
  return answer.status
}

const good: Range = { sector: 100, sectors: 8 }
const refused: Readonly<Record<string, readonly [payload: Uint8Array, status: number]>> = {
  'no range': [new Uint8Array(0), VIRTIO_BLK_S_IOERR],
  'a byte less than a range': [encode([good]).subarray(0, 15), VIRTIO_BLK_S_IOERR],
  'a byte more than a range': [Buffer.concat([encode([good]), Buffer.alloc(1)]), VIRTIO_BLK_S_IOERR],
  'more ranges than were said to be possible': [encode([good, good, good]), VIRTIO_BLK_S_UNSUPP],
  'more sectors than were said to be possible': [encode([{ sector: 0, sectors: RANGE_MAX + 1 }]), VIRTIO_BLK_S_IOERR],
  'all sectors that can be said': [encode([{ sector: 0, sectors: 0xffffffff }]), VIRTIO_BLK_S_IOERR],
  'an unknown flag': [encode([{ ...good, flags: 2 }]), VIRTIO_BLK_S_UNSUPP],
  'all flags': [encode([{ ...good, flags: 0xffffffff }]), VIRTIO_BLK_S_UNSUPP],
  'one past the end': [encode([{ sector: SECTORS - 1, sectors: 2 }]), VIRTIO_BLK_S_IOERR],
  'a sector whose offset wraps to 0': [encode([{ sector: 2n ** 55n, sectors: 8 }]), VIRTIO_BLK_S_IOERR],
  'sector plus count wraps': [encode([{ sector: 2n ** 64n - 1n, sectors: 8 }]), VIRTIO_BLK_S_IOERR],
  'a second range past the end: the first is left alone, too': [encode([good, { sector: SECTORS, sectors: 1 }]), VIRTIO_BLK_S_IOERR]
}

define('malformed ranges are refused as a whole, and touch nothing', async ({ connect, sectors }) => {
  const { queue } = await connect()
  const before = sectors(0, SECTORS)
  for (const type of [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES]) {
    for (const [title, [payload, expected]] of Object.entries(refused)) {
      assert.equal(await inCase(title, () => status(queue, type, payload)), expected, `type ${type}, ${title}`)
    }
  }
  assert.equal(await status(queue, VIRTIO_BLK_T_DISCARD, encode([{ ...good, flags: UNMAP }])), VIRTIO_BLK_S_UNSUPP, 'unmap is write zeroes\' flag')
  assert.ok(Buffer.compare(sectors(0, SECTORS), before) === 0, 'the image is as it was')
})

define('what is zeroed reads as zeroes, with and without unmap, and nothing around it', async ({ connect, sectors }) => {
  const { queue } = await connect()
  const base = 512
  await queue.write(base, sectorPattern(base, 64, 1))
  assert.equal(await status(queue, VIRTIO_BLK_T_WRITE_ZEROES, encode([{ sector: base + 3, sectors: 5 }, { sector: base + 16, sectors: 24, flags: UNMAP }])), VIRTIO_BLK_S_OK)
  const expected = sectorPattern(base, 64, 1)
  expected.fill(0, 3 * 512, 8 * 512)
  expected.fill(0, 16 * 512, 40 * 512)
  assert.deepEqual((await queue.read(base, 64 * 512)).data, expected)
  assert.deepEqual(sectors(base, 64), expected)
  assert.equal(await status(queue, VIRTIO_BLK_T_DISCARD, encode([{ sector: base, sectors: 0 }])), VIRTIO_BLK_S_OK, 'nothing to discard is done')
  assert.equal(await status(queue, VIRTIO_BLK_T_DISCARD, encode([{ sector: base + 48, sectors: 8 }])), VIRTIO_BLK_S_OK)
  assert.deepEqual((await queue.read(base, 48 * 512)).data, expected.subarray(0, 48 * 512), 'what stands before a discarded range')
  assert.deepEqual((await queue.read(base + 56, 8 * 512)).data, expected.subarray(56 * 512), 'what stands behind it')
})

test.run()
