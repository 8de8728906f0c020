import assert from 'node:assert/strict'
import { test } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { cleanUp } from '../../../test/support/temporary.ts'
import { NbdClient, NbdError, type NbdErrorCode } from '../src/index.ts'
import {
  type Asked, blockInfo, chunk, closeFakeServers, dataChunk, errorChunk, exportInfo, FakeServer, holeChunk, optionReply, simpleReply, u16, u64, USUAL_FLAGS
} from './support/fake-server.ts'

test.after.each(async () => {
  await closeFakeServers()
  await cleanUp()
})

/** A client of a fake server that answers requests so. */
async function clientOf (
  serve: (asked: Asked) => Buffer | undefined, options: Omit<ConstructorParameters<typeof FakeServer>[0] & {}, 'serve'> = {}
): Promise<{ server: FakeServer, client: NbdClient }> {
  const server = await FakeServer.start({
    ...options,
    serve: (asked, socket) => {
      const reply = serve(asked)
      if (reply !== undefined) socket.write(reply)
    }
  })
  return { server, client: await NbdClient.connect(server.uri) }
}

test('chunks of a read come in any order, with holes between', async () => {
  const { client } = await clientOf(({ cookie }) => Buffer.concat([
    dataChunk(cookie, 12288, Buffer.alloc(4096, 'd'), false), holeChunk(cookie, 4096, 4096, false),
    dataChunk(cookie, 8192, Buffer.alloc(4096, 'c'), false), dataChunk(cookie, 0, Buffer.alloc(4096, 'a'), false), chunk(cookie, 0)
  ]))
  const memory = [0, 5000, 1000, 0, 10_000, 384].map((length) => Buffer.alloc(length, 0xff))
  await client.readInto(0, memory)
  assert.equal(Buffer.concat(memory).toString('latin1'), ['a', '\0', 'c', 'd'].map((byte) => byte.repeat(4096)).join(''))
  await client.close()
})

test('replies to different requests may be mixed, and torn anywhere', async () => {
  const waiting: Asked[] = []
  const server = await FakeServer.start({
    serve: (asked, socket) => {
      waiting.push(asked)
      if (waiting.length < 2) return
      const [first, second] = waiting
      const reply = Buffer.concat([
        dataChunk(second.cookie, second.offset, Buffer.alloc(6000, '2'), false), dataChunk(first.cookie, first.offset, Buffer.alloc(8192, '1')),
        dataChunk(second.cookie, second.offset + 6000, Buffer.alloc(2192, '2'))
      ])
      void (async () => {
        for (let at = 0; at < reply.length; at += 777) {
          await new Promise<void>((resolve) => socket.write(reply.subarray(at, at + 777), () => resolve()))
          await new Promise(setImmediate)
        }
      })()
    }
  })
  const client = await NbdClient.connect(server.uri)
  const [first, second] = await Promise.all([client.read(0, 8192), client.read(8192, 8192)])
  assert.ok(Buffer.from(first).equals(Buffer.alloc(8192, '1')) && Buffer.from(second).equals(Buffer.alloc(8192, '2')))
  await client.close()
})

const values: [number, NbdErrorCode][] = [[1, 'EPERM'], [5, 'EIO'], [12, 'ENOMEM'], [22, 'EINVAL'], [28, 'ENOSPC'], [75, 'EOVERFLOW'], [95, 'ENOTSUP'], [12345, 'EINVAL']]
for (const [value, code] of values) {
  test(`error ${value} becomes ${code}, in either kind of reply`, async () => {
    const { client } = await clientOf(({ cookie, type }) => type === 0 ? errorChunk(cookie, value, 'because\n') : simpleReply(cookie, value))
    await assert.rejects(client.read(0, 512), { code, message: `read of 512 bytes at 0: the server answers ${code}, and says "because?"` })
    await assert.rejects(client.write(512, new Uint8Array(512)), { code, message: `write of 512 bytes at 512: the server answers ${code}` })
    await client.close()
  })
}

test('an error with an offset fails the read, with the data that came; unknown errors do so too', async () => {
  const types = [0x8002, 0x8055]
  const { client } = await clientOf(({ cookie, offset }) => Buffer.concat([
    dataChunk(cookie, offset, Buffer.alloc(512), false), chunk(cookie, types.shift()!, Buffer.concat([Buffer.from([0, 0, 0, 5]), u16(0), u64(600)]))
  ]))
  await assert.rejects(client.read(0, 1024), { code: 'EIO' })
  await assert.rejects(client.read(0, 1024), { code: 'EIO' })
  await client.close()
})

