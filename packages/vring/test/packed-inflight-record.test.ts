import { GuestMemory } from '@node-vmm/hostmem'
import { close, NativeMemory } from '@node-vmm/libc'
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { layOutPackedRing, RawPackedRing } from '../src/driver/index.ts'
import {
  DescriptorChain, featureMask, PackedInflightRecord, packedInflightRecordBytes, PackedVring, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC,
  VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE
} from '../src/index.ts'
import { randomIntegers } from './support/fixture.ts'

const SIZE = 5
const RING = 0x1000
const TABLES = 0x2000
const DATA = 0x8000
const TOKENS = 64
const RECORD_BYTES = packedInflightRecordBytes(SIZE)
/** Where the record's free heads and its cursors are: each changed by one store. */
const HEADS = 12
const CURSORS = 16

type Random = (bound: number) => number

/** What a driver knows: where it goes on, and what it has not got back, the oldest first. A buffer's id is its token. */
interface Driver {
  available: number
  used: number
  outstanding: { token: number, count: number }[]
  tokens: number
}

/** A ring whose memory and record outlive the devices that serve it. */
class Crashing {
  readonly memory: GuestMemory
  readonly raw: RawPackedRing
  readonly record = new NativeMemory(RECORD_BYTES)
  readonly chain: DescriptorChain
  readonly #ring: Uint8Array
  readonly #features: bigint
  readonly inOrder: boolean
  driver: Driver = { available: 0x8000, used: 0x8000, outstanding: [], tokens: 0 }

