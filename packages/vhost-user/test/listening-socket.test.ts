import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import { close, connectUnix, unixSocket } from '@node-vmm/libc'
import { test } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { ListeningSocket } from '../src/index.ts'

const dir = mkdtempSync(join(tmpdir(), 'vhost-user-'))
process.on('exit', () => rmSync(dir, { recursive: true }))
const path = join(dir, 'socket')

function connect (): number {
  const fd = unixSocket()
  connectUnix(fd, path)
  return fd
}

test('takes connections, none while it is paused, and those that waited then', async () => {
  const socket = ListeningSocket.bind(path)
  const taken: number[] = []
  socket.accept((fd) => taken.push(fd))
  const clients = [connect(), connect()]
  await eventually('both are taken', () => taken.length === 2)
  socket.pause()
  socket.pause()
  clients.push(connect())
  for (let turn = 0; turn < 10; turn++) await eventLoopTurn()
  assert.equal(taken.length, 2)
  socket.resume()
  await eventually('the third is taken', () => taken.length === 3)
  socket.close()
  for (const fd of [...clients, ...taken]) close(fd)
})

test('may be paused by who takes a connection: the next one waits', async () => {
  const socket = ListeningSocket.bind(path)
  const taken: number[] = []
  socket.accept((fd) => {
    taken.push(fd)
    socket.pause()
  })
  const clients = [connect(), connect()]
  await eventually('one is taken', () => taken.length === 1)
  for (let turn = 0; turn < 10; turn++) await eventLoopTurn()
  assert.equal(taken.length, 1)
  socket.resume()
  await eventually('the other is taken', () => taken.length === 2)
  socket.close()
  for (const fd of [...clients, ...taken]) close(fd)
})

test('connections that cannot be waited for are told of', () => {
  const socket = ListeningSocket.bind(path)
  const problems: Error[] = []
  socket.accept(() => assert.fail('there is none'), (error) => problems.push(error))
  socket.resume()
  assert.equal(problems.length, 0)
  socket.pause()
  close(socket.fd)
  socket.resume()
  assert.equal(problems.length, 1)
  assert.match(problems[0]!.message, /^epoll_ctl fd/)
  socket.pause()
})

test('can be disposed of, with its file', () => {
  rmSync(path, { force: true })
  const socket = ListeningSocket.bind(path)
  assert.equal(existsSync(path), true)
  socket[Symbol.dispose]()
  assert.equal(existsSync(path), false)
})

test.run()
