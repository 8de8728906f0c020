import assert from 'node:assert/strict'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { close, eventfd, ftruncate, getSeals, F_SEAL_GROW, F_SEAL_SHRINK, memfdCreate, NativeMemory } from '@node-vmm/libc'
import { test } from 'uvu'
import { GuestMemory, GuestMemoryError, type GuestMemoryErrorCode, type RegionInit, WINDOW_BYTES } from '../src/index.ts'

const MiB = 0x100000
const GiB = 0x40000000

/** A file in memory under a name of its own, to be found in /proc/self/maps. */
function file (name: string, bytes: number): number {
  const fd = memfdCreate(name)
  ftruncate(fd, bytes)
  return fd
}

/** Mappings of this process that show a memfd of this name. */
function mappings (name: string): number {
  return readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => line.includes(`/memfd:${name}`)).length
}

function refuses (regions: RegionInit[], code: GuestMemoryErrorCode): void {
  assert.throws(() => GuestMemory.map(regions), (error) => error instanceof GuestMemoryError && error.code === code)
}

const ascii = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text))
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString()

test('regions of one file are mapped by guest address, in any order, at their offsets', () => {
  const fd = file('offsets', 8 * MiB)
  const memory = GuestMemory.map([
    { guestAddress: 0x100000000, size: 2 * MiB, fd, offset: 4 * MiB },
    { guestAddress: 0, size: MiB, fd, offset: MiB }
  ])
  const whole = GuestMemory.map([{ guestAddress: 0, size: 8 * MiB, fd }])
  close(fd)
  assert.deepEqual(memory.regions.map(({ guestAddress, size }) => [guestAddress, size]), [[0, MiB], [0x100000000, 2 * MiB]])
  memory.write(0x100000000 + 5, ascii('high'))
  memory.write(7, ascii('low'))
  assert.equal(text(whole.read(4 * MiB + 5, 4)), 'high')
  assert.equal(text(whole.read(MiB + 7, 3)), 'low')
  memory.release()
  whole.release()
})

test('an offset that is no multiple of a page works', () => {
  const fd = file('odd', MiB)
  const whole = GuestMemory.map([{ guestAddress: 0, size: MiB, fd }])
  const memory = GuestMemory.map([{ guestAddress: 0x1000, size: 0x2345, fd, offset: 0x1234 }])
  close(fd)
  memory.write(0x1000 + 0x2344, ascii('z'))
  assert.equal(text(whole.read(0x1234 + 0x2344, 1)), 'z')
  assert.throws(() => memory.read(0x1000 + 0x2344, 2), { code: 'ERR_ACCESS' })
  memory.release()
  whole.release()
  assert.equal(mappings('odd'), 0)
})

test('regions that cannot be are refused, and leave nothing mapped', () => {
  const fd = file('refused', MiB)
  const good = { guestAddress: 0, size: 0x1000, fd }
  refuses([good, { guestAddress: 0x1000, size: 0, fd }], 'ERR_REGION_INVALID')
  refuses([good, { guestAddress: -4096, size: 4096, fd }], 'ERR_REGION_INVALID')
  refuses([good, { guestAddress: 0x1000, size: 1.5, fd }], 'ERR_REGION_INVALID')
  refuses([good, { guestAddress: NaN, size: 1, fd }], 'ERR_REGION_INVALID')
  refuses([good, { guestAddress: 2 ** 53 - 4096, size: 8192, fd }], 'ERR_REGION_INVALID')
  refuses([good, { guestAddress: 0x1000, size: 4096, fd, offset: 2 ** 53 - 4096 }], 'ERR_REGION_INVALID')
  refuses([good, { guestAddress: 0x1000, size: 4096, fd, userAddress: 2 ** 53 - 1 }], 'ERR_REGION_INVALID')
  refuses([good, { guestAddress: 0xfff, size: 1, fd, userAddress: 0x10000 }], 'ERR_REGION_OVERLAP')
  refuses([good, { guestAddress: 0x1000, size: 1, fd, userAddress: 0xfff }], 'ERR_REGION_OVERLAP')
  refuses([good, { guestAddress: 0x1000, size: MiB + 1, fd }], 'ERR_REGION_BEYOND_FILE')
  refuses([good, { guestAddress: 0x1000, size: 4096, fd, offset: MiB - 4095 }], 'ERR_REGION_BEYOND_FILE')
  assert.throws(() => GuestMemory.map([good, { guestAddress: 0x1000, size: 4096, fd: -1 }]), { code: 'EBADF' })
  assert.equal(mappings('refused'), 0)
  GuestMemory.map([good, { guestAddress: 0x1000, size: 1, fd }]).release()
  close(fd)
})

