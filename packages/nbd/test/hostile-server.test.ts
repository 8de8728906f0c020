// A server is not trusted: what it sends wrong ends the connection, with an error that says what it was.
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'uvu'
import { cleanUp } from '../../../test/support/temporary.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { NbdClient, NbdError } from '../src/index.ts'
import {
  type Asked, blockInfo, chunk, closeFakeServers, dataChunk, errorChunk, exportInfo, FakeServer, hello, holeChunk, optionReply,
  simpleReply, u16, u32
} from './support/fake-server.ts'

test.after.each(async () => {
  await closeFakeServers()
  await cleanUp()
})

const big = Buffer.alloc(20_000)
const magic = '0003e889045565a9'

/** What a server answers to an option instead of the truth. */
const lies: Record<string, [option: number, answer: Buffer]> = {
  'another magic number': [8, Buffer.alloc(20)],
  'a reply to another option': [8, optionReply(9, 1)],
  'information where none is due': [8, optionReply(8, 3, exportInfo(512))],
  'a reply of 20000 bytes': [7, optionReply(7, 3, big)],
  'a reply of 4 GiB': [7, Buffer.concat([Buffer.from(magic, 'hex'), u32(7), u32(3), u32(0xffffffff)])],
  'no size': [7, optionReply(7, 1)],
  'a size of 2^63': [7, Buffer.concat([optionReply(7, 3, exportInfo(1n << 63n)), optionReply(7, 1)])],
  'half an export': [7, optionReply(7, 3, exportInfo(512).subarray(0, 8))],
  'information without a type': [7, optionReply(7, 3, Buffer.alloc(1))],
  'a minimum block size of 0': [7, optionReply(7, 3, blockInfo(0, 4096, 65536))],
  'a minimum block size of 3': [7, optionReply(7, 3, blockInfo(3, 4096, 65536))],
  'a minimum block size of 128 KiB': [7, optionReply(7, 3, blockInfo(131072, 131072, 131072))],
  'a maximum below the minimum': [7, optionReply(7, 3, blockInfo(4096, 4096, 512))],
  'half of the block sizes': [7, optionReply(7, 3, blockInfo(1, 1, 1).subarray(0, 9))],
  'an answer before it is asked': [7, Buffer.concat([optionReply(7, 3, exportInfo(512)), optionReply(7, 1), simpleReply(Buffer.alloc(8))])]
}
for (const [lie, [number, answer]] of Object.entries(lies)) {
  test(`the handshake ends at ${lie}`, async () => {
    const server = await FakeServer.start({ answer: (option) => option.number === number ? answer : undefined })
    await assert.rejects(NbdClient.connect(server.uri), { code: 'ERR_NBD_PROTOCOL' })
    await eventually('the client hangs up', () => server.sockets.size === 0)
  })
}

test('endless information does not keep the client', async () => {
  const some = Buffer.concat(Array.from({ length: 1000 }, () => optionReply(7, 3, u16(77))))
  const server = await FakeServer.start({ answer: ({ number }) => number === 7 ? Buffer.concat(new Array<Buffer>(70).fill(some)) : undefined })
  await assert.rejects(NbdClient.connect(server.uri), { code: 'ERR_NBD_PROTOCOL', message: /more than 65536/ })
})

test('a server that speaks another protocol is told from an NBD server', async () => {
  const server = await FakeServer.start({ greeting: Buffer.from('SSH-2.0-OpenSSH_9.2\r\n\x1b[31m') })
  await assert.rejects(NbdClient.connect(server.uri), { code: 'ERR_NBD_PROTOCOL', message: /"SSH-2.0-OpenSSH_".*no NBD server/ })
})

test('oldstyle and not-fixed newstyle servers are refused', async () => {
  const oldstyle = await FakeServer.start({ greeting: Buffer.concat([Buffer.from('NBDMAGIC'), Buffer.from('0000420281861253', 'hex'), Buffer.alloc(136)]) })
  await assert.rejects(NbdClient.connect(oldstyle.uri), { code: 'ERR_NBD_REFUSED', message: /oldstyle/ })
  const newstyle = await FakeServer.start({ greeting: hello(0) })
  await assert.rejects(NbdClient.connect(newstyle.uri), { code: 'ERR_NBD_REFUSED' })
})

test('a server that floods a client in the handshake is cut off', async () => {
  let sent = 0
  const server = await FakeServer.start({
    connected: (socket) => {
      const flood = (): void => { if (!socket.destroyed && sent < 1 << 28) socket.write(Buffer.alloc(1 << 16, 'NBDMAGICIHAVEOPT'), () => { sent += 1 << 16; flood() }) }
      flood()
    }
  })
  await assert.rejects(NbdClient.connect(server.uri), NbdError)
  await eventually('the client hangs up', () => server.sockets.size === 0)
  assert.ok(sent < 1 << 26, `${sent} bytes were taken`)
})

