import assert from 'node:assert/strict'
import { truncateSync } from 'node:fs'
import { test } from 'uvu'
import { OFFERED_PROTOCOL_FEATURES, ProtocolFeature } from '../../packages/vhost-user/src/index.ts'
import { SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile, SECTORS, sectorPattern, type Stage } from '../support/hostile.ts'
import type { HostileGuest } from '../support/hostile-guest.ts'
import { Load } from '../support/hostile-load.ts'

const define = hostile()

async function capacity ({ front }: HostileGuest): Promise<number> {
  return Buffer.from(await front.getConfig(0, 8)).readUInt32LE()
}

/** Gives the image so many sectors, and waits until the server says so. */
async function resize ({ image, program }: Stage, sectors: number): Promise<void> {
  const { length } = program.output
  truncateSync(image, sectors * SECTOR_BYTES)
  program.signal('SIGHUP')
  await eventually('the new size is told', () => program.output.slice(length).includes(`the disk has ${sectors * SECTOR_BYTES} bytes now`))
}

define('the disk grows under load: no request notices, the front-end is told, and the new sectors are there', async (stage) => {
  const guest = await stage.connect({ size: 64 })
  const { front, queue } = guest
  let told = 0
  await front.setBackendReqFd(() => { told++ })
  const load = new Load(queue)
  await stage.frozen(() => {
    load.offerAll()
    queue.kick.signal()
    truncateSync(stage.image, 2 * SECTORS * SECTOR_BYTES)
    stage.program.signal('SIGHUP')
  })
  await load.check(stage.sectors)
  await eventually('the front-end is told', () => told === 1)
  assert.equal(await capacity(guest), 2 * SECTORS)
  const bytes = sectorPattern(SECTORS, 8, 4)
  assert.equal((await queue.write(SECTORS, bytes)).status, VIRTIO_BLK_S_OK)
  assert.deepEqual(stage.sectors(SECTORS, 8), bytes)
  await resize(stage, SECTORS)
  await eventually('the front-end is told again', () => told === 2)
  assert.equal((await queue.write(SECTORS, bytes)).status, VIRTIO_BLK_S_IOERR)
})

define('a front-end without BACKEND_REQ finds the new size when it looks', async (stage) => {
  const guest = await stage.connect({ protocolFeatures: OFFERED_PROTOCOL_FEATURES & ~ProtocolFeature.BACKEND_REQ })
  assert.equal(await capacity(guest), SECTORS)
  await resize(stage, SECTORS + 8)
  assert.equal(await capacity(guest), SECTORS + 8)
  assert.equal((await guest.queue.read(SECTORS + 7, SECTOR_BYTES)).status, VIRTIO_BLK_S_OK)
  await resize(stage, SECTORS)
  assert.equal(await capacity(guest), SECTORS)
})

define('sizes that are no disk\'s are not taken over', async (stage) => {
  const guest = await stage.connect()
  for (const bytes of [0, 100, SECTORS * SECTOR_BYTES + 1]) {
    const { length } = stage.program.output
    truncateSync(stage.image, bytes)
    stage.program.signal('SIGHUP')
    await eventually('it is told', () => stage.program.output.slice(length).includes('the disk keeps its size: '))
    assert.equal(await capacity(guest), SECTORS)
    assert.equal((await guest.queue.read(SECTORS - 1, SECTOR_BYTES)).status, VIRTIO_BLK_S_OK)
    await resize(stage, SECTORS)
  }
})

test.run()
