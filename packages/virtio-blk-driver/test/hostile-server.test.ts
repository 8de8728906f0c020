import assert from 'node:assert/strict'
import { join } from 'node:path'
import { EventNotifier } from '@node-vmm/event-poll'
import { watchReadable, type Watch } from '@node-vmm/libc'
import { listen, type QueueSetup, type VhostUserDevice } from '@node-vmm/vhost-user'
import { DescriptorChain, SplitVring } from '@node-vmm/vring'
import { RawRing } from '@node-vmm/vring/driver'
import { test } from 'uvu'
import { temporaryFolder } from '../../../test/support/temporary.ts'
import { BlockDriver, type BlockDriverErrorCode, DRIVER_FEATURES } from '../src/index.ts'

/** What the server does with a request: `chain` was popped from `device`. */
type Misdeed = (device: SplitVring, chain: DescriptorChain, raw: RawRing, setup: QueueSetup) => void

/** A disk of 1 MiB whose only queue does wrong. */
class HostileDisk implements VhostUserDevice {
  readonly features = DRIVER_FEATURES & ~(1n << 5n)
  readonly queueCount = 1
  readonly #misdeed: Misdeed
  #watch: Watch | undefined
  #base = 0

  constructor (misdeed: Misdeed) {
    this.#misdeed = misdeed
  }

  getConfig (): Uint8Array {
    const bytes = new Uint8Array(60)
    new DataView(bytes.buffer).setUint32(0, 2048, true)
    return bytes
  }

  setFeatures (): void {}
  setCall (): void {}
  reset (): void {}

  startQueue (_index: number, setup: QueueSetup): void {
    const { memory, size, descriptorAddress, availableAddress, usedAddress, features, base } = setup
    const device = new SplitVring(memory, { size, descriptorAddress, availableAddress, usedAddress, features, availableIndex: base })
    const raw = new RawRing(memory, { size, descriptorAddress, availableAddress, usedAddress })
    const chain = new DescriptorChain(memory)
    const kick = EventNotifier.fromFd(setup.kickFd)
    this.#watch = watchReadable(setup.kickFd, () => {
      kick.clear()
      do {
        while (device.pop(chain) === 'chain') this.#misdeed(device, chain, raw, setup)
      } while (device.enableNotification() === 'more')
      this.#base = device.save().availableIndex
      if (setup.callFd !== undefined) EventNotifier.fromFd(setup.callFd).notify()
    })
  }

  async stopQueue (): Promise<number> {
    this.#watch?.close()
    return this.#base
  }
}

const path = join(temporaryFolder(), 'socket')

async function withHostile (misdeed: Misdeed, body: (driver: BlockDriver) => Promise<void>): Promise<void> {
  const listener = listen({ path, device: new HostileDisk(misdeed) })
  try {
    const driver = await BlockDriver.connect({ socketPath: path })
    try {
      await body(driver)
    } finally {
      await driver.close({ timeout: 100 })
    }
  } finally {
    await listener.close()
  }
}

function complete (device: SplitVring, chain: DescriptorChain, status: number): void {
  const last = chain.readableCount + chain.writableCount - 1
  chain.memory.setUint8(chain.guestAddress[last]!, status)
  device.push(chain.head, 1)
  device.publish()
}

for (const [name, code, status, misdeed] of [
  ['an I/O error', 'ERR_BLOCK_IO', 1, (device, chain) => complete(device, chain, 1)],
  ['no support', 'ERR_BLOCK_UNSUPPORTED', 2, (device, chain) => complete(device, chain, 2)],
  ['a status that there is not', 'ERR_BLOCK_IO', 77, (device, chain) => complete(device, chain, 77)],
  ['no status', 'ERR_BLOCK_BROKEN', undefined, (device, chain) => { device.push(chain.head, 0); device.publish() }]
] as [string, BlockDriverErrorCode, number | undefined, Misdeed][]) {
  test(`a server that answers with ${name} fails that request`, async () => {
    await withHostile(misdeed, async (driver) => {
      await assert.rejects(driver.read(0, 512), { name: 'BlockDriverError', code, status })
      await assert.rejects(driver.flush(), { code, status }, 'the next is asked as if nothing had been')
    })
  })
}

for (const [name, misdeed] of [
  ['a head that is not in flight', (_device, _chain, raw) => { raw.usedElement(0, { id: 77, length: 0 }); raw.usedIndex(1) }],
  ['a head beyond the ring', (_device, _chain, raw) => { raw.usedElement(0, { id: 0xffffffff, length: 0 }); raw.usedIndex(1) }],
  ['an index from nowhere', (_device, _chain, raw) => raw.usedIndex(1000)],
  ['the news that a ring is broken', (_device, _chain, _raw, setup) => { EventNotifier.fromFd(setup.errorFd!).notify() }]
] as [string, Misdeed][]) {
  test(`a server that answers with ${name} ends the driver, not the process`, async () => {
    await withHostile(misdeed, async (driver) => {
      const calls = await Promise.allSettled([driver.read(0, 512), driver.write(0, new Uint8Array(512)), driver.getId()])
      for (const call of calls) assert.equal(call.status === 'rejected' && call.reason.code, 'ERR_BLOCK_BROKEN')
      await assert.rejects(driver.flush(), { code: 'ERR_BLOCK_BROKEN' })
      assert.throws(() => driver.detachQueue(), { code: 'ERR_BLOCK_BROKEN' })
    })
  })
}

test('a server that never answers holds up neither a time limit nor the close', async () => {
  await withHostile(() => {}, async (driver) => {
    await assert.rejects(driver.read(0, 512, { signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
    const call = assert.rejects(driver.flush(), { code: 'ERR_BLOCK_CLOSED' })
    assert.throws(() => driver.detachQueue(), { code: 'ERR_BLOCK_BUSY' })
    await driver.close({ timeout: 50 })
    await call
  })
})

test('a signal ends the wait of a close', async () => {
  for (const when of ['before', 'during'] as const) {
    await withHostile(() => {}, async (driver) => {
      const call = assert.rejects(driver.flush(), { code: 'ERR_BLOCK_CLOSED' })
      const abort = new AbortController()
      const reason = new Error(`aborted ${when}`)
      if (when === 'before') abort.abort(reason)
      const closed = assert.rejects(driver.close({ timeout: 60_000, signal: abort.signal }), reason)
      abort.abort(reason)
      await Promise.all([closed, call])
      await driver.close()
    })
  }
})

test.run()
