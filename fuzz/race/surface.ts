import { EventNotifier } from '@node-vmm/event-poll'
import { NativeMemory } from '@node-vmm/libc'
import {
  SECTOR_BYTES, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES
} from '@node-vmm/virtio-blk'
import { featureMask, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, type VringFault } from '@node-vmm/vring'
import {
  type DriverQueue, DriverRing, indirectTableBytes, layOutPackedRing, layOutRing, PackedDriverRing, packedRingBytes, ringBytes, type RingLayout, type Segment
} from '@node-vmm/vring/driver'
import assert from 'node:assert/strict'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { GuardedMemory } from '../guarded-memory.ts'
import { contentOf, DISK_BYTES, type DiskOptions, FuzzedDisk } from '../request/disk.ts'
import { Random } from '../random.ts'
import type { Case, Player, Surface, Tell } from '../surface.ts'
import { Race } from './race.ts'

// What the other thread changes: the ring, the tables, the headers and ranges, the status bytes. Then what the device
// reads and writes, which is the guest's own affair; then what it may only read.
const TABLES = 0x2000
const TABLE_SEGMENTS = 8
const HEADERS = 0x8000
const HEADER_STRIDE = 64
const CONTROL_BYTES = 0xa000
const DATA = 0x1_0000_0000
const DATA_BYTES = 0x40000
const READ_ONLY = 0x2_0000_0000
const READ_ONLY_BYTES = 0x10000
/** Few, so that what the other thread changes is soon looked at. */
const RING_SIZE = 16
/** Of one request. */
const DESCRIPTORS_MAX = 4

const REGIONS = [
  { guestAddress: 0, size: CONTROL_BYTES },
  { guestAddress: DATA, size: DATA_BYTES },
  { guestAddress: READ_ONLY, size: READ_ONLY_BYTES, readOnly: true }
]

const BY_DEPTH: DiskOptions = { engine: 'io_uring+linux-aio', discardSegments: 4 }
const URING: DiskOptions = { engine: 'io_uring', discardSegments: 4 }
const MAPPED: DiskOptions = { engine: 'mapped', discardSegments: 4 }
/** The engines that serve guests; of Linux AIO, which takes its time to end a queue, also without what a thread of its own does. */
const DISKS: readonly DiskOptions[] = [BY_DEPTH, URING, URING, MAPPED, MAPPED, { engine: 'linux-aio', discardSegments: 0 }, { engine: 'linux-aio', discardSegments: 4 }]

/** A step ends after so many requests, or broken rings; on a machine that has no time for it, after a while. */
const ANSWERS = 500
const RESETS = 4
const RACE_MILLISECONDS = 300
const STUCK_MILLISECONDS = 5
const END_MILLISECONDS = 30_000
/** Memory of this process that nobody has to do with. */
const DECOYS = 8
const DECOY_BYTES = 64 * 1024
const DECOY = 0x35

const CONTENT = contentOf(1)
const BEHIND = CONTENT.subarray(DISK_BYTES)

/** One guest, of which a second processor changes what the first one wrote. */
class RaceGame {
  readonly #memory: GuardedMemory
  readonly #disk: FuzzedDisk
  readonly #notifiers: readonly [kick: EventNotifier, call: EventNotifier, error: EventNotifier]
  readonly #tell: Tell
  readonly #features: { packed: boolean, eventIdx: boolean, inOrder: boolean, indirect: boolean }
  readonly #layout: RingLayout
  #ring: DriverQueue
  #fault: VringFault | undefined

