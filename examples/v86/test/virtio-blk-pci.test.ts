import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { dirtyLogBytes, GuestMemory } from '@node-vmm/hostmem'
import { close, NativeMemory } from '@node-vmm/libc'
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '@node-vmm/virtio-blk'
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1 } from '@node-vmm/vring'
import { DriverRing, layOutRing } from '@node-vmm/vring/driver'
import { test } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { COMMON, configurationSpace, DEVICE, ISR, NOTIFY } from '../pci-configuration.ts'
import { VirtioBlkPci } from '../virtio-blk-pci.ts'

const MEMORY = 0x100000
const layout = layOutRing(0x1000, 16)
const HEADER = 0x8000
const STATUS = 0x8010
const DATA = 0x9000

const [ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET] = [1, 2, 4, 8, 0x40]
const VERSION_1 = 1 << VIRTIO_F_VERSION_1 - 32

/** A disk of 64 sectors in its slot, and a driver for it. */
class Rig {
  readonly memory: GuestMemory
  readonly writtenPages = new NativeMemory(dirtyLogBytes(MEMORY))
  readonly image = join(temporaryFolder(), 'disk.img')
  readonly device: VirtioBlkPci
  readonly faults: string[] = []
  pinAsserted = false
  /** What happened before the guest was shown something. */
  forgotten = 0

  constructor () {
    const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: MEMORY }])
    close(fd)
    this.memory = memory
    writeFileSync(this.image, Buffer.concat(Array.from({ length: 64 }, (_, sector) => Buffer.alloc(512, sector))))
    this.device = new VirtioBlkPci({ path: this.image }, {
      ram: { memory, writtenPages: this.writtenPages, checkPlace: () => {}, forgetStaleCode: () => { this.forgotten++ } },
      raiseInterrupt: () => { this.pinAsserted = true },
      lowerInterrupt: () => { this.pinAsserted = false },
      onFault: (message) => this.faults.push(message)
    })
  }

  get status (): number {
    return this.device.read(COMMON + 0x14, 1)
  }

  set status (status: number) {
    this.device.write(COMMON + 0x14, status)
  }

  acceptFeatures (low: number, high: number): boolean {
    for (const [select, features] of [low, high].entries()) {
      this.device.write(COMMON + 0x08, select)
      this.device.write(COMMON + 0x0c, features >>> 0)
    }
    this.status |= FEATURES_OK
    return (this.status & FEATURES_OK) !== 0
  }

  /** All that a driver does before its first request. */
  start (rings = layout): DriverRing {
    this.status = ACKNOWLEDGE
    this.status |= DRIVER
    assert.ok(this.acceptFeatures(0, VERSION_1))
    this.device.write(COMMON + 0x16, 0)
    this.device.write(COMMON + 0x18, rings.size)
    for (const [at, address] of [rings.descriptorAddress, rings.availableAddress, rings.usedAddress].entries()) {
      this.device.write(COMMON + 0x20 + 8 * at, address)
      this.device.write(COMMON + 0x24 + 8 * at, 0)
    }
    this.device.write(COMMON + 0x1c, 1)
    const driver = new DriverRing(this.memory, layout)
    this.status |= DRIVER_OK
    return driver
  }

  send (driver: DriverRing, type: number, sector: number): void {
    this.memory.setUint32(HEADER, type)
    this.memory.setUint64(HEADER + 8, BigInt(sector))
    this.memory.setUint8(STATUS, 0xff)
    const [header, data, status] = [{ address: HEADER, length: 16 }, { address: DATA, length: 512 }, { address: STATUS, length: 1 }]
    if (type === VIRTIO_BLK_T_IN) driver.add([header], [data, status])
    else driver.add([header, data], [status])
    driver.publish()
    this.device.write(NOTIFY, 0)
  }

  async close (): Promise<void> {
    await this.device.close()
    this.memory.release()
    this.writtenPages.close()
  }
}

let rig: Rig
test.before.each(() => { rig = new Rig() })
test.after.each(async () => {
  await rig.close()
  await cleanUp()
})

test('the configuration space leads to the four structures', () => {
  const space = new DataView(configurationSpace(2, 0xc000).buffer)
  assert.deepEqual([space.getUint16(0, true), space.getUint16(2, true), space.getUint32(0x10, true)], [0x1af4, 0x1042, 0xc001])
  assert.equal(space.getUint16(6, true) & 0x10, 0x10)
  const found: number[][] = []
  for (let at = space.getUint8(0x34); at !== 0; at = space.getUint8(at + 1)) {
    assert.equal(space.getUint8(at), 9)
    found.push([space.getUint8(at + 3), space.getUint8(at + 4), space.getUint32(at + 8, true)])
  }
  assert.deepEqual(found, [[1, 0, COMMON], [2, 0, NOTIFY], [3, 0, ISR], [4, 0, DEVICE]])
})

