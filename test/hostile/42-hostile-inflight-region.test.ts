import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { test } from 'uvu'
import { ftruncate, memfdCreate, mmap, munmap, viewMemory } from '../../packages/libc/src/index.ts'
import { encodeInflight, FrontEndRequest, type InflightDescription } from '../../packages/vhost-user/src/index.ts'
import { inflightRecordBytes, packedInflightRecordBytes } from '../../packages/vring/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile } from '../support/hostile.ts'
import { inCase, type Layout } from '../support/hostile-guest.ts'

const define = hostile()

const SIZE = 16
const BYTES = { split: inflightRecordBytes(SIZE), packed: packedInflightRecordBytes(SIZE) }
// "Inflight I/O tracking", struct QueueRegionSplit: a header of 16 bytes, then 16 bytes for each descriptor.
const [VERSION, RING_SIZE, BATCH_HEAD, USED_INDEX] = [8, 10, 12, 14]
const entry = (head: number): { flag: number, next: number, counter: number } => ({ flag: 16 + 16 * head, next: 22 + 16 * head, counter: 24 + 16 * head })

// struct QueueRegionPacked: a header of 32 bytes, then 32 bytes for each descriptor.
const [FREE_HEAD, OLD_FREE_HEAD, USED, OLD_USED, USED_WRAP, OLD_USED_WRAP] = [12, 14, 16, 18, 20, 21]
const packedEntry = (index: number): { flag: number, next: number, last: number, count: number, counter: number } => {
  const at = 32 + 32 * index
  return { flag: at, next: at + 2, last: at + 4, count: at + 6, counter: at + 8 }
}

interface Region {
  readonly fd: number
  readonly record: DataView
  readonly description: InflightDescription
  readonly close: () => void
}

/** A file with a region of one record in it. */
function region (layout: Layout): Region {
  const fd = memfdCreate('inflight')
  const size = BYTES[layout]
  ftruncate(fd, size)
  const address = mmap({ fd, length: size })
  const close = (): void => {
    munmap(address, size)
    closeSync(fd)
  }
  return { fd, record: new DataView(viewMemory(address, size)), description: { size, offset: 0, queues: 1, queueSize: SIZE }, close }
}

const wrong: Readonly<Record<string, (size: number) => Partial<InflightDescription>>> = {
  'no queues': () => ({ queues: 0 }),
  'more queues than there are': () => ({ queues: 3 }),
  '65535 queues of 65535': () => ({ queues: 0xffff, queueSize: 0xffff }),
  'rings without descriptors': () => ({ queueSize: 0 }),
  'rings that are too large': () => ({ queueSize: 32769 }),
  'past the end of its file': (size) => ({ size: size + 1 }),
  'behind the end of its file': () => ({ offset: 1 << 20 }),
  'an end that wraps': () => ({ offset: Number.MAX_SAFE_INTEGER - 63 }),
  'a byte too small': (size) => ({ size: size - 1 }),
  'a record too small for its rings': () => ({ queueSize: 2 * SIZE }),
  'a queue too many for its size': () => ({ queues: 2 })
}

define('a region that cannot be is refused, whatever its numbers say', async ({ open, layout }) => {
  const { front, queue, regions } = await open()
  const { fd, description, close } = region(layout)
  for (const [title, part] of Object.entries(wrong)) {
    await inCase(title, () => assert.rejects(front.setInflightFd({ ...description, ...part(description.size), fd }), { code: 'ERR_VHOST_USER_REFUSED' }))
  }
  await assert.rejects(front.setInflightFd({ ...description, fd: queue.kick.fd }), { code: 'ERR_VHOST_USER_REFUSED' }, 'an eventfd')
  for (const payload of [new Uint8Array(24).fill(255), encodeInflight({ ...description, queues: 3 }), new Uint8Array(0)]) {
    assert.deepEqual(await front.ask(FrontEndRequest.GET_INFLIGHT_FD, { payload }), new Uint8Array(24), 'there is no such region')
  }
  close()
  await front.setMemTable(regions)
  await queue.start()
  assert.equal((await queue.getId()).written, 21)
})

define('a ring larger than its record does not run', async ({ open, layout }) => {
  const { front, queue, regions } = await open({ size: 32 })
  const { fd, description, close } = region(layout)
  await front.setInflightFd({ ...description, fd })
  await front.setMemTable(regions)
  await assert.rejects(queue.start(), { code: 'ERR_VHOST_USER_REFUSED' })
  assert.equal(queue.error.count, 1)
  close()
})

