import assert from 'node:assert/strict'
import {
  DescriptorChain, featureMask, PackedVring, SplitVring, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, type Virtqueue,
  VringError, type VringInit
} from '@node-vmm/vring'
import { packedRingBytes, ringBytes, type RingLayout } from '@node-vmm/vring/driver'
import { GuardedMemory } from '../guarded-memory.ts'
import { GuestImage } from '../guest-image.ts'
import { Random } from '../random.ts'
import { brokenOneIn, type Case, type Player, type Surface, type Tell } from '../surface.ts'
import { type HostileDriver, HostilePackedDriver, HostileSplitDriver, type Places } from './hostile-driver.ts'
import { PackedReference, type Reference, type ReferenceChain, SplitReference } from './reference.ts'

// Rings and tables in the low region; then two regions that touch each other, the first of odd size; then a read-only one.
const LOW_BYTES = 0x6000
const TABLES = 0x4000
const HIGH = 0x1_8000_0000
const HIGH_BYTES = 0x11f3
const BORDER = HIGH + HIGH_BYTES
const BORDER_BYTES = 0x1000
const READ_ONLY = 0x2_0000_0000
const READ_ONLY_BYTES = 0x1000

const REGIONS = [
  { guestAddress: 0, size: LOW_BYTES },
  { guestAddress: HIGH, size: HIGH_BYTES },
  { guestAddress: BORDER, size: BORDER_BYTES },
  { guestAddress: READ_ONLY, size: READ_ONLY_BYTES, readOnly: true }
]

const PLACES: Places = {
  writable: [[TABLES + 0x1000, LOW_BYTES], [HIGH, BORDER], [BORDER - 500, BORDER + 500], [BORDER, BORDER + BORDER_BYTES]],
  readable: [[TABLES + 0x1000, LOW_BYTES], [HIGH, BORDER], [BORDER - 500, BORDER + 500], [READ_ONLY, READ_ONLY + READ_ONLY_BYTES]],
  // The second one crosses the border of two regions, at an odd place.
  tables: [[TABLES, TABLES + 0x1000], [BORDER - 0x603, BORDER + 0x5fd], [READ_ONLY, READ_ONLY + READ_ONLY_BYTES]],
  rings: [[0, TABLES]]
}

const SIZE_MAX = 256

/** What a driver does to a ring, and what the device makes of it: every answer, and every byte, against the reference. */
class RingGame {
  readonly #memory: GuardedMemory
  /** The same memory as plain bytes, and what it should look like. */
  readonly #live: GuestImage
  readonly #image: GuestImage
  readonly #tell: Tell
  readonly #random: Random
  readonly #layout: RingLayout
  readonly #isPacked: boolean
  readonly #brokenOneIn: number
  readonly #features: { indirect: boolean, eventIdx: boolean, inOrder: boolean }
  readonly #chain: DescriptorChain
  #ring: Virtqueue | undefined
  #reference: Reference
  #driver: HostileDriver

  constructor (memory: GuardedMemory, setup: Random, tell: Tell) {
    this.#memory = memory
    this.#tell = tell
    this.#random = setup
    memory.bytes.forEach((bytes) => bytes.fill(setup.below(3) === 0 ? 0xff : 0))
    const image = (all: readonly Buffer[]): GuestImage => new GuestImage(REGIONS.map(({ guestAddress, readOnly = false }, index) =>
      ({ start: guestAddress, bytes: all[index]!, writable: !readOnly })))
    this.#live = image(memory.bytes)
    this.#image = image(memory.snapshot())
    this.#isPacked = setup.oneIn(2)
    this.#brokenOneIn = brokenOneIn(setup)
    this.#features = { indirect: !setup.oneIn(4), eventIdx: setup.oneIn(2), inOrder: setup.oneIn(3) }
    const size = this.#isPacked
      ? setup.oneIn(2) ? setup.between(1, 5) : setup.between(1, SIZE_MAX)
      : 2 ** (setup.oneIn(2) ? setup.between(0, 2) : setup.between(0, 8))
    this.#layout = this.#layOut(size)
    const start = this.#isPacked ? setup.below(size) | setup.below(2) << 15 : setup.pick([0, 0xffff - setup.below(20), setup.below(0x10000)])
    const init = { ...this.#layout, features: this.#featureBits, availableIndex: start, usedIndex: start }
    this.#driver = this.#makeDriver(start)
    this.#reference = this.#makeReference(start)
    this.#chain = new DescriptorChain(memory.device)
    this.#ring = this.#open(init)
    tell(`a ${this.#isPacked ? 'packed' : 'split'} ring of ${size} from ${start} on, ${JSON.stringify(this.#features)}, a field in ${this.#brokenOneIn} broken`)
  }

  get #featureBits (): bigint {
    const { indirect, eventIdx, inOrder } = this.#features
    return (indirect ? featureMask(VIRTIO_F_INDIRECT_DESC) : 0n) | (eventIdx ? featureMask(VIRTIO_F_EVENT_IDX) : 0n) |
      (inOrder ? featureMask(VIRTIO_F_IN_ORDER) : 0n)
  }

