import type { Disk, DiskModule } from '@node-vmm/virtio-blk-dataplane'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { serve, type Server } from '../src/index.ts'
import { newPath } from './support/scratch.ts'
import { memoryDisk } from './support/memory-disk.ts'

const test = suite('custom disk')
const servers: Server[] = []

test.after.each(async () => {
  for (const server of servers.splice(0)) await server.close().catch(() => {})
})

async function start (disk: Disk | DiskModule, stopTimeout?: number): Promise<{ server: Server, socketPath: string, lines: string[] }> {
  const socketPath = newPath()
  const lines: string[] = []
  const server = await serve({ disk, socketPath, log: (line) => lines.push(line), ...(stopTimeout !== undefined && { stopTimeout }) })
  servers.push(server)
  return { server, socketPath, lines }
}

const module: DiskModule = { module: new URL('./support/memory-disk.ts', import.meta.url), options: 1 << 20 }

for (const [place, disk] of [['this thread', () => memoryDisk(1 << 20)], ['the data-plane thread', () => module]] as const) {
  test(`a disk of one's own on ${place} keeps what a driver writes, one front-end after the other`, async () => {
    const { server, socketPath } = await start(disk())
    const bytes = Uint8Array.from({ length: 8192 }, (_, index) => index * 7)
    const first = await BlockDriver.connect({ socketPath })
    await first.write(4096, bytes)
    await first.flush()
    await first.close()
    const second = await BlockDriver.connect({ socketPath })
    assert.deepEqual(Buffer.from(await second.read(4096, 8192)), Buffer.from(bytes))
    await assert.rejects(second.read(1 << 20, 512))
    await second.close()
    await server.close()
    assert.equal(await server.closed, undefined)
    assert.equal(existsSync(socketPath), false)
  })
}

test('a disk that fails is told to the driver and to the log, and is served on', async () => {
  let well = false
  const { socketPath, lines } = await start({
    capacity: 1 << 20,
    read: async () => { if (!well) throw new Error('the cable is out') }
  })
  const driver = await BlockDriver.connect({ socketPath })
  await assert.rejects(driver.read(0, 512))
  await eventually('it is told', () => lines.some((line) => line === 'the disk failed to read 512 bytes at offset 0: the cable is out'))
  well = true
  await driver.read(0, 512)
  await driver.close()
})

test('a disk that does not end its requests does not keep the server', async () => {
  const asked: AbortSignal[] = []
  const { server, socketPath } = await start({
    capacity: 1 << 20,
    read: (_offset, _segments, signal) => new Promise(() => { asked.push(signal) })
  }, 100)
  const driver = await BlockDriver.connect({ socketPath })
  driver.read(0, 512).catch(() => {})
  await eventually('it is asked', () => asked.length === 1)
  await assert.rejects(server.close(), { code: 'ERR_VHOST_USER_ABANDONED' })
  assert.equal(asked[0]!.aborted, true)
  assert.equal(server.plane.state, 'closed')
  await driver.close().catch(() => {})
})

test('a disk that grows is told to the guest', async () => {
  const disk = { ...memoryDisk(2 << 20), capacity: 1 << 20 }
  const { server, socketPath } = await start(disk)
  const driver = await BlockDriver.connect({ socketPath })
  await assert.rejects(driver.read(1 << 20, 512))
  disk.capacity = 2 << 20
  await server.resize()
  assert.equal((await driver.refreshConfig()).capacity, 2 << 20)
  await driver.read(1 << 20, 512)
  await driver.close()
})

test('a module that cannot be loaded rejects, with nothing left behind', async () => {
  const socketPath = newPath()
  await assert.rejects(serve({ disk: { module: '/no/such/disk.js' }, socketPath }), { code: 'ERR_DISK' })
  assert.equal(existsSync(socketPath), false)
})

test.run()
