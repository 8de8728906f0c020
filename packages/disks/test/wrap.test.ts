import { deepEqual, equal } from 'node:assert/strict'
import { test } from 'uvu'
import type { Disk } from '@node-vmm/virtio-blk-dataplane'
import { ram } from '../src/ram.ts'
import { type DiskRequest, wrap } from '../src/wrap.ts'
import { pattern, read, signal, write } from './support/model.ts'

test('every request goes through it, and says what it is', async () => {
  const seen: Omit<DiskRequest, 'signal'>[] = []
  const disk = wrap(ram({ capacity: 8192 }), ({ signal: _, ...request }, pass) => {
    seen.push(request)
    return pass()
  })
  await write(disk, 512, pattern(1024, 1))
  deepEqual(await read(disk, 512, 1024), pattern(1024, 1))
  await disk.flush!(signal)
  await disk.discard!(512, 512, signal)
  await disk.writeZeroes!(1024, 512, true, signal)
  deepEqual(await read(disk, 512, 1024), Buffer.alloc(1024))
  deepEqual(seen.map(({ operation, offset, length }) => [operation, offset, length]), [
    ['write', 512, 1024], ['read', 512, 1024], ['flush', 0, 0], ['discard', 512, 512], ['writeZeroes', 1024, 512], ['read', 512, 1024]
  ])
})

test('it can do what the disk below can, which may grow, and is closed with it', async () => {
  let closed = 0
  let capacity = 512
  const below: Disk = { get capacity () { return capacity }, blockSize: 512, readOnly: true, read () {}, close: () => { closed++ } }
  const disk = wrap(below, (_request, pass) => pass())
  deepEqual([disk.capacity, disk.readOnly, disk.write, disk.flush, disk.discard, disk.writeZeroes], [512, true, undefined, undefined, undefined, undefined])
  capacity = 1024
  equal(disk.capacity, 1024)
  await disk.close!()
  equal(closed, 1)
})

test('a part of a request can be passed', async () => {
  const below = ram({ capacity: 4096 })
  const disk = wrap(below, (_request, pass) => pass(512))
  await disk.write!(0, [pattern(300, 1), pattern(724, 2)], signal)
  deepEqual(await read(below, 0, 1024), Buffer.concat([pattern(300, 1), pattern(724, 2).subarray(0, 212), Buffer.alloc(512)]))
})

test.run()
