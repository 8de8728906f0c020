import assert from 'node:assert/strict'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { listen } from '@node-vmm/vhost-user'
import { test } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { temporaryFolder } from '../../../test/support/temporary.ts'
import {
  BlockDriver, type ConnectOptions, hasFeature, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED
} from '../src/index.ts'
import { MemoryDisk, type MemoryDiskOptions } from './support/memory-disk.ts'
import { daemonTest, StorageDaemon } from './support/storage-daemon.ts'

const path = join(temporaryFolder(), 'socket')
const SECTORS = 4096

async function withDriver (disk: MemoryDisk, options: Partial<ConnectOptions>, body: (driver: BlockDriver) => Promise<void>): Promise<void> {
  const listener = listen({ path, device: disk })
  try {
    const driver = await BlockDriver.connect({ socketPath: path, ...options })
    try {
      await body(driver)
    } finally {
      await driver.close({ timeout: 100 })
    }
  } finally {
    await listener.close()
  }
}

for (const packed of [false, true]) {
  for (const inOrder of [false, true]) {
    for (const [name, without] of Object.entries({
      'all features': [], 'no indirect tables': [VIRTIO_F_INDIRECT_DESC], 'no event indices': [VIRTIO_F_EVENT_IDX]
    })) {
      test(`reads and writes: ${packed ? 'packed' : 'split'} rings${inOrder ? ', in order' : ''}, ${name}`, async () => {
        const bytes = new Uint8Array(SECTORS * 512)
        const disk = new MemoryDisk({ bytes, without })
        // Rings that are soon at their end, of a size that only packed ones can have.
        await withDriver(disk, { packed, inOrder, queues: 2, queueSize: packed ? 13 : 16 }, async (driver) => {
          assert.equal(hasFeature(driver.features, VIRTIO_F_RING_PACKED), packed)
          assert.equal(hasFeature(driver.features, VIRTIO_F_IN_ORDER), inOrder)
          assert.deepEqual(disk.bases, packed ? [0x80008000, 0x80008000] : [0, 0])
          const sectors = Array.from({ length: 500 }, (_, index) => index)
          await Promise.all(sectors.map((sector) => driver.write(sector * 512, new Uint8Array(512).fill(sector))))
          for (const sector of sectors) assert.ok(bytes.subarray(sector * 512, sector * 512 + 512).every((byte) => byte === sector % 256), `sector ${sector}`)
          const read = await Promise.all(sectors.map((sector) => driver.read(sector * 512, 512)))
          read.forEach((back, sector) => assert.ok(back.every((byte) => byte === sector % 256), `sector ${sector}`))
          await driver.flush()
          const queue = driver.detachQueue()
          assert.equal(queue.packed, packed)
        })
      })
    }
  }
}

test('a detached queue of a packed ring goes on where the ring stands', async () => {
  await withDriver(new MemoryDisk({ bytes: new Uint8Array(512) }), { packed: true, queueSize: 5 }, async (driver) => {
    for (let count = 0; count < 7; count++) await driver.read(0, 512)
    // One descriptor each, in an indirect table: once round the ring and two more, in the lap of wrap counter 0.
    assert.equal(driver.detachQueue().index, 2)
  })
})

test('what a server does not offer is refused by its name', async () => {
  for (const [option, feature, text] of [
    ['packed', VIRTIO_F_RING_PACKED, /does not offer packed rings .*without `packed`/], ['inOrder', VIRTIO_F_IN_ORDER, /does not offer requests in order/]
  ] as const) {
    const listener = listen({ path, device: new MemoryDisk({ bytes: new Uint8Array(512), without: [feature] }) })
    await assert.rejects(BlockDriver.connect({ socketPath: path, [option]: true }), { code: 'ERR_BLOCK_NEGOTIATION', message: text })
    await listener.close()
  }
})

test('the size of a split ring is a power of two, that of a packed one any', async () => {
  const disk = new MemoryDisk({ bytes: new Uint8Array(512) })
  for (const queueSize of [4, 100]) {
    await withDriver(disk, { packed: true, queueSize }, async (driver) => assert.equal((await driver.read(0, 512)).length, 512))
  }
  for (const options of [{ queueSize: 100 }, { packed: true, queueSize: 40_000 }, { packed: true, queueSize: 3 }]) {
    await assert.rejects(withDriver(disk, options, async () => {}), RangeError)
  }
})