test('one turn of the event loop goes out as it was asked for, and large ranges are split', async () => {
  const { client, server } = await clientOf(({ cookie }) => simpleReply(cookie), {
    size: 64 << 20, structured: false,
    answer: ({ number }) => number === 7
      ? Buffer.concat([optionReply(7, 3, exportInfo(64 << 20)), optionReply(7, 3, blockInfo(512, 4096, 65536 + 512)), optionReply(7, 1)])
      : undefined
  })
  await Promise.all([client.write(0, Buffer.alloc(150_016, 'x')), client.flush(), client.trim(512, 1024), client.writeZeroes(0, 1 << 17, { noHole: true, fua: true })])
  assert.deepEqual(server.asked.map(({ type, offset, length, flags }) => [type, offset, length, flags]), [
    [1, 0, 66048, 0], [1, 66048, 66048, 0], [1, 132096, 17920, 0], [3, 0, 0, 0], [4, 512, 1024, 0], [6, 0, 66048, 3], [6, 66048, 65024, 3]
  ])
  assert.ok(Buffer.concat(server.asked.map(({ data }) => data)).equals(Buffer.alloc(150_016, 'x')))
  await client.close()
})

test('ranges and features are checked before anything is sent', async () => {
  const { client, server } = await clientOf(() => undefined, {
    answer: ({ number }) => number === 7
      ? Buffer.concat([optionReply(7, 3, exportInfo(1 << 20, 1)), optionReply(7, 3, blockInfo(512, 512, 65536)), optionReply(7, 1)])
      : undefined
  })
  for (const [offset, length] of [[0, 100], [1, 512], [-512, 512], [1 << 20, 512], [0, (1 << 20) + 512], [NaN, 512], [0, 2 ** 60]]) {
    await assert.rejects(client.read(offset, length), { code: 'ERR_NBD_RANGE' })
  }
  await assert.rejects(client.trim(0, 512), { code: 'ENOTSUP' })
  await assert.rejects(client.writeZeroes(0, 512), { code: 'ENOTSUP' })
  await client.flush()
  await client.readInto(0, [])
  assert.deepEqual(server.asked, [])
  await client.close()
})

test('a read-only export takes no writes', async () => {
  const { client, server } = await clientOf(() => undefined, { flags: USUAL_FLAGS | 2 })
  assert.equal(client.readOnly, true)
  await assert.rejects(client.write(0, new Uint8Array(512)), { code: 'ERR_NBD_READ_ONLY' })
  await assert.rejects(client.trim(0, 512), { code: 'ERR_NBD_READ_ONLY' })
  assert.deepEqual(server.asked, [])
  await client.close()
})

test('FUA becomes a flush where the server has none', async () => {
  const { client, server } = await clientOf(({ cookie }) => simpleReply(cookie), { flags: 0b101 })
  await client.write(0, new Uint8Array(512), { fua: true })
  assert.deepEqual(server.asked.map(({ type, flags }) => [type, flags]), [[1, 0], [3, 0]])
  await client.close()
})

test('servers that know only EXPORT_NAME are served as well', async () => {
  const { client } = await clientOf(({ cookie, length }) => simpleReply(cookie, 0, Buffer.alloc(length, 'old')), {
    answer: ({ number }) => {
      if (number === 1) return Buffer.concat([u64(4096), u16(1)])
      return optionReply(number, 0x80000001)
    }
  })
  assert.equal(client.size, 4096)
  assert.equal(Buffer.from(await client.read(0, 6)).toString(), 'oldold')
  await client.close()
})

