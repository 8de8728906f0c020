import { ListeningSocket } from '@node-vmm/vhost-user'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, statSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { runWithFewDescriptors } from '../../../test/support/few-descriptors.ts'
import { ControlError, type ControlRequest } from '../src/control.ts'
import { CLIENTS_MAX, ControlServer, REQUEST_MAX } from '../src/control-server.ts'
import { newPath } from './support/scratch.ts'

const test = suite('control-server')
const servers: ControlServer[] = []
const clients: Socket[] = []
test.after.each(() => {
  for (const client of clients.splice(0)) client.destroy()
  for (const server of servers.splice(0)) server.close()
})

function start (execute: (request: ControlRequest) => Promise<unknown> = async ({ command }) => `did ${command}`): string {
  const path = newPath()
  servers.push(new ControlServer(ListeningSocket.bind(path), execute))
  return path
}

/** A client, and what it has received so far. */
function connect (path: string): { socket: Socket, lines: () => any[] } {
  let text = ''
  const socket = createConnection({ path, allowHalfOpen: true }).setEncoding('utf8').on('data', (more) => { text += more })
  socket.on('error', () => {})
  clients.push(socket)
  return { socket, lines: () => text.split('\n').slice(0, -1).map((line) => JSON.parse(line)) }
}

async function converse (path: string, text: string): Promise<any[]> {
  const { socket, lines } = connect(path)
  socket.end(text)
  await once(socket, 'end')
  return lines()
}

test('each line is answered, in order, with its id; the last one needs no end', async () => {
  const answers = await converse(start(), '{"command":"status","id":1}\n{"command":"stats","id":"two"}\n{"command":"quit","id":[3]}')
  assert.deepEqual(answers, [
    { id: 1, ok: true, result: 'did status' }, { id: 'two', ok: true, result: 'did stats' }, { ok: true, result: 'did quit' }
  ])
})

test('what is no request is told so, and the client goes on', async () => {
  const [text, array, command, bytes, disk, good] = await converse(start(),
    'hello\n[]\n{"command":"constructor"}\n{"command":"resize","bytes":-1}\n{"command":"pause","disk":7}\n{"command":"status"}\n')
  const refused = (message: string) => ({ ok: false, error: { code: 'ERR_CONTROL', message } })
  assert.deepEqual(text, refused('a request is one line of JSON.'))
  assert.deepEqual(array, refused('a request is a JSON object.'))
  assert.deepEqual(command, refused('a request has one of these as "command": status, stats, resize, pause, resume, quit.'))
  assert.deepEqual(bytes, refused('"bytes" is a number of bytes, or "reread".'))
  assert.deepEqual(disk, refused('"disk" is the name of a disk.'))
  assert.equal(good.ok, true)
})

test('a request that fails says why, with the code', async () => {
  const path = start(async () => { throw Object.assign(new Error('no room'), { code: 'ENOSPC' }) })
  assert.deepEqual(await converse(path, '{"command":"resize","id":9}\n'), [{ id: 9, ok: false, error: { code: 'ENOSPC', message: 'no room' } }])
})

test('a line without an end is not kept: the client is told, and hung up on', async () => {
  const path = start()
  const endless = connect(path)
  endless.socket.write('x'.repeat(REQUEST_MAX + 1))
  await once(endless.socket, 'end')
  assert.deepEqual(endless.lines(), [{ ok: false, error: { code: 'ERR_CONTROL', message: 'a request has up to 4096 characters.' } }])
  const long = await converse(path, `{"command":"status","id":"${'x'.repeat(REQUEST_MAX)}"}\n{"command":"status"}\n`)
  assert.equal(long.length, 1)
  assert.equal(long[0].ok, false)
})

test('no more clients than sixteen: the next is told, and room comes back', async () => {
  const path = start()
  const held = Array.from({ length: CLIENTS_MAX }, () => connect(path))
  for (const { socket } of held) socket.write('{"command":"status"}\n')
  await eventually('all are answered', () => held.every(({ lines }) => lines().length === 1))
  const [refused] = await converse(path, '{"command":"status"}\n')
  assert.deepEqual(refused, { ok: false, error: { code: 'ERR_CONTROL', message: '16 clients are connected already.' } })
  held[0]!.socket.destroy()
  let answers: any[] = []
  while (answers[0]?.ok !== true) answers = await converse(path, '{"command":"status"}\n')
})

test('a client that does not read holds up nobody, and little is kept for it', async () => {
  let executed = 0
  const path = start(async () => {
    executed++
    return 'x'.repeat(100_000)
  })
  const deaf = createConnection(path)
  clients.push(deaf)
  deaf.pause()
  for (let line = 0; line < 1000; line++) deaf.write('{"command":"stats"}\n')
  await eventually('it is answered', () => executed > 0)
  assert.equal((await converse(path, '{"command":"stats"}\n'))[0].ok, true)
  assert.ok(executed < 100, `${executed} answers for one that does not read`)
})

test('the socket is for its owner alone; both it and its clients go with the server', async () => {
  const path = start(async () => { throw new ControlError('no') })
  assert.equal(statSync(path, { bigint: true }).mode & 0o777n, 0o600n)
  const { socket, lines } = connect(path)
  socket.write('{"command":"status"}\n')
  await eventually('it is answered', () => lines().length === 1)
  const end = once(socket, 'end')
  servers.pop()!.close()
  await end
  assert.equal(existsSync(path), false)
})

// The second attempt to take a client ended the process: with no descriptor left, Node could not even be asked to watch.
test('it outlives a time without descriptors', () => {
  runWithFewDescriptors(new URL('support/few-descriptors.ts', import.meta.url))
})

test.run()