test('bug: /dev/zero, mapped with an offset, ended the process: what is no regular file is refused', () => {
  const fd = file('good', MiB)
  const good = { guestAddress: 0, size: 0x1000, fd }
  for (const path of ['/dev/zero', '/', '/dev/null']) {
    const device = openSync(path, 'r')
    refuses([good, { guestAddress: 0x10000, size: 0x10000, fd: device, offset: 0x1000 }], 'ERR_REGION_NO_FILE')
    refuses([good, { guestAddress: 0x10000, size: 0x1000, fd: device }], 'ERR_REGION_NO_FILE')
    closeSync(device)
  }
  const event = eventfd()
  refuses([good, { guestAddress: 0x10000, size: 8, fd: event }], 'ERR_REGION_NO_FILE')
  close(event)
  close(fd)
  assert.equal(mappings('good'), 0)
})

test('lookups take a length and an access', () => {
  const fd = file('lookup', MiB)
  const memory = GuestMemory.map([
    { guestAddress: 0x1000, size: 0x1000, fd, readOnly: true },
    { guestAddress: 0x2000, size: 0x1000, fd, offset: 0x2000 },
    { guestAddress: 0x10000, size: 0x1000, fd, offset: 0x4000 }
  ])
  close(fd)
  const [rom, ram] = memory.regions
  assert.equal(memory.translate(0x1800, 0x800, false), rom!.hostAddress + 0x800)
  assert.equal(memory.translate(0x1800, 1, true), 0, 'read-only')
  assert.equal(memory.translate(0x1800, 0x801, false), 0, 'beyond the region')
  assert.equal(memory.translate(0x2fff, 1, true), ram!.hostAddress + 0xfff)
  for (const address of [0, 0xfff, 0x3000, 0xffff, 0x11000, 2 ** 53 - 1]) assert.equal(memory.translate(address, 1, false), 0)
  assert.equal(memory.translate(0x2fff, 2 ** 53 - 1, true), 0)

  assert.deepEqual(memory.slices(0x1800, 0x1000, false),
    [{ address: rom!.hostAddress + 0x800, length: 0x800 }, { address: ram!.hostAddress, length: 0x800 }])
  assert.equal(memory.slices(0x1800, 0x1000, true), undefined, 'one part is read-only')
  assert.equal(memory.slices(0x2800, 0x1000, true), undefined, 'one part is a hole')
  assert.deepEqual(memory.slices(0x5000, 0, true), [])
  memory.release()
})

test('reads and writes straddle regions, or do nothing', () => {
  const fd = file('straddle', MiB)
  const memory = GuestMemory.map([
    { guestAddress: 0x1000, size: 0x1000, fd, offset: 0x8000 },
    { guestAddress: 0x2000, size: 0x1000, fd },
    { guestAddress: 0x3000, size: 0x1000, fd, offset: 0x1000, readOnly: true }
  ])
  close(fd)
  memory.write(0x1ffc, ascii('straddle'))
  assert.equal(text(memory.read(0x1ffc, 8)), 'straddle')
  assert.equal(text(memory.read(0x2000, 4)), 'ddle')
  assert.throws(() => memory.write(0x2ffc, ascii('straddle')), { code: 'ERR_ACCESS' })
  assert.deepEqual(memory.read(0x2ffc, 8), new Uint8Array(8), 'nothing was written')
  assert.throws(() => memory.read(0x3ffc, 8), { code: 'ERR_ACCESS' })
  assert.throws(() => memory.setUint32(0x1ffe, 1), { code: 'ERR_ACCESS' }, 'a scalar lies in one region')
  assert.throws(() => memory.view(0x1ffe, 4), { code: 'ERR_ACCESS' })
  memory.release()
})