daemonTest('QEMU\'s server has no packed rings, and says so', async () => {
  const daemon = await StorageDaemon.start({ disk: 1 << 20 })
  try {
    await assert.rejects(BlockDriver.connect({ socketPath: daemon.socketPath, packed: true }), { code: 'ERR_BLOCK_NEGOTIATION' })
  } finally {
    await daemon.kill()
  }
})

/** Has one server after the other on the same path: each goes, its queues as they are, when `next` is called. */
async function withServers (options: Partial<ConnectOptions>, disks: MemoryDiskOptions[],
  body: (driver: BlockDriver, next: () => Promise<MemoryDisk>, first: MemoryDisk) => Promise<void>): Promise<void> {
  const makeDisk = (): MemoryDisk => new MemoryDisk(disks.shift()!)
  const first = makeDisk()
  let listener = listen({ path, device: first })
  try {
    const driver = await BlockDriver.connect({ socketPath: path, reconnect: { delay: 10 }, ...options })
    try {
      await body(driver, async () => {
        await listener.close()
        const disk = makeDisk()
        listener = listen({ path, device: disk })
        return disk
      }, first)
    } finally {
      await driver.close({ timeout: 100 })
    }
  } finally {
    await listener.close()
  }
}

for (const inOrder of [false, true]) {
  test(`what a server leaves in flight, the next one does: nobody notices${inOrder ? ' (in order)' : ''}`, async () => {
    const bytes = new Uint8Array(SECTORS * 512)
    const disks = [{ bytes, keepsRecords: true, doneAtMost: 10 }, { bytes, keepsRecords: true, doneAtMost: 7 }, { bytes, keepsRecords: true }]
    await withServers({ queueSize: 16, inOrder }, disks, async (driver, next, first) => {
      const ended: number[] = []
      const calls = Array.from({ length: 40 }, async (_, index) => {
        await driver.write(index * 512, new Uint8Array(512).fill(index + 1))
        ended.push(index)
      })
      // 10 are done and 16 more are taken: the ring has no room for the others.
      await eventually('26 are taken', () => first.taken.length === 26)
      const second = await next()
      // The 16 again, and as many as are done of them, anew.
      await eventually('the next server takes them', () => second.taken.length === 16 + 7)
      assert.equal(second.bases[0], 10)
      const endedBefore = ended.length
      await next()
      await Promise.all(calls)
      assert.ok(endedBefore <= 17 && ended.length === 40)
      for (let index = 0; index < 40; index++) assert.equal(bytes[index * 512], index + 1)
      assert.equal((await driver.read(0, 512))[0], 1)
    })
  })
}

test('what is asked for while no server is there is done by the next one', async () => {
  const bytes = new Uint8Array(SECTORS * 512)
  const listener = listen({ path, device: new MemoryDisk({ bytes, keepsRecords: true }) })
  const driver = await BlockDriver.connect({ socketPath: path, queues: 2, reconnect: { delay: 10 } })
  assert.equal((await driver.read(0, 512)).length, 512)
  await listener.close()
  const calls = Promise.all(Array.from({ length: 20 }, (_, index) => driver.write(index * 512, new Uint8Array(512).fill(9))))
  const config = driver.refreshConfig()
  await sleep(50)
  const disk = new MemoryDisk({ bytes: bytes.subarray(0, 100 * 512), keepsRecords: true })
  const other = listen({ path, device: disk })
  await calls
  assert.equal(bytes[19 * 512], 9)
  assert.equal((await config).capacity, 100 * 512, 'the new disk\'s')
  assert.deepEqual([...new Set(disk.taken)], [VIRTIO_BLK_T_OUT])
  await driver.close()
  await other.close()
})

for (const packed of [false, true]) {
  test(`without a record what was in flight fails, and the driver goes on: ${packed ? 'packed' : 'split'}`, async () => {
    const bytes = new Uint8Array(SECTORS * 512)
    await withServers({ packed, queueSize: 16 }, [{ bytes, doneAtMost: 5 }, { bytes }], async (driver, next, first) => {
      const calls = Promise.allSettled(Array.from({ length: 30 }, () => driver.read(0, 512)))
      await eventually('21 are taken', () => first.taken.length === 21)
      const second = await next()
      const ends = await calls
      assert.deepEqual(ends.slice(0, 5).map(({ status }) => status), new Array(5).fill('fulfilled'))
      const failed = ends.filter((end) => end.status === 'rejected')
      assert.equal(failed.length, 16)
      for (const { reason } of failed) assert.equal(reason.code, 'ERR_BLOCK_DISCONNECTED')
      assert.equal(second.taken.length, 9, 'those that waited for room')
      assert.deepEqual(second.bases, [packed ? 0x80008000 : 0])
      assert.equal((await driver.read(0, 512)).length, 512)
    })
  })
}