test('an abort before sending, while waiting for the reply, and after it', async () => {
  const held: Asked[] = []
  const { client, server } = await clientOf((asked) => {
    held.push(asked)
    return undefined
  })
  await assert.rejects(client.read(0, 512, { signal: AbortSignal.abort(new Error('before')) }), { message: 'before' })
  const aborting = new AbortController()
  const memory = Buffer.alloc(8192, 0xaa)
  const reads = Array.from({ length: 20 }, async () => await client.readInto(0, memory, { signal: aborting.signal }))
  const other = client.read(8192, 512)
  await eventually('all are in flight', () => held.length === 21)
  aborting.abort(new Error('meanwhile'))
  for (const read of reads) await assert.rejects(read, { message: 'meanwhile' })
  // What comes now is dropped, and does not disturb what was not given up.
  for (const socket of server.sockets) for (const { cookie, offset, length } of held) socket.write(dataChunk(cookie, offset, Buffer.alloc(length, 'late')))
  assert.equal(Buffer.from(await other).toString('latin1', 0, 4), 'late')
  assert.ok(memory.every((byte) => byte === 0xaa))
  assert.equal(server.connections, 1)
  await client.close()
})

test('an abort in the middle of the data gives the memory back by ending the connection', async () => {
  const server = await FakeServer.start({
    serve: ({ cookie, offset, length }, socket, connection) => {
      const reply = dataChunk(cookie, offset, Buffer.alloc(length, 'x'))
      socket.write(connection === 1 ? reply.subarray(0, reply.length >> 1) : reply)
    }
  })
  const client = await NbdClient.connect({ uri: server.uri, reconnect: { delay: 1 } })
  const aborting = new AbortController()
  const memory = Buffer.alloc(1 << 18)
  const read = client.readInto(0, memory, { signal: aborting.signal })
  const other = client.read(0, 512)
  await eventually('half of it has come', () => memory[(1 << 17) - 4096] === 120)
  aborting.abort(new Error('enough'))
  await assert.rejects(read, { message: 'enough' })
  memory.fill(0)
  assert.equal((await other)[0], 120, 'sent again on the next connection')
  assert.ok(memory.every((byte) => byte === 0))
  await client.close()
})

test('a shared signal has one listener, however many requests it has', async () => {
  const { client } = await clientOf(({ cookie, offset, length }) => dataChunk(cookie, offset, Buffer.alloc(length)))
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => { warnings.push(warning) }
  process.on('warning', onWarning)
  const { signal } = new AbortController()
  await Promise.all(Array.from({ length: 50 }, async () => await client.read(0, 512, { signal })))
  await new Promise(setImmediate)
  process.off('warning', onWarning)
  assert.deepEqual(warnings, [])
  await client.close()
})

test('close waits for what is in flight, then fails it, and says goodbye', async () => {
  const held: Asked[] = []
  const { client, server } = await clientOf((asked) => { held.push(asked); return undefined })
  const read = client.read(0, 512)
  const never = assert.rejects(client.read(512, 512), { code: 'ERR_NBD_CLOSED' })
  await eventually('both are in flight', () => held.length === 2)
  const closed = client.close({ timeout: 1500 })
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_CLOSED' })
  for (const socket of server.sockets) socket.write(dataChunk(held[0].cookie, 0, Buffer.alloc(512)))
  await read
  await Promise.all([closed, never, client.close()])
  await eventually('the server is rid of it', () => server.sockets.size === 0)
})

test('a signal ends the wait of a close, and all is given back', async () => {
  for (const when of ['before', 'during'] as const) {
    const { client, server } = await clientOf(() => undefined)
    const never = assert.rejects(client.read(0, 512), { code: 'ERR_NBD_CLOSED' })
    await eventually('it is in flight', () => server.asked.length === 1)
    const abort = new AbortController()
    const reason = new Error(`aborted ${when}`)
    if (when === 'before') abort.abort(reason)
    const closed = assert.rejects(client.close({ timeout: 60_000, signal: abort.signal }), reason)
    abort.abort(reason)
    await Promise.all([closed, never])
    assert.equal(client.connections, 0)
    await client.close()
    await eventually('the server is rid of it', () => server.sockets.size === 0)
  }
})

test('a server without a listener is told by its address', async () => {
  const server = new FakeServer()
  await assert.rejects(NbdClient.connect(server.uri), (error: NbdError) => error.code === 'ERR_NBD_CONNECT' && error.message.includes(server.path))
  await assert.rejects(NbdClient.connect({ uri: server.uri, connections: 17 }), { code: 'ERR_NBD_OPTIONS' })
  // Taken for 'trust', a slip would have lost writes go unnoticed.
  await assert.rejects(NbdClient.connect({ uri: server.uri, reconnect: { unflushed: 'Fail' as 'fail' } }), { code: 'ERR_NBD_OPTIONS', message: /not Fail$/ })
})

test.run()