test('a read-only region is protected by its pages too', () => {
  const fd = file('protected', 4096)
  const memory = GuestMemory.map([{ guestAddress: 0, size: 4096, fd, readOnly: true }])
  close(fd)
  assert.match(readFileSync('/proc/self/maps', 'utf8').split('\n').find((line) => line.includes('/memfd:protected'))!, / r--s /)
  assert.equal(memory.getUint8(0), 0)
  assert.throws(() => memory.setUint8(0, 1), { code: 'ERR_ACCESS' })
  assert.throws(() => memory.storeUint16(0, 1), { code: 'ERR_ACCESS' })
  assert.throws(() => memory.view(0, 1), { code: 'ERR_ACCESS' })
  memory.release()
})

test('maps share mappings, and the last one that has a mapping unmaps it', () => {
  const fd = file('shared-mapping', MiB)
  const first = { guestAddress: 0, size: 0x1000, fd }
  const second = { guestAddress: 0x10000, size: 0x1000, fd, offset: 0x10000 }
  const one = GuestMemory.map([first])
  const two = one.with(second)
  close(fd)
  assert.equal(mappings('shared-mapping'), 2)
  assert.equal(two.regions[0]!.hostAddress, one.regions[0]!.hostAddress, 'the same mapping')
  assert.equal(one.regions.length, 1, 'the old map is as it was')
  const three = two.without(second)
  two.release()
  assert.equal(mappings('shared-mapping'), 1, 'the second region was in this map alone')
  one.release()
  assert.equal(mappings('shared-mapping'), 1)
  three.write(0, ascii('alive'))
  three.retain().release()
  assert.equal(text(three.read(0, 5)), 'alive')
  three.release()
  assert.equal(mappings('shared-mapping'), 0)
  assert.throws(() => three.release(), { code: 'ERR_RELEASED' })
  assert.throws(() => three.retain(), { code: 'ERR_RELEASED' })
  assert.throws(() => three.without(first), { code: 'ERR_RELEASED' })
})

test('a change that fails leaves the map and its mappings as they were', () => {
  const fd = file('unchanged', MiB)
  const memory = GuestMemory.map([{ guestAddress: 0, size: 0x1000, fd }])
  assert.throws(() => memory.with({ guestAddress: 0x800, size: 0x1000, fd, userAddress: 0x100000 }), { code: 'ERR_REGION_OVERLAP' })
  for (const wrong of [{ guestAddress: 0x1000 }, { size: 0x800 }, { userAddress: 4096 }]) {
    assert.throws(() => memory.without({ guestAddress: 0, size: 0x1000, ...wrong }), { code: 'ERR_REGION_UNKNOWN' })
  }
  close(fd)
  assert.equal(mappings('unchanged'), 1)
  memory.write(0, ascii('alive'))
  memory.release()
  assert.equal(mappings('unchanged'), 0)
})

test('the front-end names memory by its own addresses', () => {
  const fd = file('user', MiB)
  const memory = GuestMemory.map([
    { guestAddress: 0, size: 0x1000, fd, userAddress: 0x7f0000000000 },
    { guestAddress: 0x100000, size: 0x1000, fd, userAddress: 0x7e0000000000 }
  ])
  close(fd)
  assert.equal(memory.guestAddressOf(0x7f0000000010, 0x10), 0x10)
  assert.equal(memory.guestAddressOf(0x7e0000000ff0, 0x10), 0x100ff0)
  assert.equal(memory.guestAddressOf(0x7e0000000ff0, 0x11), -1)
  assert.equal(memory.guestAddressOf(0x7e0000001000, 1), -1)
  assert.equal(memory.guestAddressOf(0, 1), -1, 'a guest address is no user address')
  memory.release()
})

