import assert from 'node:assert/strict'
import { closeSync, constants, openSync, writeSync } from 'node:fs'
import { test } from 'uvu'
import { pipe } from '../../packages/event-poll/test/pipe.ts'
import { memfdCreate, unixSocketPair } from '../../packages/libc/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { processorTime } from '../support/footprint.ts'
import { hostile } from '../support/hostile.ts'
import type { HostileQueue } from '../support/hostile-guest.ts'

const define = hostile()

/** A process that spins uses processor time all the while. */
async function rests (pid: number): Promise<void> {
  let [time, since] = [processorTime(pid), Date.now()]
  await eventually('the server rests for 100 ms', () => {
    const now = processorTime(pid)
    if (now !== time) [time, since] = [now, Date.now()]
    return Date.now() - since >= 100
  })
}

async function servedBy (queue: HostileQueue, kick: number): Promise<void> {
  const count = queue.collect().length + 1
  queue.offer(queue.goodChain())
  writeSync(kick, new Uint8Array(8).fill(1))
  await queue.answers(count)
}

function socketPair (): ReturnType<typeof pipe> {
  const [readEnd, writeEnd] = unixSocketPair()
  return { readEnd, writeEnd }
}

for (const [title, make] of [
  ['a pipe', pipe],
  ['a socket', socketPair]
] as const) {
  define(`kicks by ${title}: served; when its other end is closed nothing spins, and another kick descriptor is taken`, async ({ connect, program }) => {
    const { front, queue } = await connect()
    const { readEnd: theirs, writeEnd: ours } = make()
    await front.setVringKick(0, theirs)
    closeSync(theirs)
    for (let count = 0; count < 3; count++) await servedBy(queue, ours)
    // More kicks than there is a counter for.
    writeSync(ours, new Uint8Array(4000).fill(1))
    await servedBy(queue, ours)
    closeSync(ours)
    await rests(program.pid)
    await front.setVringKick(0, queue.kick.fd)
    assert.equal((await queue.getId()).written, 21)
  })
}

define('kicks by a pipe whose other end was closed before', async ({ connect, program }) => {
  const { front, queue } = await connect()
  const { readEnd, writeEnd } = pipe()
  closeSync(writeEnd)
  await front.setVringKick(0, readEnd)
  closeSync(readEnd)
  await rests(program.pid)
  await front.setVringKick(0, queue.kick.fd)
  assert.equal((await queue.getId()).written, 21)
})

define('a kick descriptor that nothing can wait for is refused, and a good one taken after it', async ({ connect }) => {
  const { front, queue } = await connect()
  const paths = [openSync('/', constants.O_RDONLY | 0o10000000), openSync('/', constants.O_RDONLY), memfdCreate('no kick')]
  for (const fd of paths) {
    await assert.rejects(front.setVringKick(0, fd), { code: 'ERR_VHOST_USER_REFUSED' })
    await front.setVringKick(0, queue.kick.fd)
    assert.equal((await queue.getId()).written, 21)
    closeSync(fd)
  }
})

define('call and error descriptors that nobody reads, or that are closed at the other end', async ({ connect }) => {
  const { front, queue } = await connect()
  const { readEnd, writeEnd } = pipe()
  await front.setVringCall(0, writeEnd)
  await front.setVringErr(0, writeEnd)
  for (let count = 0; count < 10; count++) await queue.getId()
  closeSync(readEnd)
  for (let count = 0; count < 10; count++) await queue.getId()
  closeSync(writeEnd)
  const file = memfdCreate('no call')
  await front.setVringCall(0, file)
  for (let count = 0; count < 10; count++) assert.equal((await queue.getId()).written, 21)
  closeSync(file)
})

test.run()
