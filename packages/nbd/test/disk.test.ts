import assert from 'node:assert/strict'
import { DataPlane, type Disk, type OpenDisk, VIRTIO_BLK_S_OK } from '@node-vmm/virtio-blk-dataplane'
import { test } from 'uvu'
import { cleanUp } from '../../../test/support/temporary.ts'
import { withGuest } from '../../virtio-blk-dataplane/test/support/guest.ts'
import { nbd, type NbdOptions, openDisk } from '../src/index.ts'
import { blockInfo, closeFakeServers, exportInfo, FakeServer, optionReply, simpleReply } from './support/fake-server.ts'
import { nbdkit, nbdkitTest } from './support/servers.ts'

test.after.each(async () => {
  await closeFakeServers()
  await cleanUp()
})

const { signal } = new AbortController()

async function diskOf (size: number, flags: number, minimum: number): Promise<{ disk: Disk, server: FakeServer }> {
  const server = await FakeServer.start({
    answer: ({ number }) => number === 7
      ? Buffer.concat([optionReply(7, 3, exportInfo(size, flags)), optionReply(7, 3, blockInfo(minimum, 4096, 65536)), optionReply(7, 1)])
      : undefined,
    serve: ({ cookie }, socket) => { socket.write(simpleReply(cookie)) }
  })
  const open: OpenDisk<NbdOptions> = openDisk
  return { server, disk: await open({ uri: server.uri }) }
}

test('a disk has what the server offers', async () => {
  const { disk, server } = await diskOf((1 << 20) + 100, 0b1101101, 1)
  assert.deepEqual([disk.capacity, disk.blockSize, disk.readOnly], [1 << 20, 512, false])
  await disk.write!(0, [new Uint8Array(512)], signal)
  await disk.flush!(signal)
  await disk.discard!(512, 1024, signal)
  await disk.writeZeroes!(512, 1024, true, signal)
  await disk.writeZeroes!(512, 1024, false, signal)
  assert.deepEqual(server.asked.map(({ type, flags }) => [type, flags]), [[1, 0], [3, 0], [4, 0], [6, 0], [6, 2]])
  await disk.close!()
})

test('a disk has not what the server does not offer', async () => {
  const { disk } = await diskOf(1 << 20, 1, 4096)
  assert.deepEqual([disk.blockSize, disk.flush, disk.discard, disk.writeZeroes], [4096, undefined, undefined, undefined])
  await disk.close!()
  const { disk: readOnly } = await diskOf(1 << 20, 0b1101111, 512)
  assert.deepEqual([readOnly.readOnly, readOnly.flush, readOnly.discard], [true, undefined, undefined])
  await readOnly.close!()
})

nbdkitTest('a disk over nbdkit', async () => {
  const disk: Disk = await nbd((await nbdkit(['memory', '1M'])).uri)
  await disk.write!(4096, [Buffer.alloc(512, 'a'), Buffer.alloc(1024, 'b')], signal)
  const read = [Buffer.alloc(100), Buffer.alloc(1436)]
  await disk.read(4096, read, signal)
  assert.equal(Buffer.concat(read).toString(), 'a'.repeat(512) + 'b'.repeat(1024))
  await disk.close!()
})

/** A guest's writes go out to the server and come back. */
async function useAsGuest (plane: DataPlane): Promise<void> {
  await withGuest(plane, {}, async (guest) => {
    const blocks = Array.from({ length: 16 }, (_, index) => Buffer.alloc(4096, index + 1))
    const written = await Promise.all(blocks.map(async (block, index) => await guest.write(8 * index, block)))
    assert.ok(written.every(({ status }) => status === VIRTIO_BLK_S_OK))
    assert.equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
    const read = await guest.read(8, 8192)
    assert.equal(read.status, VIRTIO_BLK_S_OK)
    assert.ok(Buffer.from(read.data).equals(Buffer.concat(blocks.slice(1, 3))))
  })
}

nbdkitTest('a data plane serves a guest from nbdkit, on the caller\'s thread', async () => {
  const { uri } = await nbdkit(['memory', '1M'])
  await useAsGuest(DataPlane.create({ disk: await nbd(uri) }))
  const disk = await nbd(uri)
  const after = [Buffer.alloc(512)]
  await disk.read(4096, after, signal)
  assert.equal(after[0][0], 2, 'the server has it')
  await disk.close()
})

nbdkitTest('a data plane serves a guest from nbdkit, on a thread of its own', async () => {
  const { uri } = await nbdkit(['memory', '1M'])
  await useAsGuest(await DataPlane.open({ disk: { module: new URL('../src/index.ts', import.meta.url), options: { uri } } }))
})

test.run()
