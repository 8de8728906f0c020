import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { close, eventfd, receiveMessage, sendMessage, setNonBlocking, unixSocketPair } from '@node-vmm/libc'
import { test } from 'uvu'
import { Channel } from '../src/channel.ts'
import { closeAll } from '../src/descriptor.ts'
import { encodeMessage, frontEndRequestName, MESSAGE_FDS_MAX } from '../src/message.ts'
import { openDescriptors } from './support/session.ts'

const NOTHING = new Uint8Array(0)
const violation = { code: 'ERR_VHOST_USER_PROTOCOL' }

function open (): { channel: Channel, peer: number } {
  const [ours, peer] = unixSocketPair()
  return { channel: new Channel(ours, { nameOf: frontEndRequestName }), peer }
}

test('a message that comes byte by byte is whole', async () => {
  const { channel, peer } = open()
  const received = channel.receive()
  for (const byte of encodeMessage(8, 0, Uint8Array.of(1, 2, 3))) {
    sendMessage(peer, Uint8Array.of(byte))
    await sleep(1)
  }
  assert.deepEqual(await received, { request: 8, isReply: false, needsReply: false, payload: Uint8Array.of(1, 2, 3), fds: [] })
  channel.close()
  close(peer)
})

test('two messages in one write are two', async () => {
  const { channel, peer } = open()
  sendMessage(peer, Buffer.concat([encodeMessage(1, 0, NOTHING), encodeMessage(2, 0, Uint8Array.of(9))]))
  assert.equal((await channel.receive())!.request, 1)
  assert.deepEqual([...(await channel.receive())!.payload], [9])
  channel.close()
  close(peer)
})

test('descriptors belong to the message that they came with', async () => {
  const { channel, peer } = open()
  const fd = eventfd()
  sendMessage(peer, encodeMessage(1, 0, NOTHING))
  sendMessage(peer, encodeMessage(12, 0, new Uint8Array(8)), [fd])
  assert.equal((await channel.receive())!.fds.length, 0)
  const { fds } = (await channel.receive())!
  assert.equal(fds.length, 1)
  assert.notEqual(fds[0], fd)
  closeAll([...fds, fd, peer])
  channel.close()
})

test('a hang-up between messages is the end, in the middle of one an error; descriptors of half a message are closed', async () => {
  const before = openDescriptors()
  const fd = eventfd()
  const whole = encodeMessage(12, 0, new Uint8Array(8))
  for (let length = 0; length < whole.length; length++) {
    const { channel, peer } = open()
    if (length > 0) sendMessage(peer, whole.subarray(0, length), [fd])
    close(peer)
    if (length === 0) assert.equal(await channel.receive(), undefined)
    else await assert.rejects(channel.receive(), violation, `after ${length} bytes`)
    channel.close()
  }
  close(fd)
  assert.deepEqual(openDescriptors(), before)
})

test('closing wakes what waits, and closes what came', async () => {
  const before = openDescriptors()
  const { channel, peer } = open()
  const fd = eventfd()
  const received = channel.receive()
  sendMessage(peer, encodeMessage(12, 0, new Uint8Array(8)).subarray(0, 15), [fd])
  await sleep(20)
  channel.close()
  channel.close()
  assert.equal(await received, undefined)
  await assert.rejects(channel.send(1, 0, NOTHING), { code: 'ERR_VHOST_USER_CLOSED' })
  closeAll([fd, peer])
  assert.deepEqual(openDescriptors(), before)
})

test('descriptors without end are refused and closed', async () => {
  const before = openDescriptors()
  const { channel, peer } = open()
  const fd = eventfd()
  const some = Array.from({ length: MESSAGE_FDS_MAX }, () => fd)
  const message = encodeMessage(5, 0, new Uint8Array(8))
  sendMessage(peer, message.subarray(0, 12), some)
  sendMessage(peer, message.subarray(12), [fd])
  await assert.rejects(channel.receive(), violation)
  channel.close()
  closeAll([fd, peer])
  assert.deepEqual(openDescriptors(), before)
})

test('a send waits for a peer that does not read', async () => {
  const { channel, peer } = open()
  setNonBlocking(peer)
  const payload = new Uint8Array(4096).fill(7)
  let sent = 0
  const sending = (async () => { for (; sent < 500; sent++) await channel.send(1, 0, payload) })()
  await sleep(20)
  assert.ok(sent < 500, 'the socket is full')
  let bytes = 0
  const buffer = new Uint8Array(65536)
  while (bytes < 500 * 4108) {
    const part = receiveMessage(peer, buffer)
    if (part === undefined) await sleep(1)
    else bytes += part.length
  }
  await sending
  assert.equal(bytes, 500 * 4108)
  channel.close()
  close(peer)
})

test('a peer that sends without pause does not hold the event loop', async () => {
  const { channel, peer } = open()
  const message = encodeMessage(3, 0, NOTHING)
  let turns = 0
  const timer = setInterval(() => { turns++ }, 0)
  for (let count = 0; turns <= 3; count++) {
    assert.ok(count < 1e6, `${turns} turns of the event loop`)
    sendMessage(peer, message)
    await channel.receive()
  }
  clearInterval(timer)
  channel.close()
  close(peer)
})

test.run()
