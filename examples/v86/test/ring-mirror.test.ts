import assert from 'node:assert/strict'
import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import { VIRTQ_AVAIL_F_NO_INTERRUPT } from '@node-vmm/vring'
import { DriverRing, layOutRing } from '@node-vmm/vring/driver'
import { test } from 'uvu'
import { RingMirror } from '../ring-mirror.ts'

const RING = 0x1000
const layout = layOutRing(RING, 4)
const nothing = (): void => {}

/** What the device sees, through the guest addresses that it is given. */
class DeviceSide {
  readonly #mirror: RingMirror

  constructor (mirror: RingMirror) {
    this.#mirror = mirror
  }

  get flags (): number { return this.#mirror.memory.getUint16(this.#mirror.availableAddress) }
  get index (): number { return this.#mirror.memory.getUint16(this.#mirror.availableAddress + 2) }
  head (index: number): number { return this.#mirror.memory.getUint16(this.#mirror.availableAddress + 4 + 2 * (index % 4)) }

  use (index: number, head: number, length: number): void {
    const { memory, usedAddress } = this.#mirror
    memory.setUint32(usedAddress + 4 + 8 * (index % 4), head)
    memory.setUint32(usedAddress + 8 + 8 * (index % 4), length)
    memory.storeUint16(usedAddress + 2, index + 1)
  }
}

let guest: GuestMemory
let mirror: RingMirror
let driver: DriverRing
let device: DeviceSide
test.before.each(() => {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x10000 }])
  close(fd)
  guest = memory
  mirror = new RingMirror(guest, layout)
  driver = new DriverRing(guest, layout)
  device = new DeviceSide(mirror)
})
test.after.each(() => {
  mirror.close()
  guest.release()
})

test('the device sees what is available from the kick on, with the wish for no interrupts left out', () => {
  driver.disableInterrupts()
  const head = driver.add([{ address: 0, length: 16 }], [])
  driver.publish()
  assert.equal(device.index, 0, 'not before the kick')
  mirror.showDevice()
  assert.deepEqual([device.index, device.head(0), device.flags], [1, head, 0])
})

test('the guest sees what is used from the call on, after what must be done before', () => {
  const token = 7
  const head = driver.add([], [{ address: 0, length: 16 }], token)
  driver.publish()
  mirror.showDevice()
  device.use(0, head, 16)
  assert.ok(driver.pollUsed() < 0, 'not before the call')
  let before = 0
  assert.equal(mirror.showGuest(() => {
    before++
    assert.ok(driver.pollUsed() < 0)
  }), true)
  assert.equal(before, 1)
  assert.equal(driver.pollUsed(), head)
  assert.deepEqual([driver.usedToken, driver.usedLength], [token, 16])
})

test('the guest is interrupted once for what is new, and not when it does not want to be', () => {
  assert.equal(mirror.showGuest(nothing), false, 'nothing is new')
  for (const [index, wanted] of [true, false, true].entries()) {
    guest.setUint16(layout.availableAddress, wanted ? 0 : VIRTQ_AVAIL_F_NO_INTERRUPT)
    device.use(index, index, 0)
    assert.equal(mirror.showGuest(nothing), wanted)
    assert.equal(guest.getUint16(layout.usedAddress + 2), index + 1, 'shown in any case')
    assert.equal(mirror.showGuest(nothing), false, 'nothing is new')
  }
})

test('the guest never sees a wish for no kicks', () => {
  mirror.memory.setUint16(mirror.usedAddress, 1)
  device.use(0, 0, 0)
  mirror.showGuest(nothing)
  driver.add([{ address: 0, length: 16 }], [])
  driver.publish()
  assert.equal(driver.needsKick(), true)
})

test('indices wrap', () => {
  for (let index = 0; index < 0x10000 + 3; index++) {
    const head = driver.add([], [{ address: 0, length: 1 }])
    driver.publish()
    mirror.showDevice()
    assert.equal(device.index, (index + 1) & 0xffff)
    assert.equal(device.head(index), head)
    device.use(index & 0xffff, head, 1)
    assert.equal(mirror.showGuest(nothing), true)
    assert.equal(driver.pollUsed(), head)
  }
})

test('a ring that cannot be is refused', () => {
  const refuses = (change: Partial<typeof layout>, error: object): void =>
    assert.throws(() => new RingMirror(guest, { ...layout, ...change }), error)
  refuses({ availableAddress: 0x1001 }, RangeError)
  refuses({ usedAddress: 0x1002 }, RangeError)
  refuses({ availableAddress: 0x10000 }, { code: 'ERR_ACCESS' })
  refuses({ usedAddress: 0xfffc }, { code: 'ERR_ACCESS' })
})

test.run()
