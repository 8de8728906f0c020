import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync, truncateSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import {
  BlockDriver, type ConnectOptions, DRIVER_FEATURES, featureMask, hasFeature, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
  VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
} from '../src/index.ts'
import { blankImage } from '../../../test/support/image.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { quiet } from '../../../test/support/quiet.ts'
import type { QueueWork, QueueWorkDone } from './support/queue-thread.ts'
import { type DaemonOptions, daemonTest, StorageDaemon } from './support/storage-daemon.ts'

const MiB = 1 << 20
const IMAGE_BYTES = 16 * MiB
const image = blankImage(IMAGE_BYTES / MiB)

test.before.each(() => {
  truncateSync(image, 0)
  truncateSync(image, IMAGE_BYTES)
})

async function withDisk (daemonOptions: Partial<DaemonOptions>, options: Partial<ConnectOptions>,
  body: (driver: BlockDriver, daemon: StorageDaemon) => Promise<void>): Promise<void> {
  const daemon = await StorageDaemon.start({ disk: image, ...daemonOptions })
  try {
    const driver = await BlockDriver.connect({ socketPath: daemon.socketPath, ...options })
    try {
      await body(driver, daemon)
    } finally {
      await driver.close({ timeout: 2000 })
    }
  } finally {
    await daemon.kill()
  }
}

/** A sector's worth of bytes that no other place has. */
function pattern (offset: number, length: number, salt = 0): Uint8Array {
  const words = new Uint32Array(length / 4)
  for (let index = 0; index < words.length; index++) words[index] = Math.imul(offset / 4 + index + salt * 7919, 2654435761)
  return new Uint8Array(words.buffer)
}

const without = (...bits: number[]): bigint => DRIVER_FEATURES & ~featureMask(...bits)

for (const [name, features, queues, queueSize] of [
  ['all features, 1 queue', DRIVER_FEATURES, 1, 128],
  ['all features, 2 queues', DRIVER_FEATURES, 2, 128],
  ['no indirect descriptors', without(VIRTIO_F_INDIRECT_DESC), 1, 128],
  ['no event indices', without(VIRTIO_F_EVENT_IDX), 1, 128],
  ['neither, 2 queues', without(VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX), 2, 64],
  ['a tiny ring', without(VIRTIO_F_INDIRECT_DESC), 1, 4]
] as const) {
  daemonTest(`reads, writes and flushes, many in flight: ${name}`, async () => {
    await withDisk({ queues: 2 }, { features, queues, queueSize }, async (driver) => {
      assert.equal(hasFeature(driver.features, VIRTIO_F_INDIRECT_DESC), hasFeature(features, VIRTIO_F_INDIRECT_DESC))
      assert.equal(hasFeature(driver.features, VIRTIO_F_EVENT_IDX), hasFeature(features, VIRTIO_F_EVENT_IDX))
      const pieces = Array.from({ length: 500 }, (_, index) => ({ offset: index * 8192, length: 512 * (1 + index % 16) }))
      await Promise.all(pieces.map(({ offset, length }) => driver.write(offset, pattern(offset, length))))
      await driver.flush()
      const onHost = readFileSync(image)
      for (const { offset, length } of pieces) assert.ok(onHost.subarray(offset, offset + length).equals(pattern(offset, length)), `at ${offset}`)
      const read = await Promise.all(pieces.map(({ offset, length }) => driver.read(offset, length)))
      read.forEach((bytes, index) => assert.ok(Buffer.from(onHost.buffer, onHost.byteOffset + pieces[index]!.offset, bytes.length).equals(bytes)))
      assert.match(await driver.getId(), /vhost/)
    })
  })
}

daemonTest('reads and writes at the same time do not mix, over more rounds than a ring index has', async () => {
  // 2^16 requests on one ring: both indices wrap.
  await withDisk({ disk: IMAGE_BYTES }, { queueSize: 256 }, async (driver) => {
    const target = new Uint8Array(512)
    let left = 66_000
    const worker = async (): Promise<void> => { while (left-- > 0) await driver.read(0, target) }
    await Promise.all(Array.from({ length: 128 }, worker))
  })
  await withDisk({}, {}, async (driver) => {
    const slots = Array.from({ length: 64 }, (_, slot) => slot)
    await Promise.all(slots.map(async (slot) => {
      for (let round = 0; round < 30; round++) {
        await driver.write(slot * 65536, pattern(slot * 65536, 4096 * (1 + round % 4), round))
        const back = await driver.read(slot * 65536, 4096 * (1 + round % 4))
        assert.deepEqual(back, pattern(slot * 65536, back.length, round))
      }
    }))
  })
})

daemonTest('a range larger than one request, and than the memory, goes in pieces', async () => {
  await withDisk({}, { memoryBytes: 2 * MiB }, async (driver) => {
    const bytes = pattern(0, 10 * MiB)
    await driver.write(512, bytes)
    await driver.flush()
    assert.ok(readFileSync(image).subarray(512, 512 + bytes.length).equals(bytes))
    const target = new Uint8Array(10 * MiB)
    assert.equal(await driver.read(512, target), target)
    assert.ok(Buffer.from(target).equals(bytes))
  })
})