test('features are offered without those that two sides would have to agree on by memory, and refused as a whole', () => {
  rig.device.write(COMMON + 0x00, 0)
  const low = rig.device.read(COMMON + 0x04, 4)
  rig.device.write(COMMON + 0x00, 1)
  assert.equal(low & 1 << VIRTIO_F_EVENT_IDX, 0)
  assert.equal(rig.device.read(COMMON + 0x04, 4) & VERSION_1, VERSION_1)
  assert.equal(rig.acceptFeatures(low, VERSION_1), true)
  rig.status = 0
  assert.equal(rig.acceptFeatures(low | 1 << VIRTIO_F_EVENT_IDX, VERSION_1), false, 'one that was not offered')
  rig.status = 0
  assert.equal(rig.acceptFeatures(low, 0), false, 'no driver of before 1.0')
})

test("there is one queue, and the disk's configuration", () => {
  assert.equal(rig.device.read(COMMON + 0x12, 2), 1)
  assert.equal(rig.device.read(COMMON + 0x18, 2), 128)
  rig.device.write(COMMON + 0x16, 1)
  assert.equal(rig.device.read(COMMON + 0x18, 2), 0, 'no second one')
  rig.device.write(COMMON + 0x1c, 1)
  rig.device.write(COMMON + 0x16, 0)
  assert.equal(rig.device.read(COMMON + 0x1c, 2), 0)
  assert.equal(rig.device.read(DEVICE, 4), 64)
  assert.equal(rig.device.read(DEVICE + 4, 4), 0)
  assert.equal(rig.device.read(DEVICE + 12, 2), 126)
  assert.equal(rig.device.read(0xfe, 4), 0)
})

test('a request is served, and the interrupt stands until the ISR is read', async () => {
  const driver = rig.start()
  rig.send(driver, VIRTIO_BLK_T_IN, 5)
  await eventually('the read is done', () => rig.pinAsserted)
  assert.ok(rig.forgotten > 0, 'compiled code was forgotten first')
  assert.ok(driver.pollUsed() >= 0)
  assert.equal(rig.memory.getUint8(STATUS), 0)
  assert.deepEqual([...new Set(rig.memory.read(DATA, 512))], [5])
  const page = DATA / 4096
  assert.equal(rig.writtenPages.u8[page >> 3]! >> (page & 7) & 1, 1, 'the page is known as written')
  assert.equal(rig.device.read(ISR, 1), 1)
  assert.equal(rig.pinAsserted, false)
  assert.equal(rig.device.read(ISR, 1), 0)

  rig.memory.write(DATA, Buffer.alloc(512, 0xaa))
  rig.send(driver, VIRTIO_BLK_T_OUT, 9)
  await eventually('the write is done', () => rig.pinAsserted)
  assert.deepEqual([...new Set(readFileSync(rig.image).subarray(9 * 512, 10 * 512))], [0xaa])
})

test('after a reset another driver starts, also one that does not wait for the reset to end', async () => {
  for (let round = 0; round < 5; round++) {
    const driver = rig.start()
    rig.send(driver, VIRTIO_BLK_T_IN, round)
    await eventually('the read is done', () => rig.pinAsserted)
    assert.deepEqual([...new Set(rig.memory.read(DATA, 512))], [round])
    rig.status = 0
    assert.equal(rig.pinAsserted, false)
    assert.notEqual(rig.status, 0, 'the old queue is not let go of yet')
    if (round % 2 === 0) await eventually('the reset has ended', () => rig.status === 0)
  }
  assert.deepEqual(rig.faults, [])
})

test('rings outside memory, and malformed ones, are told, and mended by a reset', async () => {
  for (const rings of [{ ...layout, usedAddress: MEMORY }, { ...layout, descriptorAddress: MEMORY }, { ...layout, size: 5 }]) {
    rig.start(rings)
    await eventually('the device wants a reset', () => (rig.status & NEEDS_RESET) !== 0)
    assert.equal(rig.device.read(ISR, 1), 2)
    rig.status = 0
    await eventually('the reset has ended', () => rig.status === 0)
  }
  assert.equal(rig.faults.length, 3)
  const driver = rig.start()
  rig.send(driver, VIRTIO_BLK_T_IN, 1)
  await eventually('the read is done', () => rig.pinAsserted)
})

test.run()
