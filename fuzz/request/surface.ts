import { EventNotifier } from '@node-vmm/event-poll'
import { watchReadable, type Watch } from '@node-vmm/libc'
import {
  SECTOR_BYTES, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_BARRIER, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
} from '@node-vmm/virtio-blk'
import { featureMask, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, type VirtqueueState, type VringFault } from '@node-vmm/vring'
import {
  type DriverQueue, DriverRing, indirectTableBytes, layOutPackedRing, layOutRing, NOTHING_USED, PackedDriverRing, RING_FULL, type RingLayout, type Segment,
  USED_RING_BROKEN
} from '@node-vmm/vring/driver'
import assert from 'node:assert/strict'
import { GuardedMemory } from '../guarded-memory.ts'
import { GuestImage } from '../guest-image.ts'
import { Random } from '../random.ts'
import { brokenOneIn, type Case, type Player, type Surface, type Tell } from '../surface.ts'
import { contentOf, DISK_BYTES, type DiskOptions, FuzzedDisk, SERIAL } from './disk.ts'
import { DiskModel, type Touched, type Verdict } from './disk-model.ts'

// The ring and its tables have a region of their own, where only they are: all others are compared with what they should
// be. The second and the third touch each other, at an odd place.
const RING_BYTES = 0x10000
const TABLES = 0x4000
const TABLE_SEGMENTS = 24
const DATA = 0x1_0000_0000
const DATA_BYTES = 0x2fa31
const BORDER = DATA + DATA_BYTES
const BORDER_BYTES = 0x20000
const READ_ONLY = 0x2_0000_0000
const READ_ONLY_BYTES = 0x1000

const REGIONS = [
  { guestAddress: 0, size: RING_BYTES },
  { guestAddress: DATA, size: DATA_BYTES },
  { guestAddress: BORDER, size: BORDER_BYTES },
  { guestAddress: READ_ONLY, size: READ_ONLY_BYTES, readOnly: true }
]

/** The first ones serve most cases: the others start a thread for what Linux AIO cannot do, or wait for a real disk. */
const DISKS: readonly DiskOptions[] = [
  { engine: 'io_uring', discardSegments: 4 },
  { engine: 'io_uring', discardSegments: 256, writeThrough: true },
  { engine: 'io_uring', readOnly: true },
  { engine: 'linux-aio', discardSegments: 0 },
  { engine: 'mapped', discardSegments: 4 },
  { engine: 'mapped', discardSegments: 256, writeThrough: true },
  { engine: 'mapped', readOnly: true },
  { engine: 'linux-aio', discardSegments: 1 },
  { engine: 'sync', discardSegments: 4 },
  { engine: 'io_uring', discardSegments: 4, onDisk: true },
  { engine: 'io_uring+linux-aio', discardSegments: 4, direct: true, onDisk: true },
  { engine: 'linux-aio', discardSegments: 4, direct: true, onDisk: true }
]
const FAST_DISKS = 5

const NASTY_SECTORS = [2n ** 32n, 2n ** 53n, 2n ** 55n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 8n, 2n ** 53n - 1n]
const ANSWER_MILLISECONDS = 30_000
const SEGMENTS_MAX = 10
/** Bytes that one request takes at most: two times 64 sectors of data, and what lies between pieces. */
const ROOM_BYTES = 0x12000

/** A request on its way. */
interface Request {
  readonly name: string
  readonly verdict: Verdict | undefined
  readonly writable: readonly Segment[]
}

/** What a driver has: memory, and descriptors to wake and to be woken. */
interface Wiring {
  readonly memory: GuardedMemory
  readonly kick: EventNotifier
  readonly call: EventNotifier
  readonly error: EventNotifier
  /** Waits until the device interrupts, or breaks the ring. @throws when it takes too long */
  woken (): Promise<void>
  wake (): void
}

/** Requests of one driver on one disk, and what comes of them. */
class RequestGame {
  readonly #wiring: Wiring
  readonly #disk: FuzzedDisk
  readonly #tell: Tell
  readonly #model: DiskModel
  /** All of the file: the model's bytes, and what is behind them. */
  readonly #content: Buffer
  readonly #image: GuestImage
  readonly #layout: RingLayout
  readonly #features: { packed: boolean, eventIdx: boolean, inOrder: boolean, indirect: boolean, flush: boolean }
  readonly #brokenOneIn: number
  #ring: DriverQueue
  readonly #inFlight = new Map<number, Request>()
  #fault: VringFault | undefined
  #token = 0
  #free = DATA