daemonTest('guest memory is read and written in place', async () => {
  await withDisk({}, { queues: 1 }, async (driver) => {
    const buffer = driver.allocate(8192)
    assert.equal(buffer.address % 4096, 0)
    buffer.bytes.set(pattern(0, 8192))
    await driver.writeFrom(buffer.address, 4096, 8192)
    assert.ok(readFileSync(image).subarray(4096, 12288).equals(pattern(0, 8192)))
    buffer.bytes.fill(0)
    await driver.readTo(buffer.address + 512, 4096, 4096)
    assert.deepEqual(driver.memory.read(buffer.address + 512, 4096), pattern(0, 4096))
    assert.equal(buffer.bytes[511], 0)
    await assert.rejects(driver.readTo(1, 0, 512), { code: 'ERR_BLOCK_RANGE' })
    buffer.free()
  })
})

daemonTest('discard and write zeroes reach the disk', async () => {
  await withDisk({}, {}, async (driver) => {
    await driver.write(0, new Uint8Array(4 * MiB).fill(0xaa))
    await driver.flush()
    const before = statSync(image).blocks
    await driver.writeZeroes(MiB, MiB)
    await driver.discard(2 * MiB, MiB)
    const onHost = readFileSync(image)
    assert.equal(onHost[MiB - 1], 0xaa)
    assert.ok(onHost.subarray(MiB, 2 * MiB).every((byte) => byte === 0))
    assert.equal(onHost[3 * MiB], 0xaa)
    assert.ok(statSync(image).blocks < before, 'the discarded space was given back')
  })
})

daemonTest('what cannot be is refused before it is sent', async () => {
  await withDisk({}, {}, async (driver) => {
    for (const [offset, length] of [[1, 512], [0, 100], [-512, 512], [IMAGE_BYTES, 512], [IMAGE_BYTES - 512, 1024], [NaN, 512]] as const) {
      await assert.rejects(driver.read(offset, length), { name: 'BlockDriverError', code: 'ERR_BLOCK_RANGE' }, `${length} at ${offset}`)
    }
    await assert.rejects(driver.write(0, new Uint8Array(10)), { code: 'ERR_BLOCK_RANGE' })
    assert.deepEqual(await driver.read(0, 0), new Uint8Array(0))
    assert.equal(driver.config.capacity, IMAGE_BYTES)
    assert.deepEqual(await driver.refreshConfig(), driver.config)
    assert.throws(() => driver.allocate(1 << 30), { code: 'ERR_BLOCK_MEMORY' })
  })
  await withDisk({ writable: false }, {}, async (driver) => {
    assert.equal(driver.config.readOnly, true)
    await assert.rejects(driver.write(0, new Uint8Array(512)), { code: 'ERR_BLOCK_READ_ONLY' })
    assert.equal((await driver.read(0, 512)).length, 512)
  })
})

daemonTest('a request that the disk fails rejects with its status', async () => {
  // Without VIRTIO_BLK_F_RO agreed the driver does not know that it must not write.
  await withDisk({ writable: false }, { features: without(VIRTIO_BLK_F_RO) }, async (driver) => {
    await assert.rejects(driver.write(0, new Uint8Array(512)), { name: 'BlockDriverError', code: 'ERR_BLOCK_IO', status: 1 })
    assert.equal((await driver.read(0, 512)).length, 512, 'the others go on')
  })
})

daemonTest('a server without what is asked for is refused', async () => {
  const daemon = await StorageDaemon.start({ disk: image, queues: 1 })
  const { socketPath } = daemon
  try {
    await assert.rejects(BlockDriver.connect({ socketPath, queues: 2 }), { code: 'ERR_BLOCK_NEGOTIATION' })
    await assert.rejects(BlockDriver.connect({ socketPath, queueSize: 2 }), RangeError)
    await assert.rejects(BlockDriver.connect({ socketPath, queueSize: 100 }), RangeError)
    await assert.rejects(BlockDriver.connect({ socketPath, signal: AbortSignal.abort(new Error('no time')) }), /no time/)
    await assert.rejects(BlockDriver.connect({ socketPath: `${image}.nobody` }), { code: 'ENOENT' })
    const driver = await BlockDriver.connect({ socketPath, features: without(VIRTIO_BLK_F_MQ) })
    assert.equal(driver.config.queues, 1)
    await driver.close()
  } finally {
    await daemon.kill()
  }
})

