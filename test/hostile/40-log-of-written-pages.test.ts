import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { test } from 'uvu'
import { dirtyLogBytes } from '../../packages/hostmem/src/index.ts'
import { ftruncate, memfdCreate, mmap, munmap, viewMemory } from '../../packages/libc/src/index.ts'
import { TransportFeature } from '../../packages/vhost-user/src/index.ts'
import { eventually } from '../support/eventually.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { BORDER, type HostileGuest, inCase, NOWHERE } from '../support/hostile-guest.ts'

const define = hostile()

const LOG_BYTES = dirtyLogBytes(NOWHERE)
/** For each page, all other bits of its byte: the front-end's own, which no device may lose. */
const OTHERS = (page: number): number => 0xff & ~(1 << page % 8)

/** A log in shared memory. */
class Log {
  readonly fd = memfdCreate('log')
  readonly bits: Uint8Array
  readonly #address: number

  constructor (bytes: number) {
    ftruncate(this.fd, bytes)
    this.#address = mmap({ fd: this.fd, length: bytes })
    this.bits = new Uint8Array(viewMemory(this.#address, bytes))
  }

  has (address: number): boolean {
    const page = Math.floor(address / 4096)
    return (this.bits[Math.floor(page / 8)]! >> page % 8 & 1) === 1
  }

  close (): void {
    munmap(this.#address, this.bits.length)
    closeSync(this.fd)
  }
}

/** Has the ring of a guest logged, as a migration does. */
async function log ({ front, features, queue }: HostileGuest, { fd }: Log): Promise<void> {
  await front.setVringAddr(0, { ...queue.addresses, flags: 1, log: BigInt(queue.layout.usedAddress) })
  await front.setLogBase({ fd, size: LOG_BYTES })
  await front.setFeatures(features | TransportFeature.LOG_ALL)
}

define('a log that does not cover the memory, or is not in its file, is refused, and the ring runs on', async ({ connect }) => {
  const guest = await connect()
  const file = new Log(LOG_BYTES)
  for (const [title, wrong] of Object.entries({
    'a byte too small': { size: LOG_BYTES - 1 },
    'without bytes': { size: 0 },
    'past the end of its file': { size: LOG_BYTES + 1 },
    'behind the end of its file': { size: LOG_BYTES, offset: 1 << 20 },
    'misaligned': { size: LOG_BYTES - 8, offset: 4 },
    'whose end wraps': { size: LOG_BYTES, offset: Number.MAX_SAFE_INTEGER - 7 }
  })) {
    await inCase(title, () => assert.rejects(guest.front.setLogBase({ fd: file.fd, ...wrong }), { code: 'ERR_VHOST_USER_REFUSED' }))
  }
  await assert.rejects(guest.front.setLogBase({ fd: guest.queue.kick.fd, size: LOG_BYTES }), { code: 'ERR_VHOST_USER_REFUSED' }, 'an eventfd')
  assert.equal((await guest.queue.getId()).written, 21)
  assert.ok(file.bits.every((byte) => byte === 0))
  file.close()
})

define('memory that the log does not cover is refused while it is logged', async ({ connect }) => {
  const guest = await connect()
  const file = new Log(LOG_BYTES)
  await log(guest, file)
  const more = { guestAddress: NOWHERE + 0x10000000, size: 0x1000, fd: guest.memoryFd }
  await assert.rejects(guest.front.addMemReg(more), { code: 'ERR_VHOST_USER_REFUSED' })
  assert.equal((await guest.queue.getId()).written, 21)
  file.close()
})

define('a used ring that is to be logged beyond the log does not run', async ({ connect }) => {
  const guest = await connect()
  const file = new Log(LOG_BYTES)
  await log(guest, file)
  const beyond = { ...guest.queue.addresses, flags: 1, log: BigInt(NOWHERE) * 2n }
  await assert.rejects(guest.front.setVringAddr(0, beyond), { code: 'ERR_VHOST_USER_REFUSED' })
  await guest.front.setVringAddr(0, guest.queue.addresses)
  assert.equal((await guest.queue.getId()).written, 21)
  file.close()
})

define('every page that is written is marked, none else, and no bit that others set meanwhile is lost', async ({ connect }) => {
  const guest = await connect()
  const { queue, memory } = guest
  const file = new Log(LOG_BYTES)
  await log(guest, file)
  const data = BORDER - 4096
  const page = data / 4096
  const at = Math.floor(page / 8)
  for (let round = 0; round < 20; round++) {
    file.bits.fill(0)
    const count = queue.collect().length
    const status = guest.filled(1)
    queue.offer([
      { address: guest.header(0, 8), length: 16 }, { address: data, length: 1024, flags: 2 }, { address: status, length: 1, flags: 2 }
    ])
    queue.kick.signal()
    // The front-end sets the bits of other pages in the same byte all the while.
    await eventually('the answer', () => {
      for (let turn = 0; turn < 1000; turn++) {
        Atomics.or(file.bits, at, OTHERS(page))
        Atomics.and(file.bits, at, 1 << page % 8)
      }
      return queue.collect().length > count
    })
    assert.ok(file.has(data) && file.has(status), 'data and status')
    // What is written last is marked after it was shown.
    const ring = queue.isPacked ? queue.layout.descriptorAddress : queue.layout.usedAddress
    await eventually('the ring', () => file.has(ring))
    assert.equal(file.bits[at]! & ~(1 << page % 8), 0, 'no other page')
    assert.equal(file.has(guest.allocate(0) + 0x10000), false)
    assert.deepEqual(memory.read(data, 1024), sectorPattern(8, 2))
  }
  file.close()
})

test.run()