  constructor (wiring: Wiring, disk: FuzzedDisk, setup: Random, tell: Tell) {
    this.#wiring = wiring
    this.#disk = disk
    this.#tell = tell
    const { memory } = wiring
    memory.bytes.forEach((bytes, index) => bytes.fill(index === 0 ? 0 : setup.word()))
    this.#image = new GuestImage(REGIONS.map(({ guestAddress, readOnly = false }, index) =>
      ({ start: guestAddress, bytes: Buffer.from(memory.bytes[index]!), writable: !readOnly })))
    this.#content = Buffer.from(CONTENTS[setup.below(CONTENTS.length)]!)
    disk.fill(this.#content)
    disk.onFault = (fault) => {
      this.#fault = fault
      wiring.wake()
    }
    const { readOnly = false, discardSegments = 1 } = disk.options
    this.#model = new DiskModel(this.#content.subarray(0, DISK_BYTES), { readOnly, discardSegments, serial: SERIAL })
    this.#features = { packed: setup.oneIn(2), eventIdx: setup.oneIn(2), inOrder: setup.oneIn(4), indirect: setup.oneIn(2), flush: !setup.oneIn(4) }
    this.#brokenOneIn = brokenOneIn(setup)
    const size = 2 ** setup.between(4, 7)
    this.#layout = this.#features.packed ? layOutPackedRing(0, size - setup.below(4)) : layOutRing(0, size)
    this.#ring = this.#makeRing()
    tell(`${JSON.stringify(disk.options)}, a ring of ${this.#layout.size}, ${JSON.stringify(this.#features)}, a field in ${this.#brokenOneIn} broken`)
  }

  #makeRing (): DriverQueue {
    const { packed, eventIdx, inOrder, indirect } = this.#features
    const options = { eventIdx, inOrder, ...(indirect && { indirect: { address: TABLES, segments: TABLE_SEGMENTS } }) }
    assert.ok(TABLES + indirectTableBytes(this.#layout.size, TABLE_SEGMENTS) <= RING_BYTES)
    return packed
      ? new PackedDriverRing(this.#wiring.memory.driver, this.#layout, options)
      : new DriverRing(this.#wiring.memory.driver, this.#layout, options)
  }

  async #start (state: Partial<VirtqueueState> = {}): Promise<void> {
    const { packed, eventIdx, inOrder, flush } = this.#features
    const bits = [VIRTIO_F_INDIRECT_DESC]
    if (packed) bits.push(VIRTIO_F_RING_PACKED)
    if (eventIdx) bits.push(VIRTIO_F_EVENT_IDX)
    if (inOrder) bits.push(VIRTIO_F_IN_ORDER)
    if (flush) bits.push(VIRTIO_BLK_F_FLUSH)
    const { memory, kick, call, error } = this.#wiring
    this.#fault = undefined
    for (const notifier of [kick, error]) notifier.clear()
    await this.#disk.plane.startQueue(0, {
      memory: memory.device, ...this.#layout, ...state, features: featureMask(...bits), kickFd: kick.fd, callFd: call.fd, errorFd: error.fd
    })
  }

  async play (steps: readonly number[]): Promise<void> {
    await this.#start()
    for (const step of steps) await this.#step(new Random(step))
    await this.#settle()
    await this.#disk.plane.stopQueue(0)
    assert.deepEqual(this.#disk.plane.inFlight, [0])
    this.#compare()
  }

  async #step (random: Random): Promise<void> {
    const dice = random.below(100)
    if (dice < 4) return this.#settle()
    if (dice < 6) return this.#hold()
    if (dice < 7) return this.#disk.plane.setWriteThrough(random.oneIn(2))
    if (dice < 8) return this.#restart()
    for (let count = random.between(1, 6); count > 0; count--) await this.#send(random)
  }

  /** What was taken in before is complete then, and what waits in the ring is served afterwards. */
  async #hold (): Promise<void> {
    this.#tell('pause')
    await this.#disk.plane.pause({ timeout: ANSWER_MILLISECONDS })
    assert.deepEqual(this.#disk.plane.inFlight, [0])
    this.#disk.plane.resume()
    await this.#settle()
  }

  /** The queue goes on from where it stopped, with what it had not taken. */
  async #restart (): Promise<void> {
    const state = await this.#disk.plane.stopQueue(0)
    this.#tell(`stop, and start at ${JSON.stringify(state)}`)
    await this.#start(state)
  }

  async #send (random: Random): Promise<void> {
    if (this.#free > BORDER + BORDER_BYTES - ROOM_BYTES) {
      await this.#settle()
      this.#free = DATA
    }
    const { name, readable, writable } = this.#make(random)
    const segments = [...readable, ...writable]
    // No driver can make a chain of nothing.
    if (segments.length === 0) return
    const mapped = readable.every((segment) => this.#isMapped(segment, false)) && writable.every((segment) => this.#isMapped(segment, true))
    const sent = mapped ? Buffer.concat(readable.map(({ address, length }) => this.#image.read(address, length))) : Buffer.alloc(0)
    const verdict = mapped ? this.#model.judge(sent, bytesOf(writable)) : undefined
    const touched = verdict?.touched ?? []
    if (verdict === undefined || this.#conflicts(touched)) await this.#settle()
    if (segments.length > this.#ring.freeDescriptors) await this.#settle()
    const head = this.#ring.add(readable, writable, ++this.#token)
    assert.notEqual(head, RING_FULL)
    this.#inFlight.set(this.#token, { name, verdict, writable })
    this.#tell(`${name}: ${verdict === undefined ? 'breaks the ring' : `status ${verdict.status}`}`)
    this.#ring.publish()
    if (this.#ring.needsKick()) this.#wiring.kick.notify()
    if (verdict === undefined) return this.#expectBroken()
    // Read before anything changes it: what is in flight together has nothing in common.
    this.#model.apply(verdict, sent.subarray(16))
  }

  #isMapped ({ address, length }: Segment, write: boolean): boolean {
    return this.#image.ranges(BigInt(address), length, write) !== undefined
  }

  #conflicts (touched: readonly Touched[]): boolean {
    const others = [...this.#inFlight.values()].flatMap(({ verdict }) => verdict?.touched ?? [])
    return touched.some((one) => others.some((other) =>
      one.from < other.to && other.from < one.to && (one.effect !== 'read' || other.effect !== 'read')))
  }

  // Requests

  #make (random: Random): { name: string, readable: Segment[], writable: Segment[] } {
    const type = this.#rarely(random)
      ? random.pick([2, 3, 10, 12, 14, 15, 0x7fffffff, random.below(32)])
      : random.pick([VIRTIO_BLK_T_IN, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES])
    const sectors = random.oneIn(8) ? random.below(64) : random.between(1, 8)
    let sector = BigInt(random.oneIn(8) ? DISK_BYTES / SECTOR_BYTES - sectors : random.below(DISK_BYTES / SECTOR_BYTES - sectors))
    if (this.#rarely(random)) sector = random.oneIn(2) ? random.pick(NASTY_SECTORS) : BigInt(DISK_BYTES / SECTOR_BYTES - random.below(sectors + 1) + random.below(2))
    let payload: Uint8Array = new Uint8Array(0)
    let room = 0
    if (type === VIRTIO_BLK_T_OUT || (type > 13 && random.oneIn(2))) payload = this.#data(random, sectors)
    if (type === VIRTIO_BLK_T_IN || type > 13) room = sectors * SECTOR_BYTES
    if (type === VIRTIO_BLK_T_GET_ID) room = random.pick([20, 20, 0, 1, 19, 21, 64])
    if (type === VIRTIO_BLK_T_DISCARD || type === VIRTIO_BLK_T_WRITE_ZEROES) payload = this.#rangesOf(random, type)
    if (this.#rarely(random)) payload = payload.subarray(0, random.below(payload.length + 1))
    if (this.#rarely(random)) room = Math.max(0, room + random.pick([-1, 1, -512, 512, -511]))
    const header = Buffer.alloc(16)
    header.writeUInt32LE((type | (random.oneIn(16) ? VIRTIO_BLK_T_BARRIER : 0)) >>> 0, 0)
    header.writeUInt32LE(random.word(), 4)
    header.writeBigUInt64LE(sector, 8)
    let sent = Buffer.concat([header, payload])
    if (this.#rarely(random)) sent = sent.subarray(0, random.below(17))
    const writable = this.#frame(random, this.#rarely(random) ? 0 : room + 1)
    const readable = this.#frame(random, sent.length)
    this.#fill(readable, sent)
    if (this.#rarely(random)) this.#misplace(random, random.oneIn(2) ? readable : writable)
    return { name: `type ${type}, sector ${sector}, ${payload.length} bytes sent and ${room} wanted, in ${readable.length} and ${writable.length} pieces`, readable, writable }
  }

  #rarely (random: Random): boolean {
    return random.oneIn(this.#brokenOneIn)
  }

  #data (random: Random, sectors: number): Uint8Array {
    const words = new Uint32Array(sectors * SECTOR_BYTES / 4)
    const first = random.word()
    for (let index = 0; index < words.length; index++) words[index] = Math.imul(first + index, 0x9e3779b1)
    return new Uint8Array(words.buffer)
  }

  #rangesOf (random: Random, type: number): Uint8Array {
    const most = this.#model.discardSegments
    const count = this.#rarely(random) ? random.pick([0, most, most + 1]) : random.between(1, Math.min(4, Math.max(1, most)))
    const payload = Buffer.alloc(16 * count)
    for (let at = 0; at < payload.length; at += 16) {
      const sectors = random.below(16)
      const flags = type === VIRTIO_BLK_T_WRITE_ZEROES && random.oneIn(2) ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0
      payload.writeBigUInt64LE(this.#rarely(random) ? random.pick(NASTY_SECTORS) : BigInt(random.below(DISK_BYTES / SECTOR_BYTES - sectors)), at)
      payload.writeUInt32LE(this.#rarely(random) ? random.pick([0x200000, 0x200001, 0xffffffff, 256, 257]) : sectors, at + 8)
      payload.writeUInt32LE(this.#rarely(random) ? random.pick([1, 2, 3, 0x80000000]) : flags, at + 12)
    }
    return payload
  }

  /** Fresh memory for so many bytes, in pieces of any size, some of none. */
  #frame (random: Random, bytes: number): Segment[] {
    if (bytes === 0) return []
    const pieces = random.oneIn(2) ? random.between(1, 3) : random.between(1, SEGMENTS_MAX / 2)
    const aligned = random.oneIn(3)
    const cuts = Array.from({ length: pieces - 1 }, () => random.oneIn(3) ? Math.min(bytes, random.pick([1, 15, 16, 17, 512, bytes - 1])) : random.below(bytes + 1))
    const ends = [...cuts.sort((one, other) => one - other), bytes]
    return ends.map((end, index) => {
      const length = end - (ends[index - 1] ?? 0)
      const address = this.#free + (aligned ? (512 - this.#free % 512) % 512 : random.below(8))
      this.#free = address + length
      return { address, length }
    })
  }

  #fill (segments: readonly Segment[], bytes: Buffer): void {
    let at = 0
    for (const { address, length } of segments) {
      const part = bytes.subarray(at, at + length)
      if (length > 0) this.#wiring.memory.driver.write(address, part)
      if (length > 0) this.#image.write(address, part)
      at += length
    }
  }

  /** A piece that is not in memory, or may not be written; or is, as the end of what it was. */
  #misplace (random: Random, segments: Segment[]): void {
    if (segments.length === 0) return
    const index = random.below(segments.length)
    const { length } = segments[index]!
    const address = random.pick([READ_ONLY, READ_ONLY + READ_ONLY_BYTES - length + 1, BORDER + BORDER_BYTES - length + 1, DATA - 1, RING_BYTES, 2 ** 52])
    segments[index] = { address, length }
  }

  // Answers

  async #settle (): Promise<void> {
    while (this.#inFlight.size > 0) {
      this.#take()
      if (this.#inFlight.size === 0) break
      if (this.#ring.enableInterrupts() === 'more') continue
      this.#checkAlive()
      await this.#wiring.woken()
    }
    this.#compare()
  }

  #take (): void {
    for (let head = this.#ring.pollUsed(); head !== NOTHING_USED; head = this.#ring.pollUsed()) {
      assert.notEqual(head, USED_RING_BROKEN, 'the device used what it was not given')
      const { usedToken: token, usedLength } = this.#ring
      const request = this.#inFlight.get(token)
      assert.ok(request?.verdict !== undefined, `answered, though it breaks the ring: ${request?.name}`)
      this.#inFlight.delete(token)
      const { verdict: { data, status }, writable, name } = request
      // Of a batch in order, only the last one's length comes back.
      if (!this.#features.inOrder) assert.equal(usedLength, data.length + 1, `bytes written for ${name}`)
      this.#answer(writable, data, status)
    }
  }

  /** What the guest should find: the data from the first byte on, the status in the last one. */
  #answer (writable: readonly Segment[], data: Uint8Array, status: number): void {
    let at = 0
    for (const { address, length } of writable) {
      const part = data.subarray(at, at + length)
      if (part.length > 0) this.#image.write(address, part)
      at += length
    }
    const last = writable.filter(({ length }) => length > 0).at(-1)!
    this.#image.write(last.address + last.length - 1, Uint8Array.of(status))
  }

  async #expectBroken (): Promise<void> {
    while (this.#fault === undefined) {
      this.#take()
      this.#checkAlive()
      await this.#wiring.woken()
    }
    this.#tell(`broken: ${this.#fault.message}`)
    await this.#disk.plane.stopQueue(0)
    assert.equal(this.#ring.pollUsed(), NOTHING_USED, 'a broken ring is answered')
    this.#inFlight.clear()
    this.#compare()
    this.#ring = this.#makeRing()
    await this.#start()
  }

  #checkAlive (): void {
    const { death } = this.#disk
    if (death !== undefined) throw death
    assert.ok(this.#fault === undefined || [...this.#inFlight.values()].some(({ verdict }) => verdict === undefined), `the ring is broken: ${this.#fault?.message}`)
  }

  /** While nothing is in flight: every byte of memory and of the file is known. */
  #compare (): void {
    const { memory } = this.#wiring
    memory.checkCanaries()
    assert.deepEqual(memory.differences([memory.bytes[0]!, ...this.#image.bytes.slice(1)]), [], 'guest memory')
    const found = this.#disk.read()
    if (!found.equals(this.#content)) this.#compareFile(found)
    assert.equal(this.#disk.size, found.length, 'bytes of the file')
  }

  #compareFile (found: Buffer): void {
    const at = found.findIndex((byte, index) => byte !== this.#content[index])
    assert.fail(`byte ${at % SECTOR_BYTES} of sector ${Math.floor(at / SECTOR_BYTES)} of the file is ${found[at]}, not ${this.#content[at]}${at >= DISK_BYTES ? ': behind the disk' : ''}; ${found.length} bytes`)
  }
}

function bytesOf (segments: readonly Segment[]): number {
  return segments.reduce((sum, { length }) => sum + length, 0)
}

/** Some that a disk begins with: to make one takes longer than most cases. */
const CONTENTS = [1, 2, 3].map(contentOf)

class RequestPlayer implements Player, Wiring {
  readonly memory = new GuardedMemory(REGIONS)
  readonly kick = EventNotifier.create()
  readonly call = EventNotifier.create()
  readonly error = EventNotifier.create()
  readonly #watches: readonly Watch[]
  readonly #disks = new Map<DiskOptions, FuzzedDisk>()
  #isWoken = false
  #onWake = (): void => {}

  constructor () {
    this.#watches = [this.call, this.error].map((notifier) => watchReadable(notifier.fd, () => {
      notifier.clear()
      this.wake()
    }))
  }

  async play ({ setup, steps }: Case, tell: Tell): Promise<void> {
    const random = new Random(setup)
    const options = random.pick(random.oneIn(16) ? DISKS : DISKS.slice(0, FAST_DISKS))
    const disk = this.#disks.get(options) ?? new FuzzedDisk(options)
    this.#disks.set(options, disk)
    await new RequestGame(this, disk, random, tell).play(steps)
  }

  wake (): void {
    this.#isWoken = true
    this.#onWake()
  }

  async woken (): Promise<void> {
    if (!this.#isWoken) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`nothing was answered for ${ANSWER_MILLISECONDS} ms`)), ANSWER_MILLISECONDS)
        this.#onWake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    this.#isWoken = false
    this.#onWake = () => {}
  }

  async close (): Promise<void> {
    for (const disk of this.#disks.values()) await disk.close()
    for (const watch of this.#watches) watch.close()
    for (const notifier of [this.kick, this.call, this.error]) notifier.close()
    this.memory.close()
  }
}

/** Block requests on a real file. */
export const request: Surface = { name: 'request', stepsMax: 30, open: () => new RequestPlayer() }