test('a server that says nothing is given up after the time limit, or with the signal', async () => {
  const server = await FakeServer.start({ connected: () => {} })
  await assert.rejects(NbdClient.connect({ uri: server.uri, connectTimeout: 50 }), { code: 'ERR_NBD_CONNECT' })
  await assert.rejects(NbdClient.connect({ uri: server.uri, signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
  await eventually('the client hangs up', () => server.sockets.size === 0)
})

test('a server that hangs up in the handshake is an error', async () => {
  const server = await FakeServer.start({ connected: (socket) => socket.end(hello()) })
  await assert.rejects(NbdClient.connect(server.uri), { code: 'ERR_NBD_CONNECT', message: /during the handshake/ })
})

test('what a server says in a refusal becomes one short line', async () => {
  const words = Buffer.from(`no\x1b[2J\nway\u2028${'x'.repeat(4000)}`)
  const server = await FakeServer.start({ answer: ({ number }) => number === 7 ? optionReply(7, 0x80000006, words) : undefined })
  await assert.rejects(NbdClient.connect(server.uri), (error: NbdError) => {
    assert.equal(error.code, 'ERR_NBD_REFUSED')
    assert.match(error.message, /"no\?\[2J\?way\?xxx/)
    assert.ok(error.message.length < 600)
    return true
  })
})

test('names in a list are checked', async () => {
  const server = await FakeServer.start({ answer: ({ number }) => number === 3 ? optionReply(3, 2, Buffer.concat([u32(100), Buffer.from('x')])) : undefined })
  await assert.rejects(NbdClient.list(server.uri), { code: 'ERR_NBD_PROTOCOL' })
})

/** Wrong replies to a read of 8192 bytes at 4096, of a server with structured replies. */
const wrongReads: Record<string, (cookie: Buffer) => Buffer> = {
  'rubbish': () => Buffer.alloc(64, 'rubbish'),
  'a cookie that nobody has': () => dataChunk(Buffer.alloc(8, 7), 4096, Buffer.alloc(8192)),
  'a cookie with another sequence number': (cookie) => dataChunk(Buffer.concat([Buffer.alloc(4, 1), cookie.subarray(4)]), 4096, Buffer.alloc(8192)),
  'a simple reply': (cookie) => simpleReply(cookie, 0, Buffer.alloc(8192)),
  'a simple error': (cookie) => simpleReply(cookie, 5),
  'data before the range': (cookie) => dataChunk(cookie, 4095, Buffer.alloc(10)),
  'data after the range': (cookie) => dataChunk(cookie, 12288, Buffer.alloc(1)),
  'data beyond the range': (cookie) => dataChunk(cookie, 4096, Buffer.alloc(8193)),
  'data at 2^63': (cookie) => dataChunk(cookie, 1n << 63n, Buffer.alloc(10)),
  'no data': (cookie) => dataChunk(cookie, 4096, Buffer.alloc(0)),
  'a chunk of 4 GiB': (cookie) => Buffer.concat([dataChunk(cookie, 4096, Buffer.alloc(8)).subarray(0, 16), u32(0xffffffff), Buffer.alloc(64)]),
  'the same data twice': (cookie) => Buffer.concat([dataChunk(cookie, 4096, Buffer.alloc(10), false), dataChunk(cookie, 4105, Buffer.alloc(10))]),
  'a hole over data': (cookie) => Buffer.concat([dataChunk(cookie, 4096, Buffer.alloc(10), false), holeChunk(cookie, 4096, 8192)]),
  'an empty hole': (cookie) => holeChunk(cookie, 4096, 0),
  'a hole beyond the range': (cookie) => holeChunk(cookie, 4096, 0xffffffff),
  'a hole chunk of 13 bytes': (cookie) => chunk(cookie, 2, Buffer.alloc(13)),
  'success with a part of the data': (cookie) => dataChunk(cookie, 4096, Buffer.alloc(8191)),
  'success without data': (cookie) => chunk(cookie, 0),
  'NONE that is not the last': (cookie) => chunk(cookie, 0, Buffer.alloc(0), false),
  'NONE with a payload': (cookie) => chunk(cookie, 0, Buffer.alloc(1)),
  'an unknown chunk': (cookie) => chunk(cookie, 99, Buffer.alloc(4)),
  'a block status': (cookie) => chunk(cookie, 5, Buffer.alloc(12)),
  'an error chunk of 5 bytes': (cookie) => chunk(cookie, 0x8001, Buffer.alloc(5)),
  'an error chunk of 16 MiB': (cookie) => Buffer.concat([chunk(cookie, 0x8001).subarray(0, 16), u32(1 << 24), Buffer.alloc(1 << 16)]),
  'an error of 0': (cookie) => errorChunk(cookie, 0, 'fine'),
  'a message longer than its chunk': (cookie) => chunk(cookie, 0x8001, Buffer.concat([u32(5), u16(100), Buffer.from('x')])),
  'an error offset without an offset': (cookie) => chunk(cookie, 0x8002, Buffer.concat([u32(5), u16(0)])),
  'a reply after the last': (cookie) => Buffer.concat([errorChunk(cookie, 5), errorChunk(cookie, 5)])
}
for (const [wrong, reply] of Object.entries(wrongReads)) {
  test(`the connection ends at ${wrong}`, async () => {
    const isLate = wrong === 'a reply after the last'
    const server = await FakeServer.start({ serve: ({ cookie }, socket) => { socket.write(reply(cookie)) } })
    const client = await NbdClient.connect(server.uri)
    await assert.rejects(client.read(4096, 8192), { code: isLate ? 'EIO' : 'ERR_NBD_PROTOCOL' })
    await eventually('the client hangs up', () => server.sockets.size === 0)
    await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_PROTOCOL' })
    assert.equal(server.connections, 1, 'it is not asked again')
    await client.close()
  })
}

test('bytes around a read stay as they were, whatever the server sends', async () => {
  for (const reply of Object.values(wrongReads)) {
    const server = await FakeServer.start({ serve: ({ cookie }, socket) => { socket.write(reply(cookie)) } })
    const client = await NbdClient.connect(server.uri)
    const memory = Buffer.alloc(3 * 8192, 0xaa)
    await assert.rejects(client.readInto(4096, memory.subarray(8192, 16384)))
    await client.close()
    assert.ok(memory.subarray(0, 8192).every((byte) => byte === 0xaa) && memory.subarray(16384).every((byte) => byte === 0xaa))
  }
})

const wrongWrites: Record<string, (cookie: Buffer) => Buffer> = {
  'data in reply to a write': (cookie) => dataChunk(cookie, 0, Buffer.alloc(512)),
  'a hole in reply to a write': (cookie) => holeChunk(cookie, 0, 512)
}
for (const [wrong, reply] of Object.entries(wrongWrites)) {
  test(`the connection ends at ${wrong}`, async () => {
    const server = await FakeServer.start({ serve: ({ cookie }, socket) => { socket.write(reply(cookie)) } })
    const client = await NbdClient.connect(server.uri)
    await assert.rejects(client.write(0, new Uint8Array(512)), { code: 'ERR_NBD_PROTOCOL' })
    await client.close()
  })
}

test('structured replies that were not agreed on end the connection', async () => {
  const server = await FakeServer.start({ structured: false, serve: ({ cookie, offset, length }, socket) => { socket.write(dataChunk(cookie, offset, Buffer.alloc(length))) } })
  const client = await NbdClient.connect(server.uri)
  await assert.rejects(client.read(0, 512), { code: 'ERR_NBD_PROTOCOL', message: /0x668e33ef/ })
  await client.close()
})

test('a write that is answered before it was taken keeps its memory until it was', async () => {
  let answered: (() => void) | undefined
  const server = await FakeServer.start({
    connected: (socket) => {
      socket.write(hello())
      let bytes = Buffer.alloc(0)
      let step = 0
      socket.on('data', (more) => {
        bytes = Buffer.concat([bytes, more])
        if (step === 0 && bytes.length >= 20) { step = 1; socket.write(optionReply(8, 0x80000001)) }
        if (step === 1 && bytes.length >= 48) { step = 2; socket.write(Buffer.concat([optionReply(7, 3, exportInfo(1 << 30, 1)), optionReply(7, 1)])) }
        const at = bytes.indexOf(u32(0x25609513))
        if (step === 2 && at >= 0 && bytes.length >= at + 28) {
          step = 3
          socket.pause()
          socket.write(simpleReply(bytes.subarray(at + 8, at + 16)), () => { answered = () => socket.resume() })
        }
      })
    }
  })
  const client = await NbdClient.connect(server.uri)
  let done = false
  const written = client.write(0, new Uint8Array(4 << 20)).then(() => { done = true })
  await eventually('the server answers', () => answered !== undefined)
  // A turn of the event loop in which the reply is read; the socket's buffer is far smaller than 4 MiB.
  await new Promise((resolve) => setTimeout(resolve, 20))
  assert.equal(done, false)
  answered!()
  await written
  await client.close()
})

test('random bytes in place of replies never crash nor hang the client', async () => {
  for (let seed = 1; seed <= 40; seed++) {
    let state = seed
    const random = (): number => { state = (state * 48271) % 0x7fffffff; return state }
    const serve = ({ cookie, offset, length }: Asked, socket: Socket): void => {
      const reply = dataChunk(cookie, offset, Buffer.alloc(length))
      // A wrong byte, mostly in the header.
      reply[random() % 40] = random()
      socket.write(reply)
      if (random() % 4 === 0) socket.end(Buffer.from(Array.from({ length: random() % 100 }, random)))
    }
    const server = await FakeServer.start({ serve })
    const client = await NbdClient.connect({ uri: server.uri, reconnect: false, timeout: 200 })
    for (let index = 0; index < 4; index++) await client.read(512 * index, 512).catch((error) => assert.ok(error instanceof NbdError, String(error)))
    await client.close()
    await server.close()
  }
})

test.run()
