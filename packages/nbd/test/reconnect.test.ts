import assert from 'node:assert/strict'
import { writeFileSync, truncateSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { NbdClient } from '../src/index.ts'
import { closeFakeServers, dataChunk, exportInfo, FakeServer, optionReply, simpleReply, USUAL_FLAGS } from './support/fake-server.ts'
import { newSocketPath, nbdkit, nbdkitTest, qemuNbd, qemuTest } from './support/servers.ts'

test.after.each(async () => {
  await closeFakeServers()
  await cleanUp()
})

const quickly = { delay: 1, maxDelay: 50 }

test('what was in flight is sent again, in order', async () => {
  const server = await FakeServer.start({
    serve: ({ cookie, type, length, offset }, socket, connection) => {
      if (connection > 1) socket.write(type === 0 ? dataChunk(cookie, offset, Buffer.alloc(length)) : simpleReply(cookie))
      else if (server.asked.length === 4) socket.destroy()
    }
  })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: quickly })
  await Promise.all([client.write(0, Buffer.alloc(512, 'a')), client.read(512, 512), client.flush(), client.trim(1024, 512)])
  assert.deepEqual(server.asked.map(({ type }) => type), [1, 0, 3, 4, 1, 0, 3, 4])
  assert.equal(server.asked[4].data.toString(), 'a'.repeat(512))
  await client.close()
})

test('writes that were answered and not flushed fail the next flush, once', async () => {
  const server = await FakeServer.start({ serve: ({ cookie }, socket) => { socket.write(simpleReply(cookie)) } })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: quickly })
  const hangUp = async (): Promise<void> => {
    const before = server.connections
    for (const socket of server.sockets) socket.destroy()
    await eventually('the next connection', () => server.connections === before + 1 && client.connections === 1)
  }
  await client.write(0, new Uint8Array(512))
  await hangUp()
  await assert.rejects(client.flush(), { code: 'ERR_NBD_WRITES_LOST' })
  await client.flush()
  await client.write(0, new Uint8Array(512))
  await client.flush()
  await client.write(0, new Uint8Array(512), { fua: true })
  await hangUp()
  await client.flush()
  await client.close()
})

test('a flush that is in flight when writes may be lost fails with them', async () => {
  const server = await FakeServer.start({
    serve: ({ cookie, type }, socket, connection) => {
      if (type === 3 && connection === 1) socket.destroy()
      else socket.write(simpleReply(cookie))
    }
  })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: quickly })
  await client.write(0, new Uint8Array(512))
  await assert.rejects(client.flush(), { code: 'ERR_NBD_WRITES_LOST' })
  await client.flush()
  await client.close()
})

test('unflushed writes can be trusted to the server', async () => {
  const server = await FakeServer.start({ serve: ({ cookie, type }, socket, connection) => type === 3 && connection === 1 ? socket.destroy() : socket.write(simpleReply(cookie)) })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: { ...quickly, unflushed: 'trust' } })
  await client.write(0, new Uint8Array(512))
  await client.flush()
  await client.close()
})

test('an export that has changed is not used', async () => {
  let size = 1 << 20
  const server = await FakeServer.start({
    answer: ({ number }) => number === 7 ? Buffer.concat([optionReply(7, 3, exportInfo(size, USUAL_FLAGS)), optionReply(7, 1)]) : undefined,
    serve: (_asked, socket) => { socket.destroy() }
  })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: quickly })
  size = 1 << 19
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_CHANGED', message: /524288 bytes, not 1048576/ })
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_CHANGED' })
  await client.close()
})

test('a request that the server dies of is not sent for ever', async () => {
  const server = await FakeServer.start({ serve: (_asked, socket) => { socket.destroy() } })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: quickly })
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_DISCONNECTED' })
  assert.equal(server.asked.length, 5)
  await client.close()
})

test('without reconnection, everything fails', async () => {
  const server = await FakeServer.start({ serve: (_asked, socket) => { socket.destroy() } })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: false })
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_DISCONNECTED' })
  await assert.rejects(client.flush(), { code: 'ERR_NBD_DISCONNECTED' })
  await client.close()
})

test('patience ends, and begins anew when the server is back', async () => {
  const server = await FakeServer.start({ serve: ({ cookie, offset, length }, socket) => { socket.write(dataChunk(cookie, offset, Buffer.alloc(length))) } })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: { ...quickly, patience: 50 } })
  await server.close()
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_DISCONNECTED' })
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_DISCONNECTED' })
  await server.listen()
  await eventually('it is back', () => client.connections === 1)
  await client.read(0, 512)
  await client.close()
})

test('a server that falls silent is left, and its requests go to the next', async () => {
  const server = await FakeServer.start({
    serve: ({ cookie, offset, length }, socket, connection) => { if (connection > 1) socket.write(dataChunk(cookie, offset, Buffer.alloc(length))) }
  })
  const client = await NbdClient.connect({ uri: server.uri, timeout: 1500, reconnect: quickly })
  await client.read(0, 512)
  assert.equal(server.connections, 2)
  await client.close()
})