test('fresh memory is one sealed file, ready to pass on', () => {
  const { memory, fd, regions } = GuestMemory.allocate([{ guestAddress: 0x1000, size: 0x1800 }, { guestAddress: 0x100000, size: MiB }])
  assert.equal(getSeals(fd) & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW)
  assert.throws(() => ftruncate(fd, 0), { code: 'EPERM' })
  assert.deepEqual(regions.map(({ offset }) => offset), [0, 0x2000])
  const peer = GuestMemory.map(regions)
  close(fd)
  memory.write(0x100000, ascii('hello'))
  assert.equal(text(peer.read(0x100000, 5)), 'hello')
  peer.release()
  memory.release()
  const open = mappings('guest-memory')
  assert.throws(() => GuestMemory.allocate([{ guestAddress: 0, size: 0x1000 }, { guestAddress: 0x800, size: 0x1000 }]), { code: 'ERR_REGION_OVERLAP' })
  assert.throws(() => GuestMemory.allocate([{ guestAddress: 0, size: 0 }]), { code: 'ERR_REGION_INVALID' })
  assert.equal(mappings('guest-memory'), open)
})

test("memory that the caller has already is a region by its address, and stays the caller's", () => {
  const own = new NativeMemory(0x2000)
  const fd = file('beside', 0x1000)
  const memory = GuestMemory.map([
    { guestAddress: 0x1000, size: 0x1000, fd },
    { guestAddress: 0x2000, size: 0x1000, hostAddress: own.address + 0x1000 },
    { guestAddress: 0x3000, size: 0x800, hostAddress: own.address, readOnly: true }
  ])
  close(fd)
  assert.equal(memory.translate(0x2010, 16, true), own.address + 0x1010)
  memory.write(0x1ffe, ascii('beside'))
  assert.equal(text(own.u8.subarray(0x1000, 0x1004)), 'side')
  assert.equal(memory.translate(0x3000, 0x800, true), 0, 'read-only')
  assert.equal(memory.translate(0x3000, 0x801, false), 0)
  const smaller = memory.without({ guestAddress: 0x3000, size: 0x800 })
  memory.release()
  const larger = smaller.with({ guestAddress: 0x8000, size: 1, hostAddress: own.address + 1 })
  own.u8[1] = 7
  assert.equal(larger.getUint8(0x8000), 7)
  smaller.release()
  larger.release()
  assert.equal(mappings('beside'), 0)
  own.u8[0] = 8
  assert.equal(own.u8[0], 8, 'still mapped')

  const refused = (hostAddress: number): void =>
    assert.throws(() => GuestMemory.map([{ guestAddress: 0, size: 4096, hostAddress }]), { code: 'ERR_REGION_INVALID' })
  for (const hostAddress of [0, -4096, 1.5, NaN, 2 ** 53 - 4095]) refused(hostAddress)
  own.close()
})

test('scalars are little-endian, and 16-bit atomics aligned', () => {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0x1000, size: 0x1000 }])
  close(fd)
  memory.setUint64(0x1001, 0x1122334455667788n)
  assert.deepEqual([...memory.read(0x1001, 8)], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11])
  assert.equal(memory.getUint64(0x1001), 0x1122334455667788n)
  assert.equal(memory.getUint32(0x1001), 0x55667788)
  assert.equal(memory.getUint16(0x1001), 0x7788)
  assert.equal(memory.getUint8(0x1001), 0x88)
  memory.setUint32(0x1ffc, 0xffffffff)
  assert.equal(memory.getUint32(0x1ffc), 0xffffffff)
  assert.throws(() => memory.getUint32(0x1ffd), { code: 'ERR_ACCESS' })
  memory.storeUint16(0x1ffe, 0x1234)
  assert.equal(memory.loadUint16(0x1ffe), 0x1234)
  assert.throws(() => memory.loadUint16(0x1ffd), { code: 'ERR_ACCESS' })
  const words = new Uint16Array(memory.view(0x1ffe, 2))
  Atomics.add(words, 0, 1)
  assert.equal(memory.loadUint16(0x1ffe), 0x1235)
  memory.release()
})

