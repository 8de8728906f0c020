import assert from 'node:assert/strict'
import { fstatSync, mkdtempSync, rmSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import {
  accept, bindUnix, close, connectUnix, eventfd, listen, memfdCreate, NativeMemory, read, receiveMessage, SCM_MAX_FD,
  sendMessage, shutdown, unixDatagramSocket, unixSocket, unixSocketPair, write
} from '@node-vmm/libc'

const test = suite('socket')
const directory = mkdtempSync(`${tmpdir()}/node-vmm-libc-`)
test.after(() => rmSync(directory, { recursive: true }))

test('sends bytes both ways, and tells an empty and an ended stream apart', () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  const buffer = new Uint8Array(16)
  assert.equal(receiveMessage(other, buffer), undefined)
  assert.equal(sendMessage(one, Uint8Array.of(1, 2, 3)), 3)
  assert.deepEqual(receiveMessage(other, buffer), { length: 3, fds: [], truncated: false })
  assert.deepEqual([...buffer.subarray(0, 4)], [1, 2, 3, 0])
  assert.equal(sendMessage(other, buffer.subarray(1, 3)), 2)
  assert.equal(receiveMessage(one, buffer)?.length, 2)
  close(one)
  assert.deepEqual(receiveMessage(other, buffer), { length: 0, fds: [], truncated: false })
  assert.throws(() => sendMessage(other, buffer), { code: 'EPIPE' })
  close(other)
})

test('passes descriptors, which arrive close-on-exec with the first byte', () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  const counter = eventfd(41)
  const file = memfdCreate('passed')
  assert.equal(sendMessage(one, Uint8Array.of(9, 9), [counter, file]), 2)
  const received = receiveMessage(other, new Uint8Array(2))!
  assert.equal(received.fds.length, 2)
  assert.ok(!received.fds.includes(counter))
  assert.equal(fstatSync(received.fds[1]!).ino, fstatSync(file).ino)
  const memory = new NativeMemory(8)
  assert.equal(read(received.fds[0]!, memory.address, 8), 8)
  assert.equal(memory.getUint64(0), 41)
  memory.setUint64(0, 1)
  assert.equal(write(counter, memory.address, 8), 8)
  assert.equal(read(received.fds[0]!, memory.address, 8), 8, 'it is the same eventfd')
  for (const fd of [one, other, counter, file, ...received.fds]) close(fd)
  memory.close()
})

test('the most descriptors fit, one more is refused, and too little room is told', () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  const counter = eventfd()
  sendMessage(one, Uint8Array.of(1), new Array(SCM_MAX_FD).fill(counter))
  const all = receiveMessage(other, new Uint8Array(1))!
  assert.equal(all.fds.length, SCM_MAX_FD)
  assert.equal(all.truncated, false)
  for (const fd of all.fds) close(fd)
  assert.throws(() => sendMessage(one, Uint8Array.of(1), new Array(SCM_MAX_FD + 1).fill(counter)), RangeError)
  sendMessage(one, Uint8Array.of(1), [counter, counter, counter, counter])
  const some = receiveMessage(other, new Uint8Array(1), 2)!
  assert.equal(some.fds.length, 2)
  assert.equal(some.truncated, true)
  sendMessage(one, Uint8Array.of(1), [counter])
  const none = receiveMessage(other, new Uint8Array(1), 0)!
  assert.deepEqual(none, { length: 1, fds: [], truncated: true })
  for (const fd of [one, other, counter, ...some.fds]) close(fd)
})

test('a full socket takes a part, then nothing', () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  const bytes = new Uint8Array(1 << 20)
  let sent = 0
  for (let part = sendMessage(one, bytes); part !== undefined; part = sendMessage(one, bytes)) sent += part
  assert.ok(sent > 0)
  let received = 0
  for (let part = receiveMessage(other, bytes); part !== undefined; part = receiveMessage(other, bytes)) received += part.length
  assert.equal(received, sent)
  close(one)
  close(other)
})

test('a named socket: listens, accepts non-blocking, and serves Node as well', async () => {
  const path = `${directory}/named`
  const listener = unixSocket({ nonBlocking: true })
  bindUnix(listener, path)
  listen(listener)
  assert.equal(accept(listener), undefined)
  const client = unixSocket()
  connectUnix(client, path)
  const served = accept(listener)!
  assert.equal(receiveMessage(served, new Uint8Array(1)), undefined)
  sendMessage(client, Uint8Array.of(5))
  assert.equal(receiveMessage(served, new Uint8Array(1))?.length, 1)
  shutdown(served)
  assert.equal(receiveMessage(client, new Uint8Array(1))?.length, 0)
  const node = createConnection(path)
  await new Promise((resolve) => node.once('connect', resolve))
  const second = accept(listener)!
  sendMessage(second, Buffer.from('hello'))
  assert.equal(String(await new Promise((resolve) => node.once('data', resolve))), 'hello')
  node.destroy()
  for (const fd of [listener, client, served, second]) close(fd)
})

test('datagrams arrive one by one, at a path or at an abstract name of exactly its bytes', () => {
  for (const name of [`${directory}/datagrams`, `\0node-vmm-${process.pid}`]) {
    const [receiver, sender] = [unixDatagramSocket(), unixDatagramSocket()]
    bindUnix(receiver, name)
    connectUnix(sender, name)
    assert.equal(sendMessage(sender, Buffer.from('READY=1')), 7)
    assert.equal(sendMessage(sender, Buffer.from('STOPPING=1')), 10)
    const buffer = Buffer.alloc(64)
    assert.equal(receiveMessage(receiver, buffer)!.length, 7)
    assert.equal(buffer.toString('utf8', 0, 7), 'READY=1')
    assert.equal(receiveMessage(receiver, buffer)!.length, 10)
    close(receiver)
    close(sender)
  }
  const fd = unixDatagramSocket()
  assert.throws(() => connectUnix(fd, `\0node-vmm-${process.pid}\0`), { code: 'ECONNREFUSED' })
  assert.throws(() => bindUnix(fd, `\0${'x'.repeat(108)}`), RangeError)
  close(fd)
})

test('errors of names', () => {
  const fd = unixSocket()
  assert.throws(() => connectUnix(fd, `${directory}/nobody`), { code: 'ENOENT', message: /Is the server running\?/ })
  assert.throws(() => bindUnix(fd, `${directory}/${'x'.repeat(108)}`), { name: 'RangeError', message: /1 to 107 bytes/ })
  assert.throws(() => bindUnix(fd, ''), RangeError)
  assert.throws(() => bindUnix(fd, 'a\0b'), RangeError)
  bindUnix(fd, `${directory}/taken`)
  const other = unixSocket()
  assert.throws(() => bindUnix(other, `${directory}/taken`), { code: 'EADDRINUSE' })
  assert.throws(() => connectUnix(other, `${directory}/taken`), { code: 'ECONNREFUSED' })
  shutdown(other)
  close(fd)
  close(other)
})

test.run()