  /** The three parts anywhere in the low region, in any order, now and then without a byte between. */
  #layOut (size: number): RingLayout {
    const random = this.#random
    const bytes = this.#isPacked ? packedRingBytes(size) : ringBytes(size)
    const base = random.below((TABLES - bytes - 512) / 16) * 16
    const table = 16 * size
    const available = this.#isPacked ? 4 : 4 + 2 * size + (this.#features.eventIdx ? 2 : 0)
    const availableAddress = base + table + random.pick([0, 4, 64])
    const usedAddress = Math.ceil((availableAddress + available) / 4) * 4 + random.pick([0, 4, 64])
    return { size, descriptorAddress: base, availableAddress, usedAddress }
  }

  #makeDriver (index: number): HostileDriver {
    const make = this.#isPacked ? HostilePackedDriver : HostileSplitDriver
    return new make(this.#layout, PLACES, (address, bytes) => this.#poke(address, bytes), this.#brokenOneIn, this.#features.indirect, index)
  }

  #makeReference (index: number): Reference {
    const make = this.#isPacked ? PackedReference : SplitReference
    return new make(this.#image, this.#layout, this.#features, index, index)
  }

  /** Opens a ring, which may be misplaced. @returns undefined where it was refused, as it should be */
  #open (init: VringInit): Virtqueue | undefined {
    const random = this.#random
    let tried = init
    if (random.oneIn(this.#brokenOneIn)) {
      const part = random.pick(['descriptorAddress', 'availableAddress', 'usedAddress'] as const)
      tried = random.oneIn(3)
        ? { ...init, size: random.pick([0, 3, 32769, 65536, init.size + 1, -1, 1.5]) }
        : { ...init, [part]: random.pick([init[part] + 1, init[part] + 2, init[part] + 8, LOW_BYTES - 8, init.descriptorAddress, init.usedAddress, READ_ONLY, 2 ** 53, BORDER - 16]) }
    }
    const isGood = this.#isGood(tried)
    let ring: Virtqueue
    try {
      ring = this.#isPacked ? new PackedVring(this.#memory.device, tried) : new SplitVring(this.#memory.device, tried)
    } catch (error) {
      assert.ok(error instanceof VringError, String(error))
      assert.ok(!isGood, `refused, though it is a ring: ${error.message}`)
      return undefined
    }
    assert.ok(isGood, `taken for a ring: ${JSON.stringify({ ...tried, features: undefined })}`)
    // Another place is as good, but not where the driver writes.
    return tried === init ? ring : undefined
  }

  #isGood ({ size, descriptorAddress, availableAddress, usedAddress, availableIndex = 0 }: VringInit): boolean {
    if (!Number.isInteger(size) || size < 1 || size > 32768) return false
    const event = this.#features.eventIdx ? 2 : 0
    const parts = this.#isPacked
      ? [[descriptorAddress, 16 * size, 16], [availableAddress, 4, 4], [usedAddress, 4, 4]] as const
      : [[descriptorAddress, 16 * size, 16], [availableAddress, 4 + 2 * size + event, 2], [usedAddress, 4 + 8 * size + event, 4]] as const
    if (this.#isPacked ? (availableIndex & 0x7fff) >= size : !Number.isInteger(Math.log2(size))) return false
    const isWritten = [this.#isPacked, false, true]
    if (parts.some(([address, bytes, alignment], index) => {
      const { bytes: all, start } = this.#image.regions.find(({ start, bytes }) => address >= start && address < start + bytes.length) ?? { bytes: Buffer.alloc(0), start: 0 }
      // Aligned for the guest and for the host, where each region begins with a page of its own.
      return !this.#image.holds(address, bytes, isWritten[index]!) || address % alignment !== 0 || (all.length > 0 && (address - start) % alignment !== 0)
    })) return false
    return parts.every(([one, oneBytes], index) => parts.every(([other, otherBytes], against) =>
      index === against || one + oneBytes <= other || other + otherBytes <= one))
  }

  #poke (address: number, bytes: Uint8Array): void {
    this.#live.write(address, bytes)
    this.#image.write(address, bytes)
  }

  play (steps: readonly number[]): void {
    if (this.#ring === undefined) return
    for (const step of steps) {
      const random = new Random(step)
      this.#step(random, this.#ring)
      this.#compare(this.#ring)
    }
    this.#memory.checkCanaries()
  }

  #compare (ring: Virtqueue): void {
    const differences = this.#memory.differences(this.#image.bytes)
    assert.deepEqual(differences, [], 'guest memory is not as the specification would have it')
    assert.equal(ring.fault !== undefined, this.#reference.broken)
    assert.equal(ring.inFlight, this.#reference.outstanding.length)
    assert.ok(ring.inFlight <= this.#layout.size)
    if (!this.#reference.broken) assert.equal(ring.moreAvailable(), this.#reference.moreAvailable(), 'moreAvailable')
  }

  #step (random: Random, ring: Virtqueue): void {
    const dice = random.below(100)
    if (this.#reference.broken && dice < 30) return this.#reset(ring)
    if (dice < 35) this.#tell(this.#driver.add(random))
    else if (dice < 60) this.#pop(random, ring)
    else if (dice < 80) this.#push(random, ring)
    else if (dice < 88) this.#publish(ring)
    else if (dice < 92) this.#notification(random, ring)
    else if (dice < 95) this.#wish(random)
    else if (random.oneIn(this.#brokenOneIn)) this.#scribble(random)
    else if (random.oneIn(4)) this.#restore()
  }

  #pop (random: Random, ring: Virtqueue): void {
    const expected = this.#reference.pop()
    const popped = ring.pop(this.#chain)
    this.#tell(`pop: ${popped}${popped === 'broken' ? `, ${ring.fault!.message}` : ''}`)
    assert.equal(popped, typeof expected === 'string' ? expected : 'chain', ring.fault?.message)
    if (typeof expected === 'string') return
    const { head } = this.#chain
    if (this.#reference instanceof SplitReference) assert.equal(head, this.#reference.nextHead)
    assert.ok(head < this.#layout.size && !this.#reference.inFlight.has(head), `head ${head}`)
    this.#compareChain(expected)
    this.#reference.popped(head)
    this.#copy(random, expected)
  }

  #compareChain (expected: ReferenceChain): void {
    const { readableCount, writableCount, guestAddress, hostAddress, length } = this.#chain
    const segments = [...expected.readable, ...expected.writable]
    assert.deepEqual([readableCount, writableCount], [expected.readable.length, expected.writable.length])
    segments.forEach((segment, index) => {
      assert.deepEqual({ address: guestAddress[index], length: length[index] }, segment)
      assert.equal(hostAddress[index], this.#memory.device.translate(segment.address, segment.length, false))
    })
    assert.deepEqual([this.#chain.readableBytes, this.#chain.writableBytes], [bytesOf(expected.readable), bytesOf(expected.writable)])
  }

  /** Copies out of a chain, and into it, however it is framed. */
  #copy (random: Random, { readable, writable }: ReferenceChain): void {
    const target = new Uint8Array(random.below(80))
    const copied = this.#chain.copyReadable(target)
    const all = Buffer.concat(readable.map(({ address, length }) => this.#image.read(address, length)))
    assert.equal(copied, Math.min(target.length, all.length))
    assert.deepEqual(Buffer.from(target.subarray(0, copied)), all.subarray(0, copied))
    const source = random.bytes(random.below(80))
    const limit = random.oneIn(2) ? random.below(80) : bytesOf(writable)
    const room = Math.min(source.length, limit, bytesOf(writable))
    assert.equal(this.#chain.copyToWritable(source, limit), room)
    let at = 0
    for (const { address, length } of writable) {
      this.#image.write(address, source.subarray(at, Math.min(at + length, room)))
      at = Math.min(at + length, room)
    }
  }

  #push (random: Random, ring: Virtqueue): void {
    const { outstanding } = this.#reference
    if (random.oneIn(20)) this.#pushNothing(random, ring)
    if (outstanding.length === 0) return
    const head = random.pick(outstanding)
    const written = random.pick([0, 1, random.word()])
    this.#tell(`push ${head}, ${written} bytes`)
    ring.push(head, written)
    this.#reference.push(head, written)
    this.#driver.gaveBack(1)
  }

  /** A head that is not in flight is refused, and nothing has changed. */
  #pushNothing (random: Random, ring: Virtqueue): void {
    const head = random.below(this.#layout.size)
    if (this.#reference.outstanding.includes(head)) return
    assert.throws(() => ring.push(head, 0), { code: 'ERR_NOT_IN_FLIGHT' })
  }

  #publish (ring: Virtqueue): void {
    ring.publish()
    this.#reference.publish()
    const expected = this.#reference.shouldNotify()
    const found = ring.shouldNotify()
    this.#tell(`publish: ${found ? 'an interrupt' : 'no interrupt'}`)
    if (expected !== undefined) assert.equal(found, expected, 'interrupt')
  }

  #notification (random: Random, ring: Virtqueue): void {
    if (random.oneIn(2)) {
      ring.disableNotification()
      return this.#reference.disableNotification()
    }
    const more = ring.enableNotification()
    this.#reference.enableNotification()
    assert.equal(more, !this.#reference.broken && this.#reference.moreAvailable() ? 'more' : 'empty', 'enableNotification')
  }

  /** The driver says when it wants to be interrupted. */
  #wish (random: Random): void {
    const { availableAddress, size } = this.#layout
    const [index, flags] = [random.below(size) | random.below(2) << 15, random.below(4)]
    if (this.#isPacked) {
      this.#poke(availableAddress, Uint8Array.of(index, index >>> 8, flags, 0))
    } else {
      this.#poke(availableAddress, Uint8Array.of(flags & 1, 0))
      if (this.#features.eventIdx) this.#poke(availableAddress + 4 + 2 * size, random.bytes(2))
    }
  }

  /** Anything, anywhere in the rings. */
  #scribble (random: Random): void {
    const { descriptorAddress, availableAddress, usedAddress, size } = this.#layout
    const at = random.pick([descriptorAddress + random.below(16 * size), availableAddress + random.below(8), usedAddress + random.below(16), TABLES + random.below(0x1000)])
    const bytes = random.bytes(random.between(1, 4))
    this.#tell(`scribble ${bytes.join()} at 0x${at.toString(16)}`)
    this.#poke(at, bytes)
  }

  /** Goes on with another object, from where this one stands. */
  #restore (): void {
    const reference = this.#reference
    if (reference.broken || reference.inFlight.size > 0 || reference.staged > 0) return
    const state = this.#ring!.save()
    this.#tell(`save ${JSON.stringify(state)}, and begin there`)
    this.#ring = this.#isPacked
      ? new PackedVring(this.#memory.device, { ...this.#layout, features: this.#featureBits, ...state })
      : new SplitVring(this.#memory.device, { ...this.#layout, features: this.#featureBits, ...state })
    this.#reference = this.#isPacked
      ? new PackedReference(this.#image, this.#layout, this.#features, state.availableIndex, state.usedIndex)
      : new SplitReference(this.#image, this.#layout, this.#features, state.availableIndex, state.usedIndex)
    if (reference instanceof PackedReference) assert.deepEqual(state, { availableIndex: reference.available, usedIndex: reference.used })
    if (reference instanceof SplitReference) assert.deepEqual(state, { availableIndex: reference.availableIndex, usedIndex: reference.usedIndex })
  }

  #reset (ring: Virtqueue): void {
    this.#tell('reset')
    ring.reset()
    this.#reference.reset()
    this.#driver = this.#makeDriver(this.#isPacked ? 0x8000 : 0)
  }
}

function bytesOf (ranges: readonly { readonly length: number }[]): number {
  return ranges.reduce((sum, { length }) => sum + length, 0)
}

class RingPlayer implements Player {
  readonly #memory = new GuardedMemory(REGIONS)

  play ({ setup, steps }: Case, tell: Tell): void {
    new RingGame(this.#memory, new Random(setup), tell).play(steps)
  }

  close (): void {
    this.#memory.close()
  }
}

/** Descriptors and rings, split and packed. */
export const ring: Surface = { name: 'ring', stepsMax: 300, open: () => new RingPlayer() }