  constructor ({ inOrder = false } = {}) {
    this.inOrder = inOrder
    const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x10000 }])
    close(fd)
    this.memory = memory
    this.raw = new RawPackedRing(memory, layOutPackedRing(RING, SIZE))
    this.chain = new DescriptorChain(memory)
    this.#ring = new Uint8Array(memory.view(RING, 16 * SIZE))
    this.#features = featureMask(VIRTIO_F_INDIRECT_DESC) | (inOrder ? featureMask(VIRTIO_F_IN_ORDER) : 0n)
  }

  /** A device that is told nothing but where a fresh ring begins, as by QEMU after a crash. */
  device (): PackedVring {
    return new PackedVring(this.memory, { ...this.raw.layout, features: this.#features }, { record: new PackedInflightRecord(this.record.address, SIZE) })
  }

  /** @returns its token; undefined where the ring has no room */
  offer (count: number, indirect = false): number | undefined {
    const { driver } = this
    const taken = driver.outstanding.reduce((sum, { count }) => sum + count, 0)
    const places = indirect ? 1 : count
    if (taken + places > SIZE) return undefined
    const token = driver.tokens++ % TOKENS
    const buffers = Array.from({ length: count }, (_, nth) => ({ address: DATA + token * 64 + nth * 8, length: 8, flags: VIRTQ_DESC_F_WRITE }))
    const table = TABLES + token * 64
    if (indirect) buffers.forEach((buffer, nth) => this.raw.descriptor(nth, buffer, table))
    const chain = indirect ? [{ address: table, length: 16 * count, flags: VIRTQ_DESC_F_INDIRECT }] : buffers
    driver.available = this.raw.chain(chain, token, driver.available)
    driver.outstanding.push({ token, count: places })
    return token
  }

  /** What the driver is told of. */
  poll (): number[] {
    const { driver } = this
    const told: number[] = []
    for (let used = this.raw.getUsed(driver.used); used !== undefined; used = this.raw.getUsed(driver.used)) {
      const { id } = used
      const at = driver.outstanding.findIndex(({ token }) => token === id)
      assert.notEqual(at, -1, `the driver is told of ${id} once more`)
      driver.used = this.raw.after(driver.used, driver.outstanding[at]!.count)
      driver.outstanding.splice(at, 1)
      told.push(id)
    }
    return told
  }

  tokens (): number[] {
    return this.driver.outstanding.map(({ token }) => token)
  }

  popAll (device: PackedVring): { token: number, head: number }[] {
    const popped: { token: number, head: number }[] = []
    for (;;) {
      const one = this.pop(device)
      if (one === undefined) return popped
      popped.push(one)
    }
  }

  pop (device: PackedVring): { token: number, head: number } | undefined {
    if (device.pop(this.chain) !== 'chain') return undefined
    const token = (this.chain.guestAddress[0]! - DATA) / 64
    return { token, head: this.chain.head }
  }

  save (): Buffer {
    return Buffer.concat([this.record.u8.subarray(0, RECORD_BYTES), this.#ring])
  }

  restore (image: Buffer): void {
    this.record.u8.set(image.subarray(0, RECORD_BYTES))
    this.#ring.set(image.subarray(RECORD_BYTES))
  }

  free (): void {
    this.memory.release()
    this.record.close()
  }
}

function crashing (name: string, body: (ring: Crashing) => void, options = {}): void {
  test(name, () => {
    const ring = new Crashing(options)
    try {
      body(ring)
    } finally {
      ring.free()
    }
  })
}

/** Memory after each store of `work`: around the atomic ones exactly; of the plain ones between, in more orders than theirs. */
function statesOf<Result> (ring: Crashing, random: Random, work: () => Result): { states: Buffer[], result: Result } {
  const store = Atomics.store
  const states = [ring.save()]
  const note = (): void => {
    const after = ring.save()
    states.push(...between(states.at(-1)!, after, random))
  }
  Object.assign(Atomics, {
    store: (...args: Parameters<typeof store>) => {
      note()
      const stored = store(...args)
      note()
      return stored
    }
  })
  try {
    const result = work()
    note()
    return { states, result }
  } finally {
    Object.assign(Atomics, { store })
  }
}

function between (before: Buffer, after: Buffer, random: Random): Buffer[] {
  const units: [number, number][] = []
  for (let at = 0; at < after.length;) {
    const length = at === HEADS ? 4 : at === CURSORS ? 8 : 2
    if (!before.subarray(at, at + length).equals(after.subarray(at, at + length))) units.push([at, at + length])
    at += length
  }
  if (units.length === 0) return []
  const shuffled = units.map((unit) => ({ unit, key: random(1000) })).sort((one, other) => one.key - other.key).map(({ unit }) => unit)
  const states: Buffer[] = []
  for (const order of [shuffled, [...units].reverse(), units]) {
    const state = Buffer.from(before)
    for (const [start, end] of order) {
      after.copy(state, start, start, end)
      states.push(Buffer.from(state))
    }
  }
  return states
}

/** The next device does all that the driver was not told of, once each, in the old order, and tells of one at a time. */
function assertRecovers (ring: Crashing, random: Random, depth = 0): void {
  const { driver } = ring
  const image = ring.save()
  ring.driver = { ...driver, outstanding: [...driver.outstanding] }
  ring.poll()
  const { states, result: device } = statesOf(ring, random, () => ring.device())
  const opened = ring.save()
  if (depth === 0) {
    for (const state of states) {
      ring.restore(state)
      assertRecovers(ring, random, 1)
    }
  }
  ring.restore(opened)
  assert.equal(device.countAvailable(1), Math.min(1, ring.tokens().length))
  const popped = ring.popAll(device)
  assert.deepEqual(popped.map(({ token }) => token), ring.tokens())
  const pushed: number[] = []
  while (popped.length > 0) {
    const [{ head, token }] = popped.splice(random(popped.length), 1) as [{ head: number, token: number }]
    device.push(head, 8)
    device.publish()
    pushed.push(token)
    const told = ring.poll()
    if (ring.inOrder) assert.ok(told.every((each) => pushed.includes(each)), `told of ${told.join()} when ${pushed.join()} were done`)
    else assert.deepEqual(told, [token])
  }
  assert.equal(ring.tokens().length, 0)
  assert.equal(device.inFlight, 0)
  // It goes on where the driver does.
  const next = ring.offer(2)
  assert.deepEqual(ring.popAll(ring.device()).map(({ token }) => token), [next])
  ring.driver = driver
  ring.restore(image)
}

/** A device that works, in random steps, and ends after every store of each. */
function play (ring: Crashing, random: Random, steps: number): number {
  let device = ring.device()
  let popped: number[] = []
  let tried = 0
  for (let step = 0; step < steps; step++) {
    const dice = random(10)
    if (dice < 3) {
      ring.offer(1 + random(3), random(3) === 0)
      continue
    }
    if (dice === 3) {
      ring.poll()
      continue
    }
    const { states, result } = statesOf(ring, random, () => {
      if (dice < 7) return ring.pop(device)?.head
      if (dice < 9 && popped.length > 0) device.push(popped.splice(random(popped.length), 1)[0]!, random(9))
      else device.publish()
      return undefined
    })
    if (result !== undefined) popped.push(result)
    const now = ring.save()
    for (const state of states) {
      ring.restore(state)
      assertRecovers(ring, random)
      tried++
    }
    ring.restore(now)
    if (random(12) === 0) {
      ring.restore(states[random(states.length)]!)
      device = ring.device()
      popped = []
    }
  }
  return tried
}

test('a packed record has whole cache lines', () => {
  assert.deepEqual([1, 2, 3, 128, 32768].map(packedInflightRecordBytes), [64, 128, 128, 4160, 1048640])
})

for (const inOrder of [false, true]) {
  crashing(`wherever a device ends, the next one does the rest, once each, in the old order${inOrder ? ': with IN_ORDER too' : ''}`, (ring) => {
    assert.ok(play(ring, randomIntegers(inOrder ? 2 : 1), 250) > 1000)
    assert.ok(ring.driver.tokens > 3 * SIZE, 'several laps')
  }, { inOrder })
}

crashing('a new record knows nothing: the ring begins where the front-end says', (ring) => {
  ring.driver.available = ring.driver.used = 3
  const token = ring.offer(1)
  const record = new PackedInflightRecord(ring.record.address, SIZE)
  const device = new PackedVring(ring.memory, { ...ring.raw.layout, availableIndex: 3 }, { record })
  assert.deepEqual(ring.popAll(device).map(({ token }) => token), [token])
  assert.deepEqual(ring.popAll(ring.device()).map(({ token }) => token), [token])
})

// The specification's reconnecting steps leave these marks, and the driver would be told of what is being done again.
crashing('a batch that was staged and not shown is taken back: the driver is told of none of it early', (ring) => {
  for (let count = 0; count < 3; count++) ring.offer(1)
  const killed = ring.device()
  for (const { head } of ring.popAll(killed)) killed.push(head, 0)
  const next = ring.device()
  const [first] = ring.popAll(next)
  next.push(first!.head, 0)
  next.publish()
  assert.deepEqual(ring.poll(), [0])
})

crashing('a batch of the whole ring is shown or not, though the used position is the same before and after', (ring) => {
  for (let count = 0; count < SIZE; count++) ring.offer(1)
  const device = ring.device()
  for (const { head } of ring.popAll(device)) device.push(head, 0)
  const { states } = statesOf(ring, randomIntegers(3), () => device.publish())
  const told = states.map((state) => {
    ring.restore(state)
    assertRecovers(ring, randomIntegers(4), 1)
    return ring.raw.isUsed(0x8000)
  })
  assert.ok(told.includes(false) && told.includes(true))
})

crashing('what is in flight is described as it was read: the ring is written over meanwhile', (ring) => {
  ring.offer(3)
  ring.offer(1)
  const killed = ring.device()
  const [, second] = ring.popAll(killed)
  killed.push(second!.head, 8)
  killed.publish()
  assert.deepEqual(ring.poll(), [1])
  ring.offer(1)
  assert.deepEqual(ring.popAll(ring.device()).map(({ token }) => token), [0, 2])
})

crashing('a record of another size, or of another version, is begun anew', (ring) => {
  ring.offer(1)
  ring.popAll(ring.device())
  for (const [half, value] of [[5, SIZE + 1], [4, 2]] as const) {
    ring.record.u16[half] = value
    assert.deepEqual(ring.popAll(ring.device()).map(({ token }) => token), [0])
    assert.deepEqual([ring.record.u16[4], ring.record.u16[5]], [1, SIZE])
  }
})

crashing('a driver that makes available what it was not told of breaks the ring, not the record', (ring) => {
  for (let count = 0; count < SIZE; count++) ring.offer(1)
  const device = ring.device()
  for (const { head } of ring.popAll(device)) device.push(head, 0)
  ring.raw.chain([{ address: DATA, length: 8 }], 9, 0)
  assert.equal(device.pop(ring.chain), 'broken')
  assert.equal(device.fault?.code, 'descriptor-loop')
  for (let position = 0; position < SIZE; position++) ring.raw.descriptor(position, { address: DATA, length: 8 })
  assert.deepEqual(ring.popAll(ring.device()).map(({ token }) => token), [0, 1, 2, 3, 4])
})

crashing('a reset begins the record anew', (ring) => {
  ring.offer(2)
  const device = ring.device()
  ring.popAll(device)
  device.reset()
  assert.deepEqual(device.save(), { availableIndex: 0x8000, usedIndex: 0x8000 })
  assert.deepEqual(ring.popAll(ring.device()).map(({ token }) => token), [0])
})

// header: version, desc_num, free_head, old_free_head, used_idx, old_used_idx; entry: inflight, next, last, num.
const lies: Readonly<Record<string, (record: DataView) => void>> = {
  'a free list that loops': (record) => record.setUint16(32 + 32 * 4 + 2, 4, true),
  'a free list that leads outside': (record) => record.setUint16(32 + 32 * 4 + 2, 0xffff, true),
  'a free list that leads into a chain': (record) => record.setUint16(32 + 32 * 4 + 2, 1, true),
  'a free list that begins outside': (record) => record.setUint32(HEADS, 0xffffffff, true),
  'a free list that ends too early': (record) => record.setUint16(32 + 32 * 3 + 2, SIZE, true),
  'a chain of none': (record) => record.setUint16(32 + 6, 0, true),
  'a chain of too many': (record) => record.setUint16(32 + 6, 0xffff, true),
  'a chain that loops': (record) => record.setUint16(32 + 2, 0, true),
  'a chain that ends elsewhere': (record) => record.setUint16(32 + 4, 3, true),
  'one more chain in a chain': (record) => record.setUint8(32 + 32, 1),
  'a used position outside': (record) => record.setUint16(CURSORS, SIZE, true),
  'an old used position outside': (record) => record.setUint16(CURSORS + 2, 0xffff, true),
  'a wrap counter of 2': (record) => record.setUint8(CURSORS + 4, 2),
  'an old wrap counter of 255': (record) => record.setUint8(CURSORS + 5, 255),
  'nothing but ones': (record) => new Uint8Array(record.buffer, 12).fill(255)
}

for (const [title, lie] of Object.entries(lies)) {
  crashing(`a record that contradicts itself is begun anew: ${title}`, (ring) => {
    ring.offer(2)
    const device = ring.device()
    ring.popAll(device)
    lie(new DataView(ring.record.u8.buffer))
    assert.deepEqual(ring.device().save(), { availableIndex: 0x8000, usedIndex: 0x8000 })
    assert.deepEqual(ring.popAll(ring.device()).map(({ token }) => token), [0], 'the ring itself still has it')
  })
}

crashing('a recorded chain whose buffer is nowhere breaks the ring', (ring) => {
  ring.offer(1)
  ring.popAll(ring.device())
  ring.record.u32[(32 + 24) / 4 + 1] = 0x7fff
  const next = ring.device()
  assert.equal(next.pop(ring.chain), 'broken')
  assert.equal(next.fault?.code, 'address-unmapped')
})

crashing('whatever stands in a record, a device begins, and ends', (ring) => {
  const random = randomIntegers(7)
  for (let tries = 0; tries < 1500; tries++) {
    ring.driver = { available: 0x8000, used: 0x8000, outstanding: [], tokens: 0 }
    ring.restore(Buffer.alloc(RECORD_BYTES + 16 * SIZE))
    ring.offer(1 + random(2))
    ring.offer(1)
    const device = ring.device()
    const popped = ring.popAll(device)
    if (random(2) === 0) device.push(popped[0]!.head, 0)
    if (random(2) === 0) device.publish()
    for (let bytes = 1 + random(4); bytes > 0; bytes--) ring.record.u8[8 + random(RECORD_BYTES - 8)] = random(2) === 0 ? random(SIZE + 2) : random(256)
    const next = ring.device()
    const again = ring.popAll(next)
    assert.ok(again.length <= SIZE)
    for (const { head } of again) next.push(head, 0)
    next.publish()
    assert.equal(next.inFlight, 0)
  }
})

test.run()
