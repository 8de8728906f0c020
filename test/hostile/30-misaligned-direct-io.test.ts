import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../packages/virtio-blk/src/index.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { directRefused } from '../support/image.ts'
import { skip } from '../support/programs.ts'

const refused = directRefused()

if (refused !== undefined) {
  skip('direct I/O', refused)
} else {
  const define = hostile({ direct: true, onDisk: true })

  define('buffers, lengths and offsets that direct I/O cannot take go another way, with the right bytes', async ({ connect, sectors }) => {
    const guest = await connect({ size: 64 })
    const { queue, memory } = guest
    const free = guest.allocate(0)
    for (const shift of [0, 4, 511, 512, 4095]) {
      for (const [sector, count] of [[8, 8], [9, 1], [15, 3], [16, 64]] as const) {
        const length = count * 512
        const place = (): number => Math.ceil(guest.allocate(length + 8192) / 4096) * 4096 + shift
        const [source, target] = [place(), place()]
        const bytes = sectorPattern(sector, count, shift + count)
        memory.write(source, bytes)
        memory.write(target - 4, new Uint8Array(length + 8).fill(0xa5))
        const title = `${count} sectors at ${sector}, memory at + ${shift}`
        assert.deepEqual(await queue.request(VIRTIO_BLK_T_OUT, sector, { readable: [{ address: source, length }] }), { status: VIRTIO_BLK_S_OK, written: 1 }, title)
        assert.deepEqual(sectors(sector, count), bytes, title)
        assert.deepEqual(await queue.request(VIRTIO_BLK_T_IN, sector, { writable: [{ address: target, length: 100 }, { address: target + 100, length: length - 100 }] }),
          { status: VIRTIO_BLK_S_OK, written: length + 1 }, title)
        assert.deepEqual(memory.read(target, length), bytes, title)
        for (const guard of [target - 4, target + length]) assert.deepEqual(memory.read(guard, 4), new Uint8Array(4).fill(0xa5), title)
        guest.rewind(free)
      }
    }
  })

  define('direct and page-cache writes of neighbours in the same block, all at once, all arrive', async ({ connect, sectors, frozen }) => {
    const guest = await connect({ size: 64 })
    const { queue } = guest
    const bytes = sectorPattern(64, 16, 9)
    const before = queue.collect().length
    await frozen(() => {
      for (let sector = 0; sector < 16; sector++) {
        // Every other one at an address that direct I/O cannot take.
        const address = guest.allocate(1024) + (sector % 2) * 4
        guest.memory.write(address, bytes.subarray(sector * 512, (sector + 1) * 512))
        const [, , status] = queue.goodChain()
        queue.offer([{ address: guest.header(VIRTIO_BLK_T_OUT, 64 + sector), length: 16 }, { address, length: 512 }, status], sector * 3)
      }
      queue.kick.signal()
    })
    assert.ok((await queue.answers(before + 16)).every(({ length }) => length === 1))
    assert.deepEqual(sectors(64, 16), bytes)
  })
}

test.run()