daemonTest('a server that does not answer is given up when the signal says so', async () => {
  await withDisk({}, {}, async (driver, daemon) => {
    const target = new Uint8Array(512)
    await daemon.freeze()
    const slow = driver.read(0, target)
    await assert.rejects(driver.write(4096, pattern(0, 512), { signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
    await assert.rejects(driver.read(0, 512, { signal: AbortSignal.abort(new Error('changed my mind')) }), /changed my mind/)
    daemon.thaw()
    assert.equal(await slow, target)
    // The request that was given up went on by itself, and its memory came back.
    await driver.flush()
    assert.ok(readFileSync(image).subarray(4096, 4608).equals(pattern(0, 512)))
    const all = driver.allocate(64 * MiB)
    all.free()
  })
  const daemon = await StorageDaemon.start({ disk: image })
  await daemon.freeze()
  await assert.rejects(BlockDriver.connect({ socketPath: daemon.socketPath, timeout: 100 }), { code: 'ERR_VHOST_USER_TIMEOUT' })
  await assert.rejects(BlockDriver.connect({ socketPath: daemon.socketPath, signal: AbortSignal.timeout(100) }), { name: 'TimeoutError' })
  await daemon.kill()
})

daemonTest('a server that dies rejects what is in flight, what waits and what comes', async () => {
  await withDisk({}, { queueSize: 4 }, async (driver, daemon) => {
    assert.equal((await driver.read(0, 512)).length, 512)
    await daemon.freeze()
    const calls = Array.from({ length: 20 }, () => driver.read(0, 512))
    const ends = Promise.allSettled(calls)
    await daemon.kill()
    for (const end of await ends) {
      assert.equal(end.status, 'rejected')
      assert.equal((end as PromiseRejectedResult).reason.code, 'ERR_BLOCK_DISCONNECTED')
    }
    await assert.rejects(driver.flush(), { code: 'ERR_BLOCK_DISCONNECTED' })
    // A hung-up socket must not have it spin.
    await quiet()
  })
})

daemonTest('closing waits for what is in flight, then refuses; a server that hangs does not hold it', async () => {
  await withDisk({}, { queueSize: 4 }, async (driver) => {
    const calls = Array.from({ length: 50 }, (_, index) => driver.write(index * 512, pattern(index * 512, 512)))
    await Promise.all([driver.close({ timeout: 60_000 }), driver.close(), ...calls])
    assert.ok(readFileSync(image).subarray(0, 50 * 512).equals(pattern(0, 50 * 512)))
    await assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_CLOSED' })
    assert.throws(() => driver.allocate(1), { code: 'ERR_BLOCK_CLOSED' })
  })
  // To stop the rings is asked for in vain, for so long; to connect must not take as long.
  await withDisk({}, { timeout: 3000 }, async (driver, daemon) => {
    await daemon.freeze()
    const call = assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_CLOSED' })
    await driver.close({ timeout: 50 })
    await call
  })
})

daemonTest('many connections leave no descriptor and no mapping behind', async () => {
  const daemon = await StorageDaemon.start({ disk: image, queues: 2 })
  const count = (): [number, number] => [
    readdirSync('/proc/self/fd').length,
    readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => line.includes('guest-memory')).length]
  try {
    const once = async (): Promise<void> => {
      const driver = await BlockDriver.connect({ socketPath: daemon.socketPath, queues: 2 })
      await driver.write(0, pattern(0, 512))
      await driver[Symbol.asyncDispose]()
    }
    await once()
    const before = count()
    for (let round = 0; round < 20; round++) await once()
    await eventually('all is given back', () => String(count()) === String(before))
  } finally {
    await daemon.kill()
  }
})

daemonTest('memory that is held elsewhere is waited for, and missed when it cannot come', async () => {
  await withDisk({}, { memoryBytes: 8192 }, async (driver) => {
    await Promise.all(Array.from({ length: 20 }, (_, index) => driver.read(index * 4096, 4096)))
    const held = driver.allocate(8192)
    await assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_MEMORY' })
    await driver.flush()
    held.free()
    held.free()
    assert.equal((await driver.read(0, 8192)).length, 8192)
  })
})

daemonTest('a detached queue is driven by another thread, polling and blocking', async () => {
  await withDisk({ queues: 2 }, { queues: 2 }, async (driver) => {
    await Promise.all(Array.from({ length: 10 }, (_, index) => driver.write(index * 4096, pattern(index * 4096, 4096))))
    const queue = driver.detachQueue()
    assert.equal(queue.index, 5, 'two queues shared the writes')
    const buffer = driver.allocate(32 * 4096)
    const work: QueueWork = { queue, address: buffer.address, count: 2000, enough: 2000 * 4 }
    const worker = new Worker(new URL('./support/queue-thread.ts', import.meta.url), { workerData: work })
    const [{ good, rounds, blocked, grown }] = await once(worker, 'message') as [QueueWorkDone]
    assert.equal(good, rounds)
    assert.equal(blocked, work.count)
    assert.ok(grown <= work.enough, `${grown} bytes of heap for ${work.count} requests: the hot path allocates`)
    assert.deepEqual(buffer.bytes.subarray(0, 4096), pattern(0, 4096))
    assert.equal((await driver.read(0, 512)).length, 512, 'the other queue is the driver\'s')
    driver.detachQueue()
    await assert.rejects(driver.read(0, 512), { code: 'ERR_BLOCK_NO_QUEUE' })
  })
})

test.run()