/** What a record may say that no device wrote, while the ring has a request that is well. */
type Lies = Readonly<Record<string, (record: DataView) => void>>
const splitRecords: Lies = {
  'a version that there is not': (record) => record.setUint16(VERSION, 2, true),
  'another ring\'s size': (record) => record.setUint16(RING_SIZE, 8, true),
  'a batch that is a loop': (record) => {
    record.setUint16(USED_INDEX, 0xfff0, true)
    record.setUint16(BATCH_HEAD, 3, true)
    record.setUint16(entry(3).next, 4, true)
    record.setUint16(entry(4).next, 3, true)
  },
  'a batch that begins outside': (record) => {
    record.setUint16(USED_INDEX, 0x8000, true)
    record.setUint16(BATCH_HEAD, 0xffff, true)
  },
  'a batch that leads outside': (record) => {
    record.setUint16(USED_INDEX, 0xfff0, true)
    record.setUint16(entry(0).next, 0xffff, true)
  },
  'all in flight, none of them offered': (record) => {
    for (let head = 0; head < SIZE; head++) record.setUint8(entry(head).flag, 1)
  },
  'in flight with the largest counters': (record) => {
    for (let head = 8; head < 12; head++) {
      record.setUint8(entry(head).flag, 1)
      record.setBigUint64(entry(head).counter, 2n ** 64n - 1n, true)
    }
  },
  'flags that are no flags': (record) => {
    for (let head = 0; head < SIZE; head++) record.setUint8(entry(head).flag, 0x80 + head)
  },
  'nothing but ones': (record) => new Uint8Array(record.buffer).fill(255)
}

/** The same of a packed ring: one that would be well, but for that. */
const packedRecords: Lies = {
  'a version that there is not': (record) => record.setUint16(VERSION, 2, true),
  'another ring\'s size': (record) => record.setUint16(RING_SIZE, 8, true),
  'a free list that is a loop': (record) => record.setUint16(packedEntry(SIZE - 1).next, 3, true),
  'a free list that begins outside': (record) => record.setUint16(OLD_FREE_HEAD, 0xffff, true),
  'a free list that leads outside': (record) => record.setUint16(packedEntry(5).next, 0xffff, true),
  'a batch that was shown, and begins outside': (record) => {
    record.setUint16(FREE_HEAD, 0xffff, true)
    record.setUint16(USED, 1, true)
    record.setUint8(OLD_USED_WRAP, 0)
  },
  'used positions outside': (record) => {
    record.setUint16(USED, 0xffff, true)
    record.setUint16(OLD_USED, SIZE, true)
  },
  'wrap counters that do not count': (record) => {
    record.setUint8(USED_WRAP, 2)
    record.setUint8(OLD_USED_WRAP, 255)
  },
  'all in flight, of one chain': (record) => {
    record.setUint16(OLD_FREE_HEAD, SIZE, true)
    record.setUint8(packedEntry(0).flag, 1)
    record.setUint16(packedEntry(0).count, SIZE, true)
    record.setUint16(packedEntry(0).last, SIZE - 1, true)
    record.setBigUint64(packedEntry(0).counter, 2n ** 64n - 1n, true)
  },
  'a chain of more than there are': (record) => {
    record.setUint16(OLD_FREE_HEAD, SIZE, true)
    record.setUint8(packedEntry(0).flag, 1)
    record.setUint16(packedEntry(0).count, 0xffff, true)
  },
  'flags that are no flags': (record) => {
    for (let index = 0; index < SIZE; index++) record.setUint8(packedEntry(index).flag, 0x80 + index)
  },
  'nothing but ones': (record) => new Uint8Array(record.buffer).fill(255)
}

function wellFormed (record: DataView): void {
  for (let index = 0; index < SIZE; index++) record.setUint16(packedEntry(index).next, index + 1, true)
  record.setUint8(USED_WRAP, 1)
  record.setUint8(OLD_USED_WRAP, 1)
}

define('whatever a record says, the ring is broken or served: nothing hangs, nothing outside is touched', async ({ open, layout }) => {
  for (const [title, write] of Object.entries(layout === 'split' ? splitRecords : packedRecords)) {
    const guest = await open()
    const { front, queue } = guest
    const { fd, record, description, close } = region(layout)
    if (layout === 'packed') wellFormed(record)
    record.setUint16(VERSION, 1, true)
    record.setUint16(RING_SIZE, SIZE, true)
    write(record)
    await front.setInflightFd({ ...description, fd })
    await front.setMemTable(guest.regions)
    queue.offer([queue.table(queue.goodChain())])
    const guard = guest.memory.read(guest.allocate(0), 4096)
    await inCase(title, async () => {
      await queue.start()
      await eventually('an answer or a fault', () => queue.collect().length > 0 || queue.error.count > 0)
      await front.getVringBase(0)
    })
    assert.ok(queue.collect().length <= SIZE, title)
    assert.deepEqual(guest.memory.read(guest.allocate(0), 4096), guard, title)
    front.close()
    close()
  }
})

test.run()
