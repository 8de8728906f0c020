import { DescriptorChain, InflightRecord, inflightRecordBytes, SplitVring } from '@node-vmm/vring'
import { layOutRing, RawRing } from '@node-vmm/vring/driver'
import assert from 'node:assert/strict'
import type { GuardedMemory } from '../guarded-memory.ts'
import type { Random } from '../random.ts'
import { brokenOneIn, type Tell } from '../surface.ts'
import { counterOf, entryOf, HEADER, isInFlight, recoveredFrom } from './record-model.ts'

/** Where the guest's data would be, and where the record is: in a region of its own, between canaries. */
const DATA = 0x8000
export const RECORD_REGION = 1
export const RECORD_AT = 0x1_0000_0000
export const SIZE_MAX = 128
/** Counters beyond are of nobody who counts: to count on from there is not exact. */
const COUNTER_MAX = 2n ** 52n

export const REGIONS = [{ guestAddress: 0, size: 0x9000 }, { guestAddress: RECORD_AT, size: inflightRecordBytes(SIZE_MAX) }]

/**
 * A split ring whose device ends again and again, at any moment that can be told apart, and whose record somebody else
 * changes meanwhile. The one that comes after it does again what the guest was not told of, in its old order.
 */
export class RecordGame {
  readonly #memory: GuardedMemory
  readonly #tell: Tell
  readonly #brokenOneIn: number
  readonly #size: number
  readonly #raw: RawRing
  readonly #record: Buffer
  readonly #chain: DescriptorChain
  #ring: SplitVring
  /** In the order of their pops: what the guest was not told of. */
  #inFlight: number[] = []
  /** Of these, what was pushed and not shown. */
  #pushed: number[] = []
  #used: number
  /** Somebody changed the record: what it says is all that counts. */
  #expected: number[] | undefined

