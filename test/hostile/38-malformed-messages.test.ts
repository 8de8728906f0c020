import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { test } from 'uvu'
import { connectUnix, eventfd, receiveMessage, sendMessage, unixSocket } from '../../packages/libc/src/index.ts'
import {
  encodeConfig, encodeInflight, encodeLog, encodeMemoryTable, encodeMessage, encodeRegion, encodeU64, encodeVringAddress, encodeVringState,
  FLAG_NEED_REPLY, FLAG_REPLY, FrontEndRequest as Request
} from '../../packages/vhost-user/src/index.ts'
import { hostile } from '../support/hostile.ts'
import { inCase } from '../support/hostile-guest.ts'

const define = hostile()

const none = new Uint8Array(0)
const state = (index: number, num: number): Uint8Array => encodeVringState({ index, num })
const region = { guestAddress: 0, userAddress: 0, size: 0x1000, offset: 0 }
const table = (count: number): Uint8Array => encodeMemoryTable(Array.from({ length: count }, (_, index) =>
  ({ ...region, guestAddress: index * 0x1000, userAddress: index * 0x1000 })))
const inflight = { size: 4096, offset: 0, queues: 1, queueSize: 16 }

/** With `fds` of one eventfd, or of the guest's memory. */
type Malformed = readonly [what: string, request: number, payload: Uint8Array, fds?: readonly ('event' | 'memory')[]]

const refused: readonly Malformed[] = [
  ['an unknown request', 99, none],
  ['an unknown request with descriptors', 0xffffffff, new Uint8Array(4096), ['event', 'memory']],
  ['request 0', 0, none],
  ['SET_OWNER with a payload', Request.SET_OWNER, new Uint8Array(4)],
  ['SET_OWNER with a descriptor', Request.SET_OWNER, none, ['event']],
  ['RESET_DEVICE with a descriptor', Request.RESET_DEVICE, none, ['memory']],
  ['SET_FEATURES too short', Request.SET_FEATURES, new Uint8Array(4)],
  ['SET_FEATURES too long', Request.SET_FEATURES, new Uint8Array(16)],
  ['SET_FEATURES of what was not offered', Request.SET_FEATURES, encodeU64(2n ** 64n - 1n)],
  ['SET_PROTOCOL_FEATURES of what was not offered', Request.SET_PROTOCOL_FEATURES, encodeU64(2n ** 64n - 1n)],
  ['SET_VRING_NUM of a ring that is not there', Request.SET_VRING_NUM, state(2, 16)],
  ['SET_VRING_NUM of ring -1', Request.SET_VRING_NUM, state(0xffffffff, 16)],
  ['SET_VRING_ADDR of a ring that is not there', Request.SET_VRING_ADDR, encodeVringAddress({ index: 2, descriptor: 0, available: 0, used: 0 })],
  ['SET_VRING_ADDR too short', Request.SET_VRING_ADDR, new Uint8Array(39)],
  ['SET_VRING_ENABLE 2', Request.SET_VRING_ENABLE, state(0, 2)],
  ['SET_VRING_ENABLE of a ring that is not there', Request.SET_VRING_ENABLE, state(256, 1)],
  ['SET_VRING_KICK without its descriptor', Request.SET_VRING_KICK, encodeU64(0n)],
  ['SET_VRING_KICK with two', Request.SET_VRING_KICK, encodeU64(0n), ['event', 'event']],
  ['SET_VRING_KICK with one, and the flag that says none', Request.SET_VRING_KICK, encodeU64(0x100n), ['event']],
  ['SET_VRING_KICK of a ring that is not there', Request.SET_VRING_KICK, encodeU64(200n), ['event']],
  ['SET_VRING_KICK of a 64-bit ring', Request.SET_VRING_KICK, encodeU64(1n << 32n), ['event']],
  ['SET_VRING_CALL without its descriptor', Request.SET_VRING_CALL, encodeU64(0n)],
  ['SET_VRING_ERR with two', Request.SET_VRING_ERR, encodeU64(0n), ['event', 'event']],
  ['SET_MEM_TABLE without descriptors', Request.SET_MEM_TABLE, table(1)],
  ['SET_MEM_TABLE with too many', Request.SET_MEM_TABLE, table(1), ['memory', 'memory']],
  ['SET_MEM_TABLE with too few', Request.SET_MEM_TABLE, table(9), ['memory', 'memory']],
  ['SET_MEM_TABLE of 33 regions', Request.SET_MEM_TABLE, table(33)],
  ['SET_MEM_TABLE that claims 4 billion regions', Request.SET_MEM_TABLE, Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0)],
  ['SET_MEM_TABLE, empty', Request.SET_MEM_TABLE, none],
  ['ADD_MEM_REG without a descriptor', Request.ADD_MEM_REG, encodeRegion(region)],
  ['ADD_MEM_REG with two', Request.ADD_MEM_REG, encodeRegion(region), ['memory', 'memory']],
  ['REM_MEM_REG of none', Request.REM_MEM_REG, encodeRegion(region)],
  ['SET_CONFIG beyond 256 bytes', Request.SET_CONFIG, encodeConfig({ offset: 255, size: 2, flags: 0, data: new Uint8Array(2) })],
  ['SET_CONFIG of the capacity', Request.SET_CONFIG, encodeConfig({ offset: 0, size: 8, flags: 0, data: new Uint8Array(8) })],
  ['SET_BACKEND_REQ_FD without a descriptor', Request.SET_BACKEND_REQ_FD, none],
  ['SET_INFLIGHT_FD without its descriptor', Request.SET_INFLIGHT_FD, encodeInflight(inflight)],
  ['SET_LOG_BASE with two descriptors', Request.SET_LOG_BASE, encodeLog({ size: 4096, offset: 0 }), ['memory', 'memory']],
  ['SET_STATUS of 9 bits', Request.SET_STATUS, encodeU64(0x100n)]
]

