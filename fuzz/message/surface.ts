import { close, eventfd, ftruncate, LinuxError, memfdCreate, open, O_RDONLY, receiveMessage, sendMessage, setNonBlocking, unixSocketPair } from '@node-vmm/libc'
import {
  BackEndSession, encodeConfig, encodeInflight, encodeLog, encodeMemoryTable, encodeMessage, encodeRegion, encodeU64, encodeVringAddress,
  encodeVringDescriptor, encodeVringState, FLAG_NEED_REPLY, FLAG_REPLY, FrontEndRequest as Request, frontEndRequestName, hasOwnReply,
  HEADER_BYTES, OFFERED_PROTOCOL_FEATURES, ProtocolFeature, type RegionDescription, TransportFeature, type VhostUserDevice, VhostUserError,
  VRING_FLAG_LOG
} from '@node-vmm/vhost-user'
import { BlockDevice } from '@node-vmm/vhost-user-blk'
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { FuzzedDisk } from '../request/disk.ts'
import { Random } from '../random.ts'
import { brokenOneIn, type Case, type Player, type Surface, type Tell } from '../surface.ts'
import { CheckingDevice } from './checking-device.ts'

const ANSWER_MILLISECONDS = 10_000
const GUEST = 0x40000000
const USER = 0x7f0000000000
const REGION_BYTES = 0x20000
const O_PATH = 0o10000000

/** What may be passed where a descriptor belongs, opened once: the session gets copies, and closes them. */
class Descriptors {
  readonly memory = file(4 * REGION_BYTES)
  readonly short = file(0x1000)
  readonly event = eventfd()
  readonly folder = open('/', O_RDONLY)
  readonly path = open('/', O_PATH)
  readonly zero = open('/dev/zero', 2)
  readonly pair = unixSocketPair()

  pick (random: Random): number {
    return random.pick([this.memory, this.short, this.event, this.folder, this.path, this.zero, this.pair[0]])
  }

  close (): void {
    for (const fd of [this.memory, this.short, this.event, this.folder, this.path, this.zero, ...this.pair]) close(fd)
  }
}

function file (bytes: number): number {
  const fd = memfdCreate('fuzz')
  ftruncate(fd, bytes)
  return fd
}

/** A message as it goes out. */
interface Outgoing {
  readonly request: number
  readonly payload: Uint8Array
  readonly fds: readonly number[]
}

/** How a message is sent amiss. */
interface Malformation {
  readonly flags?: number
  readonly size?: number
}

/** One front-end's session: mostly in an order that makes rings run, now and then amiss. */
class MessageGame {
  readonly #session: BackEndSession
  readonly #device: VhostUserDevice
  readonly #checking: CheckingDevice | undefined
  readonly #fds: Descriptors
  readonly #fd: number
  readonly #tell: Tell
  readonly #brokenOneIn: number
  readonly #problems: Error[] = []
  readonly #features: bigint
  #ended: { failure: Error | undefined } | undefined
  #acknowledges = false
  /** Bytes that came back and belong to no whole message yet. */
  #received = Buffer.alloc(0)
  #isOver = false

  constructor (fds: Descriptors, plane: VhostUserDevice | undefined, setup: Random, tell: Tell) {
    const [ours, theirs] = unixSocketPair()
    setNonBlocking(ours)
    this.#fds = fds
    this.#fd = ours
    this.#tell = tell
    this.#brokenOneIn = brokenOneIn(setup)
    this.#checking = plane === undefined ? new CheckingDevice(new Random(setup.word()), setup.pick([Infinity, 10])) : undefined
    this.#device = plane ?? this.#checking!
    const wanted = (setup.oneIn(3) ? 1n << 34n : 0n) | 1n << 32n | (setup.oneIn(2) ? 1n << 29n : 0n) | (setup.oneIn(2) ? TransportFeature.LOG_ALL : 0n)
    this.#features = wanted & (this.#device.features | TransportFeature.LOG_ALL) | TransportFeature.PROTOCOL_FEATURES
    this.#session = new BackEndSession(theirs, this.#device, { onProblem: (problem) => this.#problems.push(problem) })
    void this.#session.closed.then((failure) => { this.#ended = { failure } })
    tell(`${plane === undefined ? 'a device that looks closely' : 'a data plane'}, a field in ${this.#brokenOneIn} broken`)
  }