  constructor (memory: GuardedMemory, setup: Random, tell: Tell) {
    this.#memory = memory
    this.#tell = tell
    this.#brokenOneIn = brokenOneIn(setup)
    this.#size = 2 ** setup.between(0, 7)
    memory.bytes.forEach((bytes) => bytes.fill(0))
    this.#raw = new RawRing(memory.driver, layOutRing(0, this.#size))
    for (let head = 0; head < this.#size; head++) this.#raw.descriptor(head, { address: DATA + 8 * head, length: 8 })
    this.#used = setup.pick([0, 0xffff - setup.below(10), setup.below(0x10000)])
    this.#raw.usedIndex(this.#used)
    this.#raw.availableIndex(this.#used)
    this.#record = memory.bytes[RECORD_REGION]!.subarray(0, inflightRecordBytes(this.#size))
    this.#chain = new DescriptorChain(memory.device)
    if (setup.oneIn(2)) this.#forge(setup)
    tell(`a ring of ${this.#size} from ${this.#used} on, a field in ${this.#brokenOneIn} broken`)
    this.#ring = this.#open()
  }

  play (steps: readonly number[], randomOf: (step: number) => Random): void {
    for (const step of steps) {
      if (this.#isOver) return this.#popAll()
      this.#step(randomOf(step))
      this.#memory.checkCanaries()
      assert.ok(this.#memory.bytes[RECORD_REGION]!.subarray(this.#record.length).every((byte) => byte === 0), 'behind the record')
      assert.ok(this.#ring.inFlight <= this.#size)
    }
  }

  #step (random: Random): void {
    const dice = random.below(100)
    if (this.#ring.fault !== undefined) return this.#crash()
    if (dice < 35) this.#add(random)
    else if (dice < 60) this.#pop()
    else if (dice < 75) this.#push(random)
    else if (dice < 85) this.#publish()
    else if (dice < 90) this.#crashWhilePublishing(random)
    else if (dice < 97) this.#crash()
    else if (random.oneIn(this.#brokenOneIn)) this.#scribble(random)
  }

  #popAll (): void {
    const heads = this.#expected!.map(() => {
      assert.equal(this.#ring.pop(this.#chain), 'chain')
      return this.#chain.head
    })
    assert.deepEqual(heads.sort(), this.#expected!.sort())
  }

  #add (random: Random): void {
    const free = Array.from({ length: this.#size }, (_, head) => head).filter((head) => !this.#inFlight.includes(head) && !this.#waiting().includes(head))
    if (free.length === 0) return
    const head = random.pick(free)
    this.#tell(`available: ${head}`)
    this.#raw.available(head)
  }

  /** Heads that are available and not popped. */
  #waiting (): number[] {
    const { availableIndex } = this.#ring.save()
    const count = (this.#raw.getAvailableIndex() - availableIndex) & 0xffff
    if (count > this.#size) return []
    const { availableAddress } = this.#raw.layout
    return Array.from({ length: count }, (_, index) =>
      this.#memory.driver.getUint16(availableAddress + 4 + ((availableIndex + index) & 0xffff) % this.#size * 2))
  }

  #pop (): void {
    const again = this.#expected?.shift()
    const waiting = this.#waiting()
    const popped = this.#ring.pop(this.#chain)
    this.#tell(`pop: ${popped}${popped === 'chain' ? ` ${this.#chain.head}` : ''}`)
    if (this.#expected?.length === 0) this.#expected = undefined
    if (popped !== 'chain') {
      assert.equal(again, undefined, `${again} is to be done again, and was not popped: ${this.#ring.fault?.message}`)
      return
    }
    const { head } = this.#chain
    assert.equal(head, again ?? waiting[0])
    assert.ok(!this.#inFlight.includes(head) || again !== undefined)
    if (again === undefined) this.#inFlight.push(head)
    assert.ok(isInFlight(this.#record, head), 'a popped head is not recorded')
  }

  #push (random: Random): void {
    const outstanding = this.#popped()
    if (outstanding.length === 0) return
    const head = random.pick(outstanding)
    this.#tell(`push ${head}`)
    this.#ring.push(head, 8)
    this.#pushed.push(head)
  }

  /** What this device popped and did not push. */
  #popped (): number[] {
    const again = this.#expected ?? []
    return this.#inFlight.filter((head) => !again.includes(head) && !this.#pushed.includes(head))
  }

  #publish (): void {
    this.#ring.publish()
    this.#tell(`publish ${this.#pushed.join()}`)
    this.#used = (this.#used + this.#pushed.length) & 0xffff
    this.#inFlight = this.#inFlight.filter((head) => !this.#pushed.includes(head))
    this.#pushed = []
    assert.equal(this.#raw.getUsedIndex(), this.#used)
    assert.equal(this.#record.readUInt16LE(HEADER.used), this.#used)
    for (const head of this.#inFlight) assert.ok(isInFlight(this.#record, head))
  }

  /**
   * The device ends between two of the stores that show a batch: the head of the batch, the used index, the marks one
   * by one, the record's own used index.
   */
  #crashWhilePublishing (random: Random): void {
    const before = Buffer.from(this.#record)
    const usedBefore = this.#used
    const batch = [...this.#pushed].reverse()
    const inFlight = [...this.#inFlight]
    this.#publish()
    const after = Buffer.from(this.#record)
    const stores = random.between(0, batch.length + 3)
    before.copy(this.#record)
    if (stores >= 1) after.copy(this.#record, HEADER.batchHead, HEADER.batchHead, HEADER.batchHead + 2)
    const isShown = stores >= 2
    this.#used = isShown ? this.#used : usedBefore
    this.#raw.usedIndex(this.#used)
    for (const head of batch.slice(0, Math.max(0, stores - 2))) this.#record[entryOf(head)] = 0
    if (stores >= batch.length + 3) after.copy(this.#record, HEADER.used, HEADER.used, HEADER.used + 2)
    if (!isShown) this.#inFlight = inFlight
    this.#tell(`the device ends after ${stores} stores of a batch of ${batch.length}`)
    this.#crash()
  }

  #crash (): void {
    this.#tell('another device')
    this.#pushed = []
    this.#ring = this.#open()
  }

  #open (): SplitVring {
    const found = Buffer.from(this.#record)
    const again = recoveredFrom(found, this.#size, this.#used)
    const ring = new SplitVring(this.#memory.device, { ...this.#raw.layout, availableIndex: this.#used }, {
      record: new InflightRecord(this.#memory.device.regions[RECORD_REGION]!.hostAddress, this.#size)
    })
    const heads = again ?? []
    this.#tell(`to be done again: ${heads.join()}`)
    assert.equal(ring.save().availableIndex, (this.#used + heads.length) & 0xffff)
    assert.equal(this.#record.readUInt16LE(HEADER.version), 1)
    assert.equal(this.#record.readUInt16LE(HEADER.size), this.#size)
    for (let head = 0; head < this.#size; head++) assert.equal(isInFlight(this.#record, head), heads.includes(head), `the mark of ${head}`)
    this.#expectOrder(found, heads)
    return ring
  }

  #expectOrder (found: Buffer, heads: number[]): void {
    const isExact = heads.every((head) => counterOf(found, head) < COUNTER_MAX)
    if (!this.#isForged) assert.deepEqual(heads, this.#inFlight, 'what the guest was not told of, in its old order')
    this.#inFlight = [...heads]
    this.#expected = heads.length > 0 ? [...heads] : undefined
    // A driver knows what it has not got back; it goes on from there.
    if (this.#isForged) this.#raw.availableIndex(this.#used + heads.length)
    this.#isForged = false
    // Nobody counts so far: then only that all of them are done again is promised, and this record's game is over.
    this.#isOver = !isExact
  }

  #isForged = false
  #isOver = false

  /** Bytes that a hostile front-end, or a device that was killed, left: mostly near to what may be. */
  #forge (random: Random): void {
    this.#isForged = true
    this.#record.writeUInt16LE(this.#rarely(random) ? random.below(3) : 1, HEADER.version)
    this.#record.writeUInt16LE(this.#rarely(random) ? random.pick([0, this.#size + 1, 0xffff]) : this.#size, HEADER.size)
    this.#record.writeUInt16LE((this.#used - (this.#rarely(random) ? random.below(0x10000) : random.below(this.#size + 1))) & 0xffff, HEADER.used)
    this.#record.writeUInt16LE(this.#rarely(random) ? random.pick([this.#size, 0xffff]) : random.below(this.#size), HEADER.batchHead)
    for (let head = 0; head < this.#size; head++) {
      const at = entryOf(head)
      this.#record[at] = this.#rarely(random) ? random.below(256) : random.below(2)
      this.#record.writeUInt16LE(this.#rarely(random) ? random.pick([head, this.#size, 0xffff]) : random.below(this.#size), at + 6)
      this.#record.writeBigUInt64LE(this.#rarely(random) ? random.pick([0n, 2n ** 53n - 1n, 2n ** 32n, 2n ** 31n]) : BigInt(random.below(1000)), at + 8)
    }
  }

  #rarely (random: Random): boolean {
    return random.oneIn(this.#brokenOneIn)
  }

  #scribble (random: Random): void {
    const at = random.below(this.#record.length)
    this.#tell(`scribble at ${at} of the record, and the device ends`)
    this.#record[at] = random.word()
    this.#isForged = true
    this.#crash()
  }
}

