import { deepEqual, equal, ok, throws } from 'node:assert/strict'
import { test } from 'uvu'
import { collectGarbage } from '../../../test/support/collect-garbage.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { ram } from '../src/ram.ts'
import { checkAgainstModel, pattern, read, signal, write } from './support/model.ts'

test('what is written is read, wherever the pieces of memory and of the request end', async () => {
  const disk = ram({ capacity: 3 << 20 })
  await checkAgainstModel(disk, Buffer.alloc(3 << 20), 1, 60)
  equal(disk.capacity, 3 << 20)
  equal(disk.blockSize, 512)
})

test('a disk larger than any array takes no memory before it is written', async () => {
  const capacity = 2 ** 42
  const disk = ram({ capacity, blockSize: 4096 })
  const bytes = pattern(8192, 2)
  await write(disk, capacity - 8192, bytes)
  deepEqual(await read(disk, capacity - 8192, 8192), bytes)
  deepEqual(await read(disk, 2 ** 41, 4096), Buffer.alloc(4096))
})

test('memory is given back where whole pieces of it are discarded', async () => {
  const disk = ram({ capacity: 64 << 20 })
  const before = arrayBytes()
  for (let offset = 0; offset < disk.capacity; offset += 1 << 20) await write(disk, offset, new Uint8Array(512))
  ok(arrayBytes() - before > 48 << 20)
  await disk.discard!(0, disk.capacity, signal)
  // What the collector finds is given back a little later.
  await eventually('the memory is back', () => arrayBytes() - before < 32 << 20)
})

function arrayBytes (): number {
  collectGarbage()
  return process.memoryUsage().arrayBuffers
}

test('a capacity that is no whole number of blocks is refused', () => {
  for (const capacity of [0, -512, 100, 1.5, NaN]) throws(() => ram({ capacity }), { code: 'ERR_DISK_OPTION' })
})

test.run()