test('ESHUTDOWN means goodbye, and again on the next connection', async () => {
  const server = await FakeServer.start({ serve: ({ cookie }, socket, connection) => { socket.write(simpleReply(cookie, connection > 1 ? 0 : 108)) } })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: quickly })
  await client.write(0, new Uint8Array(512))
  assert.equal(server.connections, 2)
  await client.close()
  const other = await NbdClient.connect({ uri: (await FakeServer.start({ serve: ({ cookie }, socket) => { socket.write(simpleReply(cookie, 108)) } })).uri, reconnect: false })
  await assert.rejects(other.write(0, new Uint8Array(512)), { code: 'ESHUTDOWN' })
  await other.close()
})

test('several connections: the loss of one sends its requests over the others', async () => {
  const server = await FakeServer.start({
    flags: USUAL_FLAGS | 1 << 8,
    serve: ({ cookie, offset, length }, socket, connection) => {
      if (connection === 2) socket.destroy()
      else socket.write(dataChunk(cookie, offset, Buffer.alloc(length)))
    }
  })
  const client = await NbdClient.connect({ uri: server.uri, connections: 3, reconnect: quickly })
  assert.equal(server.connections, 3)
  await Promise.all(Array.from({ length: 300 }, async (_, index) => await client.read(512 * index, 512)))
  await eventually('three again', () => client.connections === 3)
  await client.close()
})

test('regression: close ends when there are several connections', async () => {
  const server = await FakeServer.start({ flags: USUAL_FLAGS | 1 << 8 })
  const client = await NbdClient.connect({ uri: server.uri, connections: 4 })
  await client.close()
  await eventually('the server is rid of all', () => server.sockets.size === 0)
})

test('one connection where the server cannot do more', async () => {
  const server = await FakeServer.start()
  const client = await NbdClient.connect({ uri: server.uri, connections: 4 })
  assert.equal(server.connections, 1)
  await client.close()
})

/** Writes numbered blocks, each when the one before at its place is done, while the server is killed and started again. */
async function loadThroughKills (client: NbdClient, kill: () => Promise<void>, kills: number): Promise<Uint8Array[]> {
  const blocks = Array.from({ length: 64 }, () => new Uint8Array(4096))
  let written = 0
  let isOver = false
  const writers = blocks.map(async (block, index) => {
    for (let round = 1; !isOver; round++) {
      block.fill(round + index)
      await client.write(index * 4096, block)
      written++
      if (round % 8 === 0) assert.deepEqual(Buffer.from(await client.read(index * 4096, 4096)), Buffer.from(block))
    }
  })
  const failed = Promise.all(writers)
  failed.catch(() => {})
  for (let count = 0; count < kills; count++) {
    const before = written
    await Promise.race([failed, eventually('writes go on', () => written > before + 200)])
    await kill()
  }
  isOver = true
  await failed
  return blocks
}

qemuTest('qemu-nbd is killed and started again in the middle of writes: none is lost', async () => {
  const image = join(temporaryFolder(), 'raw')
  writeFileSync(image, '')
  truncateSync(image, 1 << 20)
  const socketPath = newSocketPath()
  const start = async (): Promise<Awaited<ReturnType<typeof qemuNbd>>> => await qemuNbd(['--format=raw', '--export-name=disk', image], socketPath)
  let server = await start()
  // Killed is not powered off: the page cache keeps what qemu-nbd had answered.
  const client = await NbdClient.connect({ uri: server.uri, reconnect: { ...quickly, unflushed: 'trust' } })
  const blocks = await loadThroughKills(client, async () => {
    await server.process.kill()
    server = await start()
  }, 5)
  await client.flush()
  await client.close()
  assert.ok(readFileSync(image).subarray(0, 64 * 4096).equals(Buffer.concat(blocks)))
})

nbdkitTest('nbdkit is killed and started again under four connections: none is lost, and the flush says that some might be', async () => {
  const image = join(temporaryFolder(), 'raw')
  writeFileSync(image, '')
  truncateSync(image, 1 << 20)
  const socketPath = newSocketPath()
  let server = await nbdkit(['file', image], socketPath)
  const client = await NbdClient.connect({ uri: server.uri, connections: 4, reconnect: quickly })
  const blocks = await loadThroughKills(client, async () => {
    await server.process.kill()
    server = await nbdkit(['file', image], socketPath)
  }, 3)
  await assert.rejects(client.flush(), { code: 'ERR_NBD_WRITES_LOST' })
  await client.flush()
  await client.close()
  assert.ok(readFileSync(image).subarray(0, 64 * 4096).equals(Buffer.concat(blocks)))
})

test.run()