test('a region larger than one ArrayBuffer can show is reached to its end, and across window borders', () => {
  const base = 0x100000000
  const size = 5 * GiB + 0x1000
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: base, size }])
  close(fd)
  const end = base + size
  memory.write(end - 4, ascii('last'))
  assert.equal(text(memory.read(end - 4, 4)), 'last')
  assert.equal(memory.getUint32(end - 4), new DataView(ascii('last').buffer).getUint32(0, true))
  assert.throws(() => memory.getUint32(end - 3), { code: 'ERR_ACCESS' })
  for (const border of [1, 2, 3, 4, 5].map((windows) => base + windows * WINDOW_BYTES)) {
    for (const at of [border - 7, border - 4, border - 1, border]) {
      memory.setUint64(at, BigInt(at))
      assert.equal(memory.getUint64(at), BigInt(at))
      assert.equal(new DataView(memory.read(at, 8).buffer).getBigUint64(0, true), BigInt(at))
    }
    memory.storeUint16(border - 2, 0xabcd)
    assert.equal(memory.loadUint16(border - 2), 0xabcd)
    memory.write(border - 3, ascii('across'))
    assert.equal(text(memory.read(border - 3, 6)), 'across')
  }
  assert.equal(memory.translate(base, size, true), memory.regions[0]!.hostAddress)
  assert.equal(memory.view(end - 0x1000, 0x1000).byteLength, 0x1000)
  memory.release()
})

test('another thread attaches to the map, and sees and changes the same memory', async () => {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0x1000, size: 0x1000 }, { guestAddress: 0x100000, size: 0x1000 }])
  close(fd)
  memory.write(0x100000, ascii('ping'))
  const open = mappings('guest-memory')
  const worker = new Worker(new URL('./support/attached.ts', import.meta.url), { workerData: memory.toData() })
  // Listened for at once: the end may be told in the same turn as the message.
  const ended = new Promise((resolve) => worker.once('exit', resolve))
  const seen = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  assert.deepEqual(seen, { read: 'ping', change: 'ERR_RELEASED' })
  assert.equal(text(memory.read(0x1000, 4)), 'pong')
  await ended
  assert.equal(mappings('guest-memory'), open, 'the end of the other thread unmaps nothing')
  memory.release()
})

test('random lookups agree with a search through all regions', () => {
  const seed = Number(process.env.SEED ?? 20261)
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor(state / 0x100000000 * below)
  }
  const fd = file('random', MiB)
  for (let round = 0; round < 20; round++) {
    let next = 0
    const regions = Array.from({ length: 1 + random(12) }, (): RegionInit => {
      const guestAddress = next + random(2) * random(0x4000)
      const size = 1 + random(0x3000)
      next = guestAddress + size
      return { guestAddress, size, fd, userAddress: 0x7000000000 + guestAddress, readOnly: random(4) === 0 }
    })
    const memory = GuestMemory.map([...regions].sort(() => random(3) - 1))
    const has = (address: number, write: boolean): boolean => regions.some((region) =>
      address >= region.guestAddress && address < region.guestAddress + region.size && !(write && region.readOnly))
    for (let lookup = 0; lookup < 200; lookup++) {
      const [address, length, write] = [random(next + 0x1000), 1 + random(0x200), random(2) === 0]
      const all = Array.from({ length }, (_, offset) => has(address + offset, write)).every(Boolean)
      const note = `seed ${seed}, round ${round}: ${length} bytes at ${address}`
      const slices = memory.slices(address, length, write)
      assert.equal(slices !== undefined, all, note)
      if (slices !== undefined) {
        assert.equal(slices.reduce((sum, slice) => sum + slice.length, 0), length, note)
        const host = memory.translate(address, length, write)
        assert.equal(host, slices.length === 1 ? slices[0]!.address : 0, note)
      }
      const span = memory.find(address)
      assert.equal(span !== undefined, has(address, false), note)
      if (span !== undefined) {
        const region = memory.regions.find(({ guestAddress, size }) => address >= guestAddress && address < guestAddress + size)!
        const { guestAddress, size, hostAddress, readOnly } = region
        assert.deepEqual([span.start, span.end, span.hostOffset, span.readOnly], [guestAddress, guestAddress + size, hostAddress - guestAddress, readOnly], note)
        assert.equal(memory.guestAddressOf(0x7000000000 + address, 1), address, note)
      }
    }
    memory.release()
  }
  close(fd)
  assert.equal(mappings('random'), 0)
})

test.run()
