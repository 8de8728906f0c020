import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { BORDER, HIGH, MAIN, MAIN_BYTES, NOWHERE } from '../support/hostile-guest.ts'

const define = hostile()

const outside: Readonly<Record<string, readonly [address: number | bigint, length: number]>> = {
  'whose end wraps to 0': [0xfffffffffffff000n, 0x2000],
  'whose end wraps by a byte': [0xffffffffffffff00n, 0x101],
  'at the last byte of all': [0xffffffffffffffffn, 1],
  'at 2^53, where numbers lose bits': [2n ** 53n, 512],
  'that is good in its low 32 bits only': [BigInt(MAIN) + 2n ** 33n, 512],
  'that is good but for its highest bit': [2n ** 63n + BigInt(MAIN), 512],
  'at 0, where nothing is': [0, 512],
  'between regions': [MAIN + MAIN_BYTES, 512],
  'right before a region': [HIGH - 512, 512],
  'right behind the last region': [NOWHERE, 512],
  'whose last byte is outside': [NOWHERE - 511, 512],
  'of 4 GiB less a byte': [HIGH, 0xffffffff]
}

define('a buffer outside memory: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  const [header, data, status] = queue.goodChain()
  const cases = Object.entries(outside).map(([title, [address, length]], index) => {
    const [toRead, toWrite] = [{ address, length }, { address, length, flags: VIRTQ_DESC_F_WRITE }]
    // In each place of a request by turns.
    const chains = [[header, toRead, status], [header, toWrite, status], [toRead, data, status], [header, data, toWrite]]
    return [title, chains[index % chains.length]!] as const
  })
  await queue.breaksByEach(Object.fromEntries(cases))
})

define('buffers across two regions are served: header, data and status', async ({ connect, sectors }) => {
  const guest = await connect()
  const { queue, memory } = guest
  const bytes = sectorPattern(100, 4, 7)
  memory.write(BORDER - 1000, bytes)
  assert.deepEqual(await queue.request(VIRTIO_BLK_T_OUT, 100, { readable: [{ address: BORDER - 1000, length: bytes.length }] }),
    { status: VIRTIO_BLK_S_OK, written: 1 })
  assert.deepEqual(sectors(100, 4), bytes)

  memory.write(BORDER - 7, memory.read(guest.header(VIRTIO_BLK_T_IN, 100), 16))
  const data = BORDER + 4096
  assert.equal(await queue.send([{ address: BORDER - 7, length: 16 }], [{ address: data, length: bytes.length }, { address: BORDER - 9, length: 1 }]), bytes.length + 1)
  assert.deepEqual(memory.read(data, bytes.length), bytes)
  assert.equal(memory.getUint8(BORDER - 9), VIRTIO_BLK_S_OK)

  // The status is the first byte behind the border.
  memory.write(BORDER, Uint8Array.of(0xff))
  assert.equal(await queue.send([{ address: guest.header(VIRTIO_BLK_T_IN, 100), length: 16 }], [{ address: BORDER - bytes.length, length: bytes.length + 1 }]), bytes.length + 1)
  assert.deepEqual(memory.read(BORDER - bytes.length, bytes.length), bytes)
  assert.equal(memory.getUint8(BORDER), VIRTIO_BLK_S_OK)
})

test.run()