define('a malformed message is refused, the next one served, and the ring runs on', async ({ connect }) => {
  const guest = await connect()
  const { front, queue } = guest
  const event = eventfd()
  for (const [what, request, payload, fds = []] of refused) {
    await inCase(what, async () => {
      const init = { payload, fds: fds.map((kind) => kind === 'event' ? event : guest.memoryFd) }
      await assert.rejects(front.tell(request, init), { code: 'ERR_VHOST_USER_REFUSED' })
      // Without need_reply there is no answer, and the next one is not mistaken for it. SET_LOG_BASE has an answer of its own.
      if (request !== Request.SET_LOG_BASE) await front.send(request, 0, init)
      assert.equal(await front.getQueueNum(), 2)
    })
  }
  closeSync(event)
  assert.equal((await queue.getId()).written, 21)
})

const ends: readonly (readonly [what: string, bytes: Uint8Array, descriptors?: number])[] = [
  ['a foreign version', new Uint8Array(12)],
  ['nonsense', new Uint8Array(64).fill(0x5a)],
  ['a payload over the limit', encodeMessage(Request.SET_OWNER, 0, new Uint8Array(4097))],
  ['a payload of 4 GiB', Uint8Array.of(3, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255)],
  ['33 descriptors', encodeMessage(Request.SET_MEM_TABLE, 0, table(33)), 33],
  ['253 descriptors', encodeMessage(Request.SET_OWNER, 0, none), 253],
  ['a reply', encodeMessage(Request.GET_FEATURES, FLAG_REPLY, encodeU64(0n))],
  ['GET_VRING_BASE of a ring that is not there', encodeMessage(Request.GET_VRING_BASE, 0, state(2, 0))],
  ['GET_VRING_BASE too short', encodeMessage(Request.GET_VRING_BASE, FLAG_NEED_REPLY, none)],
  ['GET_FEATURES with a payload', encodeMessage(Request.GET_FEATURES, 0, encodeU64(0n))],
  ['GET_FEATURES with a descriptor', encodeMessage(Request.GET_FEATURES, 0, none), 1],
  ['a request that was not offered and has a reply', encodeMessage(Request.GET_SHMEM_CONFIG, 0, none)]
]

/** Sends bytes as they are on a connection of their own. @returns once the server has hung up */
async function sendRaw (socket: string, bytes: Uint8Array, fds: readonly number[], hangUp: boolean): Promise<void> {
  const fd = unixSocket()
  try {
    connectUnix(fd, socket)
    sendMessage(fd, bytes, fds)
    // Blocks: the server is another process.
    while (!hangUp && (receiveMessage(fd, new Uint8Array(64))?.length ?? 0) > 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error
  } finally {
    closeSync(fd)
  }
}

define('a message after which the stream cannot be followed, or a front-end would wait for ever, ends the session', async ({ socket }) => {
  const event = eventfd()
  for (const [what, bytes, descriptors = 0] of ends) {
    await inCase(what, () => sendRaw(socket, bytes, Array.from({ length: descriptors }, () => event), false))
  }
  closeSync(event)
})

define('half a message, then a hang-up, wherever it is cut, with descriptors on the way', async ({ socket }) => {
  const event = eventfd()
  const message = encodeMessage(Request.SET_VRING_KICK, 0, encodeU64(0n))
  // In the header, behind it, and in the payload; not as many at once as may wait for the server.
  for (const length of [1, 4, 11, 12, 13, 19]) await sendRaw(socket, message.subarray(0, length), [event], true)
  closeSync(event)
})

define('a front-end that asks and asks, and reads no answer, holds up nobody but itself', async ({ socket }) => {
  const asks = Buffer.concat(Array.from({ length: 1000 }, () => encodeMessage(Request.GET_FEATURES, 0, none)))
  await sendRaw(socket, asks, [], true)
})

test.run()