  constructor (memory: GuardedMemory, disk: FuzzedDisk, notifiers: readonly [EventNotifier, EventNotifier, EventNotifier], setup: Random, tell: Tell) {
    this.#memory = memory
    this.#disk = disk
    this.#notifiers = notifiers
    this.#tell = tell
    disk.onFault = (fault) => { this.#fault = fault }
    this.#features = { packed: setup.oneIn(2), eventIdx: setup.oneIn(2), inOrder: setup.oneIn(4), indirect: setup.oneIn(2) }
    this.#layout = this.#features.packed ? layOutPackedRing(0, RING_SIZE) : layOutRing(0, RING_SIZE)
    this.#ring = this.#makeRing()
    tell(`${JSON.stringify(disk.options)}, ${JSON.stringify(this.#features)}`)
  }

  #makeRing (): DriverQueue {
    const { packed, eventIdx, inOrder, indirect } = this.#features
    assert.ok(TABLES + indirectTableBytes(RING_SIZE, TABLE_SEGMENTS) <= HEADERS)
    const options = { eventIdx, inOrder, ...(indirect && { indirect: { address: TABLES, segments: TABLE_SEGMENTS } }) }
    return packed
      ? new PackedDriverRing(this.#memory.driver, this.#layout, options)
      : new DriverRing(this.#memory.driver, this.#layout, options)
  }

  async #start (): Promise<void> {
    const { packed, eventIdx, inOrder } = this.#features
    const bits = [VIRTIO_F_INDIRECT_DESC, VIRTIO_BLK_F_FLUSH]
    if (packed) bits.push(VIRTIO_F_RING_PACKED)
    if (eventIdx) bits.push(VIRTIO_F_EVENT_IDX)
    if (inOrder) bits.push(VIRTIO_F_IN_ORDER)
    const [kick, call, error] = this.#notifiers
    this.#fault = undefined
    this.#ring = this.#makeRing()
    await this.#disk.plane.startQueue(0, {
      memory: this.#memory.device, ...this.#layout, availableIndex: packed ? 0x8000 : 0, usedIndex: packed ? 0x8000 : 0,
      features: featureMask(...bits), kickFd: kick.fd, callFd: call.fd, errorFd: error.fd
    })
  }

  /** Plays, while the other thread races. */
  async race (race: Race, steps: readonly number[]): Promise<void> {
    this.#memory.bytes.forEach((bytes) => bytes.fill(0))
    this.#memory.bytes[2]!.fill(DECOY)
    this.#disk.fill(CONTENT)
    await this.#start()
    const { hostAddress, size } = this.#memory.driver.regions[0]!
    const { packed, indirect } = this.#features
    const ring = [0, packed ? packedRingBytes(RING_SIZE) : ringBytes(RING_SIZE)] as const
    const headers = [HEADERS, RING_SIZE * HEADER_STRIDE] as const
    const tables = indirect ? [TABLES, indirectTableBytes(RING_SIZE, TABLE_SEGMENTS)] as const : ring
    // A ring that is changed breaks soon; one of which only the headers change goes on for long.
    const choices = [[headers], [tables], [ring], [headers, tables], [headers, tables, ring]]
    for (const step of steps) {
      const random = new Random(step)
      race.begin(hostAddress, size, random.pick(choices), step, { restores: random.pick([128, 250, 256, 256]), pace: random.pick([0, 100, 1000, 10_000]) })
      try {
        await this.#drive(random)
      } finally {
        await race.end()
      }
      await this.#disk.plane.drain({ timeout: END_MILLISECONDS })
      this.#check()
    }
    await this.#disk.plane.stopQueue(0)
    assert.deepEqual(this.#disk.plane.inFlight, [0])
  }

  async #drive (random: Random): Promise<void> {
    const until = performance.now() + RACE_MILLISECONDS
    let [answered, resets, lastProgress] = [0, 0, performance.now()]
    while (performance.now() < until && answered < ANSWERS && resets < RESETS) {
      this.#offer(random)
      await setImmediate()
      const now = this.#take()
      answered += now
      if (now > 0) lastProgress = performance.now()
      if (this.#disk.death !== undefined) throw this.#disk.death
      assert.ok(this.#disk.plane.inFlight[0]! <= RING_SIZE, `${this.#disk.plane.inFlight[0]} in flight`)
      const isStuck = performance.now() - lastProgress > STUCK_MILLISECONDS
      if (this.#fault === undefined && !this.#ring.broken && !isStuck) continue
      await this.#disk.plane.stopQueue(0)
      await this.#start()
      resets++
      lastProgress = performance.now()
    }
    this.#tell(`${answered} answered, ${resets} resets`)
  }

  #offer (random: Random): void {
    while (this.#ring.freeDescriptors >= DESCRIPTORS_MAX) this.#request(random)
    this.#ring.publish()
    this.#ring.needsKick()
    this.#notifiers[0].notify()
  }

  #request (random: Random): void {
    const type = random.pick([VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES])
    const { nextHead } = this.#ring
    const header = HEADERS + HEADER_STRIDE * (nextHead % RING_SIZE)
    const memory = this.#memory.driver
    const sectors = random.between(1, 8)
    const sector = random.below(DISK_BYTES / SECTOR_BYTES - sectors)
    memory.setUint32(header, type)
    memory.setUint64(header + 8, BigInt(sector))
    memory.setUint64(header + 16, BigInt(sector))
    memory.setUint32(header + 24, sectors)
    const isRanges = type === VIRTIO_BLK_T_DISCARD || type === VIRTIO_BLK_T_WRITE_ZEROES
    const data = this.#data(random, sectors * SECTOR_BYTES)
    const readable = [{ address: header, length: isRanges ? 32 : 16 }, ...type === VIRTIO_BLK_T_OUT ? data : []]
    const writable = [...type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID ? data : [], { address: header + 32, length: 1 }]
    this.#ring.add(readable, writable)
  }

  #data (random: Random, bytes: number): Segment[] {
    const cut = random.oneIn(2) ? bytes : random.between(1, bytes - 1)
    return [cut, bytes - cut].filter((length) => length > 0).map((length) => ({ address: DATA + random.below(DATA_BYTES - length), length }))
  }

  #take (): number {
    let taken = 0
    while (taken < RING_SIZE && this.#ring.pollUsed() >= 0) taken++
    return taken
  }

  /** Nothing was written but what is the guest's, and the disk. */
  #check (): void {
    this.#memory.checkCanaries()
    assert.ok(this.#memory.bytes[2]!.every((byte) => byte === DECOY), 'read-only memory was written')
    const found = this.#disk.read()
    assert.ok(found.subarray(DISK_BYTES).equals(BEHIND), 'the file was written behind the disk')
    assert.equal(this.#disk.size, found.length, 'the file grew')
  }

  /** A guest that does as it should gets what it should, whoever was there before. */
  async serveHonest (random: Random): Promise<void> {
    this.#memory.bytes.forEach((bytes, index) => bytes.fill(index === 2 ? DECOY : 0))
    await this.#start()
    const sector = random.below(1000)
    const bytes = random.bytes(8 * SECTOR_BYTES)
    this.#memory.driver.write(DATA, bytes)
    const [from, to] = [{ address: DATA, length: bytes.length }, { address: DATA + 0x10000, length: bytes.length }]
    await this.#ask(VIRTIO_BLK_T_OUT, sector, [from], [])
    await this.#ask(VIRTIO_BLK_T_IN, sector, [], [to])
    await this.#ask(VIRTIO_BLK_T_FLUSH, 0, [], [])
    assert.deepEqual(this.#memory.driver.read(to.address, to.length), bytes)
    await this.#disk.plane.stopQueue(0)
    this.#check()
  }

  async #ask (type: number, sector: number, readable: readonly Segment[], writable: readonly Segment[]): Promise<void> {
    const memory = this.#memory.driver
    memory.setUint32(HEADERS, type)
    memory.setUint64(HEADERS + 8, BigInt(sector))
    memory.setUint8(HEADERS + 32, 0xff)
    this.#ring.add([{ address: HEADERS, length: 16 }, ...readable], [...writable, { address: HEADERS + 32, length: 1 }])
    this.#ring.publish()
    if (this.#ring.needsKick()) this.#notifiers[0].notify()
    for (const until = performance.now() + END_MILLISECONDS; this.#take() === 0;) {
      assert.ok(performance.now() < until && this.#fault === undefined && this.#disk.death === undefined,
        `an honest guest is not served: ${this.#fault?.message ?? this.#disk.death?.message}`)
      await setTimeout(1)
    }
    assert.equal(memory.getUint8(HEADERS + 32), VIRTIO_BLK_S_OK)
  }
}

class RacePlayer implements Player {
  readonly #memory = new GuardedMemory(REGIONS)
  readonly #race = new Race()
  readonly #notifiers = [EventNotifier.create(), EventNotifier.create(), EventNotifier.create()] as const
  readonly #disks = new Map<DiskOptions, FuzzedDisk>()
  readonly #decoys = Array.from({ length: DECOYS }, () => new NativeMemory(DECOY_BYTES))
  readonly #heap = Array.from({ length: DECOYS }, () => Buffer.alloc(DECOY_BYTES, DECOY))

  constructor () {
    for (const { u8 } of this.#decoys) u8.fill(DECOY)
  }

  async play ({ setup, steps }: Case, tell: Tell): Promise<void> {
    const random = new Random(setup)
    const options = random.pick(DISKS)
    const disk = this.#disks.get(options) ?? new FuzzedDisk(options)
    this.#disks.set(options, disk)
    const changes = this.#race.changes
    const game = new RaceGame(this.#memory, disk, this.#notifiers, random, tell)
    await game.race(this.#race, steps)
    tell(`${(this.#race.changes - changes) >>> 0} words changed`)
    await game.serveHonest(random)
    for (const { u8 } of this.#decoys) assert.ok(Buffer.from(u8.buffer).equals(this.#heap[0]!), 'memory of this process was written')
    for (const bytes of this.#heap) assert.ok(bytes.every((byte) => byte === DECOY), 'the heap of this process was written')
  }

  async close (): Promise<void> {
    await this.#race.close()
    for (const disk of this.#disks.values()) await disk.close()
    for (const notifier of this.#notifiers) notifier.close()
    for (const decoy of this.#decoys) decoy.close()
    this.#memory.close()
  }
}

/** A thread that rewrites rings and requests while the device reads them. */
export const race: Surface = { name: 'race', stepsMax: 8, open: () => new RacePlayer() }