test('when no server comes, it ends', async () => {
  const listener = listen({ path, device: new MemoryDisk({ bytes: new Uint8Array(512), doneAtMost: 0 }) })
  const driver = await BlockDriver.connect({ socketPath: path, reconnect: { attempts: 3, delay: 10 } })
  const call = assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_DISCONNECTED', message: /3 attempts/ })
  await listener.close()
  await call
  await assert.rejects(driver.flush(), { code: 'ERR_BLOCK_DISCONNECTED' })
  await driver.close()
})

test('a server that is another kind of disk is no substitute', async () => {
  const bytes = new Uint8Array(512)
  await withServers({}, [{ bytes, doneAtMost: 0 }, { bytes, without: [VIRTIO_F_EVENT_IDX] }], async (driver, next) => {
    const call = assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_NEGOTIATION' })
    await next()
    await call
  })
})

test('a driver with a detached queue ends with its server', async () => {
  const bytes = new Uint8Array(512)
  await withServers({ queues: 2 }, [{ bytes, doneAtMost: 0 }, { bytes }], async (driver, next) => {
    driver.detachQueue()
    const call = assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_DISCONNECTED', message: /detached/ })
    await next()
    await call
  })
})

test('closing while no server is there neither waits for one nor leaves anything', async () => {
  const listener = listen({ path, device: new MemoryDisk({ bytes: new Uint8Array(512), doneAtMost: 0 }) })
  const driver = await BlockDriver.connect({ socketPath: path, reconnect: { delay: 60_000 } })
  const call = assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_CLOSED' })
  await listener.close()
  await sleep(20)
  const before = Date.now()
  await driver.close({ timeout: 20 })
  await call
  assert.ok(Date.now() - before < 30_000, 'the next attempt is a minute away')
})

test('a signal ends the wait for a configuration', async () => {
  const listener = listen({ path, device: new MemoryDisk({ bytes: new Uint8Array(512) }) })
  const driver = await BlockDriver.connect({ socketPath: path, reconnect: { delay: 60_000 } })
  await assert.rejects(driver.refreshConfig({ signal: AbortSignal.abort(new Error('before')) }), /before/)
  assert.equal((await driver.refreshConfig({ signal: new AbortController().signal })).capacity, 512)
  const abort = new AbortController()
  await listener.close()
  // Before it is known that the server went away, a call may fail with that.
  let isWaiting = false
  while (!isWaiting) {
    const attempt = new AbortController()
    const timer = setTimeout(() => attempt.abort(new Error('long enough')), 50)
    await driver.refreshConfig({ signal: attempt.signal }).catch((error: Error) => { isWaiting = error.message === 'long enough' })
    clearTimeout(timer)
  }
  const waiting = assert.rejects(driver.refreshConfig({ signal: abort.signal }), /during/)
  abort.abort(new Error('during'))
  await waiting
  await driver.close()
})

test('a signal ends the wait for rings that do not stop', async () => {
  const disk = new MemoryDisk({ bytes: new Uint8Array(512) })
  let letGo = (): void => {}
  const stopped = new Promise<void>((resolve) => { letGo = resolve })
  let stops = 0
  const stopQueue = disk.stopQueue.bind(disk)
  disk.stopQueue = async (index) => {
    stops++
    await stopped
    return await stopQueue(index)
  }
  const listener = listen({ path, device: disk })
  const driver = await BlockDriver.connect({ socketPath: path, timeout: 60_000 })
  const abort = new AbortController()
  const closed = assert.rejects(driver.close({ signal: abort.signal }), /no longer/)
  await eventually('the server is asked to stop', () => stops === 1)
  abort.abort(new Error('no longer'))
  await closed
  letGo()
  await listener.close()
})

test('a record is kept only for who would use it', async () => {
  const disk = new MemoryDisk({ bytes: new Uint8Array(512), keepsRecords: true })
  const messages: string[] = []
  const listener = listen({ path, device: disk, onMessage: (_direction, name) => messages.push(name) })
  for (const options of [{}, { reconnect: {} }]) {
    const driver = await BlockDriver.connect({ socketPath: path, ...options })
    await driver.read(0, 512)
    await driver.close()
  }
  await listener.close()
  assert.equal(messages.filter((name) => name === 'SET_INFLIGHT_FD').length, 2, 'the request and its acknowledgement, of one of two')
  assert.deepEqual(disk.taken, [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_IN])
})

test.run()