  async play (steps: readonly number[]): Promise<void> {
    const random = new Random(steps[0] ?? 0)
    if (!random.oneIn(4)) await this.#setUp(random)
    for (const step of steps) {
      if (this.#isOver) break
      await this.#step(new Random(step))
      this.#check()
    }
    await this.#end()
  }

  /** What most front-ends say at first: rings run then. */
  async #setUp (random: Random): Promise<void> {
    await this.#send(random, { request: Request.SET_PROTOCOL_FEATURES, payload: encodeU64(OFFERED_PROTOCOL_FEATURES), fds: [] })
    this.#acknowledges = true
    await this.#send(random, { request: Request.SET_FEATURES, payload: encodeU64(this.#features), fds: [] })
    await this.#send(random, { request: Request.SET_MEM_TABLE, payload: encodeMemoryTable([REGION]), fds: [this.#fds.memory] })
    for (const index of [0, 1]) {
      for (const request of random.shuffle([Request.SET_VRING_NUM, Request.SET_VRING_ADDR, Request.SET_VRING_BASE, Request.SET_VRING_CALL, Request.SET_VRING_KICK])) {
        await this.#send(random, this.#good(random, request, index))
      }
      await this.#send(random, { request: Request.SET_VRING_ENABLE, payload: encodeVringState({ index, num: 1 }), fds: [] })
    }
  }

  async #step (random: Random): Promise<void> {
    if (random.oneIn(200) && this.#brokenOneIn !== Infinity) return this.#garble(random)
    const request = random.pick(REQUESTS)
    await this.#send(random, this.#good(random, request, random.below(3)))
  }

  // Messages

  #rarely (random: Random): boolean {
    return random.oneIn(this.#brokenOneIn)
  }

