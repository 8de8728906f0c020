import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { mmap, munmap, viewMemory } from '../../packages/libc/src/index.ts'
import { BlockDriver, SECTOR_BYTES } from '../../packages/virtio-blk-driver/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { blankImage } from '../support/image.ts'
import type { Running } from '../support/processes.ts'
import { type Engine, startOurs, stop } from '../support/server.ts'
import { MEMORY_FOLDER, temporaryFolder } from '../support/temporary.ts'

const define = hostile()

const SECTORS = 2048
const WRITERS = 8
const KILLS = 2

/** A disk whose server comes and goes; what is in flight is never lost from the driver's sight. */
async function withMortalServer (engine: Engine, body: (socket: string, kill: () => Promise<void>) => Promise<void>): Promise<void> {
  const [socket, image] = [join(temporaryFolder(), 'mortal.sock'), blankImage(SECTORS * SECTOR_BYTES / 1024 / 1024, engine === 'mapped' ? MEMORY_FOLDER : undefined)]
  const start = (): Promise<Running> => startOurs(socket, { image, engine, flags: ['--packed'] })
  let server = await start()
  try {
    await body(socket, async () => {
      server.signal('SIGKILL')
      await server.ended(20)
      server = await start()
    })
    await stop(server, socket)
  } finally {
    await server.kill()
  }
}

/** Writes sectors that nobody else writes, one after the other, and remembers what was acknowledged. */
class Writer {
  readonly #driver: BlockDriver
  readonly #first: number
  readonly #versions: number[] = []
  stopped = false
  writes = 0

  constructor (driver: BlockDriver, index: number) {
    this.#driver = driver
    this.#first = index * (SECTORS / WRITERS)
  }

  async run (): Promise<void> {
    for (let slot = 0; !this.stopped; slot = (slot + 1) % 16) {
      this.#versions[slot] = ++this.writes
      const sector = this.#first + slot * 8
      await this.#driver.write(sector * SECTOR_BYTES, sectorPattern(sector, 8, this.writes))
    }
  }

  async check (): Promise<void> {
    for (const [slot, version] of this.#versions.entries()) {
      const sector = this.#first + slot * 8
      assert.deepEqual(await this.#driver.read(sector * SECTOR_BYTES, 8 * SECTOR_BYTES), sectorPattern(sector, 8, version))
    }
  }
}

define('a server is killed under load, again and again: the next one does what was in flight, and every write is there', async ({ engine, layout }) => {
  await withMortalServer(engine, async (socket, kill) => {
    const driver = await BlockDriver.connect({ socketPath: socket, packed: layout === 'packed', queueSize: 32, memoryBytes: 1 << 20, reconnect: { delay: 5, attempts: 4000 } })
    const writers = Array.from({ length: WRITERS }, (_, index) => new Writer(driver, index))
    const running = Promise.all(writers.map((writer) => writer.run()))
    for (let kills = 0; kills < KILLS; kills++) {
      const before = writers.map(({ writes }) => writes)
      await eventually('all write', () => writers.every(({ writes }, index) => writes > before[index]! + 3))
      await kill()
    }
    for (const writer of writers) writer.stopped = true
    await running
    for (const writer of writers) await writer.check()
    await driver.close()
  })
})

// "Inflight I/O tracking", struct QueueRegionSplit: a header of 16 bytes, then 16 bytes for each descriptor.
const VERSION_AT = 8
const SIZE_AT = 10
const USED_AT = 14

define('the record of a server that was killed: what it had taken is done once each, in the order of its counters', async ({ open }) => {
  const guest = await open()
  const { front, queue } = guest
  const inflight = (await front.getInflightFd(1, 16))!
  const address = mmap({ fd: inflight.fd, length: inflight.size })
  try {
    const record = new DataView(viewMemory(address, inflight.size))
    const statuses = Array.from({ length: 16 }, (_, head) => {
      const chain = queue.goodChain()
      queue.offer([queue.table(chain)], head)
      return chain[2].address
    })
    // It had taken 12 of the 16, and given 4 back.
    const order = [9, 3, 11, 4, 8, 5, 10, 7]
    record.setUint16(VERSION_AT, 1, true)
    record.setUint16(SIZE_AT, 16, true)
    record.setUint16(USED_AT, 4, true)
    order.forEach((head, index) => {
      record.setUint8(16 + 16 * head, 1)
      record.setBigUint64(16 + 16 * head + 8, BigInt(100 + index), true)
    })
    queue.split.usedIndex(4)
    await front.setInflightFd(inflight)
    await front.setMemTable(guest.regions)
    await queue.start(4)
    const used = (await queue.answers(12)).map(({ id }) => id)
    assert.deepEqual(used, [...order, 12, 13, 14, 15], 'those it had taken, then the next ones')
    for (const head of used) assert.equal(guest.memory.getUint8(statuses[head]!), 0)
    assert.equal(await front.getVringBase(0), 16)
    for (let head = 0; head < 16; head++) assert.equal(record.getUint8(16 + 16 * head), 0, `head ${head} is not in flight any more`)
  } finally {
    munmap(address, inflight.size)
    closeSync(inflight.fd)
  }
}, ['split'])

test.run()