  /** A message as it should be, but for a number here and there. */
  #good (random: Random, request: number, index: number): Outgoing {
    const { memory, event, pair } = this.#fds
    const number = (good: number): number => this.#rarely(random) ? random.pick(NASTY_NUMBERS) : good
    const big = (good: number): number => this.#rarely(random) ? random.pick(NASTY_ADDRESSES) : good
    const ring = number(index)
    const message = (payload: Uint8Array, ...fds: number[]): Outgoing => ({ request, payload, fds })
    switch (request) {
      case Request.SET_FEATURES: return message(encodeU64(this.#rarely(random) ? BigInt(random.word()) << 20n : random.oneIn(4) ? this.#features & ~TransportFeature.LOG_ALL : this.#features))
      case Request.SET_PROTOCOL_FEATURES: return message(encodeU64(this.#rarely(random) ? BigInt(random.word()) : OFFERED_PROTOCOL_FEATURES))
      case Request.SET_MEM_TABLE: {
        const regions = Array.from({ length: random.between(1, 3) }, (_, nth) => this.#region(random, nth))
        return message(encodeMemoryTable(regions), ...regions.map(() => memory))
      }
      case Request.ADD_MEM_REG: return message(encodeRegion(this.#region(random, random.below(6))), memory)
      case Request.REM_MEM_REG: return message(encodeRegion(this.#region(random, random.below(6))))
      case Request.SET_VRING_NUM: return message(encodeVringState({ index: ring, num: number(random.oneIn(10) ? 128 : 64) }))
      case Request.SET_VRING_BASE: return message(encodeVringState({ index: ring, num: number(random.pick([0, 0, 5, 65535, 0x80008000])) }))
      case Request.GET_VRING_BASE: return message(encodeVringState({ index: ring, num: 0 }))
      case Request.SET_VRING_ENABLE: return message(encodeVringState({ index: ring, num: number(random.oneIn(4) ? 0 : 1) }))
      case Request.SET_VRING_ADDR: return message(encodeVringAddress({
        index: ring, descriptor: big(USER + index * 0x4000), available: big(USER + index * 0x4000 + 0x1000), used: big(USER + index * 0x4000 + 0x2000),
        flags: random.oneIn(3) ? VRING_FLAG_LOG : 0, log: BigInt(big(GUEST + index * 0x4000 + 0x2000))
      }))
      case Request.SET_VRING_KICK:
      case Request.SET_VRING_CALL:
      case Request.SET_VRING_ERR: {
        const hasFd = request === Request.SET_VRING_KICK || !random.oneIn(4)
        return message(encodeVringDescriptor({ index: ring & 0xff, hasFd }), ...hasFd ? [event] : [])
      }
      case Request.GET_INFLIGHT_FD: return message(this.#inflight(random, number))
      case Request.SET_INFLIGHT_FD: return message(this.#inflight(random, number), memory)
      case Request.SET_LOG_BASE: return message(encodeLog({ size: big(0x10000), offset: big(random.pick([0, 8, 0x1000])) }), memory)
      case Request.SET_LOG_FD: return message(new Uint8Array(0), event)
      case Request.GET_CONFIG: return message(encodeConfig({ offset: number(0), size: 60, flags: 0, data: new Uint8Array(60) }))
      case Request.SET_CONFIG: return message(encodeConfig({ offset: number(32), size: 1, flags: 0, data: Uint8Array.of(random.below(3)) }))
      case Request.SET_STATUS: return message(encodeU64(BigInt(number(random.oneIn(4) ? 0 : 15))))
      case Request.SET_BACKEND_REQ_FD: return message(new Uint8Array(0), pair[0])
      default: return message(new Uint8Array(0))
    }
  }

  #region (random: Random, nth: number): RegionDescription {
    const region = { ...REGION, guestAddress: GUEST + nth * REGION_BYTES, userAddress: USER + nth * REGION_BYTES, offset: nth % 4 * REGION_BYTES }
    if (!this.#rarely(random)) return region
    const field = random.pick(['guestAddress', 'size', 'userAddress', 'offset'] as const)
    return { ...region, [field]: random.pick([...NASTY_ADDRESSES, region[field] + 1, region[field] + 0x1000]) }
  }

  #inflight (random: Random, number: (good: number) => number): Uint8Array {
    const description = { size: number(0x4000), offset: number(random.pick([0, 64, 0x1000])), queues: number(random.between(1, 2)) & 0xffff, queueSize: number(64) & 0xffff }
    return encodeInflight(description, random.pick([20, 24]))
  }

  /** Sends a message, rarely amiss, and waits for what is to come of it. */
  async #send (random: Random, { request: wanted, payload: good, fds: whole }: Outgoing): Promise<void> {
    if (this.#isOver) return
    let [request, payload, fds] = [wanted, good, [...whole]]
    if (this.#rarely(random)) request = random.pick([...REQUESTS, 0, 99, 0xffffffff, Request.IOTLB_MSG, Request.POSTCOPY_ADVISE, Request.GET_SHMEM_CONFIG])
    if (this.#rarely(random)) payload = random.oneIn(2) ? payload.subarray(0, random.below(payload.length + 1)) : Buffer.concat([payload, random.bytes(random.pick([1, 8, 300]))])
    if (this.#rarely(random)) fds = Array.from({ length: random.pick([0, 1, 2, 3, 9, 32, 33, 40]) }, () => this.#fds.pick(random))
    if (this.#rarely(random) && fds.length > 0) fds[random.below(fds.length)] = this.#fds.pick(random)
    if (this.#rarely(random) && payload.length > 0) payload = flip(payload, random)
    const amiss: Malformation = this.#rarely(random)
      ? random.pick([{ flags: FLAG_REPLY }, { size: random.pick([0, 4097, 0xffffffff, payload.length + 1]) }, { flags: 2 }, { flags: 0x80000000 }])
      : {}
    const needsReply = random.oneIn(2)
    this.#tell(`${frontEndRequestName(request)}, ${payload.length} bytes, ${fds.length} descriptors${needsReply ? ', a reply wanted' : ''}` +
      `${Object.keys(amiss).length > 0 ? `, ${JSON.stringify(amiss)}` : ''}: ${Buffer.from(payload).toString('hex').slice(0, 80)}`)
    const bytes = encodeMessage(request, needsReply ? FLAG_NEED_REPLY : 0, payload)
    const header = new DataView(bytes.buffer)
    if (amiss.flags !== undefined) header.setUint32(4, header.getUint32(4, true) ^ amiss.flags, true)
    if (amiss.size !== undefined) header.setUint32(8, amiss.size, true)
    if (request === Request.SET_PROTOCOL_FEATURES && payload.length === 8 && fds.length === 0) this.#followAgreement(payload)
    if (!await this.#write(random, bytes, fds)) return
    // What follows is no longer a message, or the end of one.
    if (amiss.size !== undefined && amiss.size !== payload.length && amiss.size <= 4096) return this.#hangUp('where no message ends')
    await this.#answer(request)
  }

  /** What REPLY_ACK is now, if the session takes it: what it acknowledges from then on. */
  #followAgreement (payload: Uint8Array): void {
    const features = Buffer.from(payload).readBigUInt64LE()
    if ((features & ~OFFERED_PROTOCOL_FEATURES) === 0n) this.#acknowledges = (features & ProtocolFeature.REPLY_ACK) !== 0n
  }

  /** In one piece or several. @returns false when the session is over */
  async #write (random: Random, bytes: Uint8Array, fds: readonly number[]): Promise<boolean> {
    const cuts = random.oneIn(4) ? [random.below(bytes.length), bytes.length] : [bytes.length]
    let from = 0
    for (const to of cuts.filter((cut) => cut > 0)) {
      while (from < to) {
        let taken: number | undefined
        try {
          taken = sendMessage(this.#fd, bytes.subarray(from, to), from === 0 ? fds : [])
        } catch (error) {
          assert.ok(error instanceof LinuxError)
          await this.#over()
          return false
        }
        if (taken === undefined) await setImmediate()
        else from += taken
      }
      if (random.oneIn(2)) await setImmediate()
    }
    return true
  }

  /** Asks what is always answered, and takes all that comes until then: one answer each, whole, to what was asked. */
  async #answer (request: number): Promise<void> {
    try {
      sendMessage(this.#fd, encodeMessage(Request.GET_FEATURES, 0, new Uint8Array(0)))
    } catch {
      return this.#over()
    }
    const answers: number[] = []
    for (;;) {
      const reply = await this.#receive()
      if (reply === undefined) return this.#over()
      const isLast = reply.request === Request.GET_FEATURES && (request !== Request.GET_FEATURES || answers.length === 1)
      answers.push(reply.request)
      assert.equal(reply.flags, 5, `the flags of a reply to ${frontEndRequestName(reply.request)}`)
      if (isLast) break
      assert.equal(reply.request, request, 'a reply to what was not asked')
      assert.ok(answers.length <= 1, 'two replies')
      if (!hasOwnReply(request) && request !== Request.SET_LOG_BASE) assert.ok(this.#acknowledges && reply.payload.length === 8, `${frontEndRequestName(request)} is answered`)
    }
    if (hasOwnReply(request)) assert.equal(answers.length, 2, `${frontEndRequestName(request)} is not answered`)
  }

  async #receive (): Promise<{ request: number, flags: number, payload: Buffer } | undefined> {
    const until = performance.now() + ANSWER_MILLISECONDS
    for (;;) {
      if (this.#received.length >= HEADER_BYTES) {
        const size = this.#received.readUInt32LE(8)
        assert.ok(size <= 4096, `a reply of ${size} bytes`)
        if (this.#received.length >= HEADER_BYTES + size) {
          const [request, flags] = [this.#received.readUInt32LE(0), this.#received.readUInt32LE(4)]
          const payload = this.#received.subarray(HEADER_BYTES, HEADER_BYTES + size)
          this.#received = this.#received.subarray(HEADER_BYTES + size)
          return { request, flags, payload }
        }
      }
      if (!this.#take()) return undefined
      assert.ok(performance.now() < until, 'no answer')
      await setImmediate()
    }
  }

  /** @returns false at the end of the stream */
  #take (): boolean {
    try {
      const bytes = Buffer.alloc(8192)
      const part = receiveMessage(this.#fd, bytes)
      if (part === undefined) return true
      for (const fd of part.fds) close(fd)
      this.#received = Buffer.concat([this.#received, bytes.subarray(0, part.length)])
      return part.length > 0
    } catch {
      return false
    }
  }

  /** Bytes that are no message at all. */
  async #garble (random: Random): Promise<void> {
    this.#tell('bytes that are no message')
    if (await this.#write(random, random.bytes(random.between(1, 600)), [])) this.#hangUp('after them')
  }

  #hangUp (when: string): void {
    this.#tell(`hang up ${when}`)
    this.#isOver = true
  }

  /** The session hung up: it says why. */
  async #over (): Promise<void> {
    this.#isOver = true
    await this.#closed()
    assert.ok(this.#ended!.failure !== undefined, 'the session hung up, and does not say why')
    this.#tell(`the session is over: ${this.#ended!.failure.message}`)
  }

  async #closed (): Promise<void> {
    for (const until = performance.now() + ANSWER_MILLISECONDS; this.#ended === undefined;) {
      assert.ok(performance.now() < until, 'the session does not end')
      await setImmediate()
    }
  }

  async #end (): Promise<void> {
    close(this.#fd)
    await this.#closed()
    this.#check()
    const { failure } = this.#ended!
    if (failure !== undefined) assert.ok(failure instanceof VhostUserError && failure.code === 'ERR_VHOST_USER_PROTOCOL', failure.stack)
    assert.equal(this.#checking?.running.size ?? 0, 0, 'queues run after the end')
  }

  /** Problems are of the kinds that are documented, and the device was treated as promised. */
  #check (): void {
    if (this.#checking?.broken !== undefined) throw this.#checking.broken
    for (const problem of this.#problems.splice(0)) checkProblem(problem)
  }
}

function flip (payload: Uint8Array, random: Random): Uint8Array {
  const flipped = Uint8Array.from(payload)
  flipped[random.below(payload.length)]! ^= 1 << random.below(8)
  return flipped
}

/** A fault of ours would be a TypeError, or a RangeError, in the chain of causes. */
function checkProblem (problem: Error): void {
  for (let error: unknown = problem; error !== undefined; error = (error as Error).cause) {
    assert.ok(error instanceof Error, String(error))
    const isKnown = ['VhostUserError', 'GuestMemoryError', 'LinuxError', 'VringError', 'DataPlaneError'].includes(error.name) ||
      error.message === 'the device does not like this ring'
    assert.ok(isKnown, error.stack)
  }
}

const REGION: RegionDescription = { guestAddress: GUEST, size: REGION_BYTES, userAddress: USER, offset: 0 }

const REQUESTS = [
  Request.GET_FEATURES, Request.SET_FEATURES, Request.SET_OWNER, Request.RESET_OWNER, Request.SET_MEM_TABLE, Request.SET_LOG_BASE, Request.SET_LOG_FD,
  Request.SET_VRING_NUM, Request.SET_VRING_ADDR, Request.SET_VRING_BASE, Request.GET_VRING_BASE, Request.SET_VRING_KICK, Request.SET_VRING_CALL,
  Request.SET_VRING_ERR, Request.GET_PROTOCOL_FEATURES, Request.SET_PROTOCOL_FEATURES, Request.GET_QUEUE_NUM, Request.SET_VRING_ENABLE,
  Request.SET_BACKEND_REQ_FD, Request.GET_CONFIG, Request.SET_CONFIG, Request.GET_INFLIGHT_FD, Request.SET_INFLIGHT_FD, Request.RESET_DEVICE,
  Request.GET_MAX_MEM_SLOTS, Request.ADD_MEM_REG, Request.REM_MEM_REG, Request.SET_STATUS, Request.GET_STATUS,
  // More often, what makes rings run.
  Request.SET_VRING_NUM, Request.SET_VRING_ADDR, Request.SET_VRING_KICK, Request.SET_VRING_ENABLE, Request.SET_FEATURES, Request.SET_MEM_TABLE
]

const NASTY_NUMBERS = [0, 1, 2, 3, 255, 256, 32768, 32769, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff]
const NASTY_ADDRESSES = [0, 1, 8, 4095, 4096, USER + REGION_BYTES - 16, USER + REGION_BYTES, GUEST + 1, 2 ** 47, 2 ** 52, Number.MAX_SAFE_INTEGER - 4095, Number.MAX_SAFE_INTEGER]

class MessagePlayer implements Player {
  readonly #fds = new Descriptors()
  readonly #disk = new FuzzedDisk({ engine: 'io_uring', discardSegments: 4 })
  readonly #block = new BlockDevice(this.#disk.plane)
  #before: readonly [number, number] | undefined

  async play ({ setup, steps }: Case, tell: Tell): Promise<void> {
    const random = new Random(setup)
    // A data plane's thread takes its time to start.
    const isReal = random.oneIn(16)
    const before = isReal ? undefined : (this.#before ??= opened())
    await new MessageGame(this.#fds, isReal ? this.#block : undefined, random, tell).play(steps)
    if (this.#disk.death !== undefined) throw this.#disk.death
    if (isReal) this.#before = undefined
    if (before !== undefined) assert.deepEqual(opened(), before, 'descriptors, and mappings of guest memory')
  }

  async close (): Promise<void> {
    await this.#disk.close()
    this.#fds.close()
  }
}

/** How many descriptors this process has, and mappings of files in memory. */
function opened (): readonly [number, number] {
  return [readdirSync('/proc/self/fd').length, readFileSync('/proc/self/maps', 'utf8').split('/memfd:').length - 1]
}


/** vhost-user messages: their bytes, descriptors and order. */
export const message: Surface = { name: 'message', stepsMax: 60, open: () => new MessagePlayer() }
