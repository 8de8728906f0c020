import { close, ftruncate, memfdCreate, unixSocketPair } from '@node-vmm/libc'
import {
  BackEndSession, encodeInflight, FrontEnd, FrontEndRequest, type InflightDescription, OFFERED_PROTOCOL_FEATURES, type QueueSetup, TransportFeature,
  type VhostUserDevice
} from '@node-vmm/vhost-user'
import { GuestMemory } from '@node-vmm/hostmem'
import { eventfd, viewMemory } from '@node-vmm/libc'
import { DescriptorChain, InflightRecord, inflightRecordBytes, SplitVring, VringError } from '@node-vmm/vring'
import { layOutRing, RawRing } from '@node-vmm/vring/driver'
import assert from 'node:assert/strict'
import { Random } from '../random.ts'
import { brokenOneIn, type Tell } from '../surface.ts'

const QUEUES = 3
const FILE_BYTES = 0x8000
const GUEST_BYTES = 0x10000
const USER = 0x7f0000000000
const VERSION_1 = 1n << 32n

/** A device that opens a ring on the record that it is given, takes what is to be done again, and gives it back. */
class RecordingDevice implements VhostUserDevice {
  readonly features = VERSION_1
  readonly queueCount = QUEUES
  readonly running = new Map<number, { ring: SplitVring, heads: number[], inflight: QueueSetup['inflight'] }>()
  broken: Error | undefined

  getConfig (): Uint8Array {
    return new Uint8Array(0)
  }

  setFeatures (): void {}

  inflightBytes (queueSize: number): number {
    return inflightRecordBytes(queueSize)
  }

  startQueue (index: number, { memory, inflight, size, base, descriptorAddress, availableAddress, usedAddress }: QueueSetup): void {
    if (inflight !== undefined) this.#check(() => this.#checkRecord(index, inflight, size))
    const ring = new SplitVring(memory, { size, descriptorAddress, availableAddress, usedAddress, availableIndex: base }, {
      record: inflight === undefined ? undefined : new InflightRecord(inflight.address, size)
    })
    const chain = new DescriptorChain(memory)
    const heads: number[] = []
    while (ring.pop(chain) === 'chain') heads.push(chain.head)
    this.#check(() => assert.ok(heads.length <= size && new Set(heads).size === heads.length, `heads ${heads.join()}`))
    this.running.set(index, { ring, heads, inflight })
  }

  #checkRecord (index: number, { address, length }: NonNullable<QueueSetup['inflight']>, size: number): void {
    assert.ok(length >= inflightRecordBytes(size) && address % 64 === 0)
    // All of it is mapped, and nobody else's.
    const bytes = new Uint8Array(viewMemory(address, length))
    assert.notEqual(bytes[0]! + bytes[length - 1]!, -1)
    for (const [other, { inflight }] of this.running) {
      if (inflight === undefined) continue
      assert.ok(address + length <= inflight.address || inflight.address + inflight.length <= address, `the records of ${index} and ${other} overlap`)
    }
  }

  #check (what: () => void): void {
    try {
      what()
    } catch (error) {
      this.broken ??= error as Error
    }
  }

  async stopQueue (index: number): Promise<number> {
    const { ring, heads } = this.running.get(index)!
    this.running.delete(index)
    for (const head of heads) ring.push(head, 0)
    ring.publish()
    return ring.save().availableIndex
  }

  setCall (): void {}

  reset (): void {}
}

/** Regions for what is in flight, of any geometry and any content, and rings on them: over the protocol. */
export class GeometryGame {
  readonly #tell: Tell
  readonly #brokenOneIn: number
  readonly #device = new RecordingDevice()
  readonly #session: BackEndSession
  readonly #front: FrontEnd
  readonly #fds: number[] = []
  readonly #memoryFd: number
  readonly #memory: GuestMemory
  readonly #problems: Error[] = []

  constructor (setup: Random, tell: Tell) {
    this.#tell = tell
    this.#brokenOneIn = brokenOneIn(setup)
    const [ours, theirs] = unixSocketPair()
    this.#session = new BackEndSession(theirs, this.#device, { onProblem: (problem) => this.#problems.push(problem) })
    this.#front = new FrontEnd(ours, { timeout: 30_000 })
    const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: GUEST_BYTES }])
    this.#memory = memory
    this.#memoryFd = fd
    tell(`regions over the protocol, a field in ${this.#brokenOneIn} broken`)
  }

  async play (steps: readonly number[]): Promise<void> {
    const front = this.#front
    await front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES & await front.getProtocolFeatures())
    await front.setFeatures(VERSION_1 | TransportFeature.PROTOCOL_FEATURES)
    await front.setMemTable([{ guestAddress: 0, size: GUEST_BYTES, userAddress: USER, fd: this.#memoryFd, offset: 0 }])
    for (const step of steps) {
      await this.#step(new Random(step))
      if (this.#device.broken !== undefined) throw this.#device.broken
      this.#checkProblems()
    }
    front.close()
    assert.equal(await this.#session.closed, undefined)
    for (const fd of [...this.#fds, this.#memoryFd]) close(fd)
    this.#memory.release()
  }

  #checkProblems (): void {
    for (const problem of this.#problems.splice(0)) {
      for (let error: unknown = problem; error !== undefined; error = (error as Error).cause) {
        assert.ok(error instanceof VringError || ['VhostUserError', 'GuestMemoryError', 'LinuxError'].includes((error as Error).name), (error as Error).stack)
      }
    }
  }

  async #step (random: Random): Promise<void> {
    const dice = random.below(100)
    if (dice < 20) await this.#ask(random)
    else if (dice < 55) await this.#set(random)
    else if (dice < 85) await this.#start(random)
    else await this.#front.getVringBase(random.below(QUEUES)).catch(refusal)
  }

  #number (random: Random, good: number, limit = 0xffff): number {
    if (!random.oneIn(this.#brokenOneIn)) return good
    return Math.min(limit, random.pick([0, 1, good + 1, good - 1, 32768, 32769, 65535, FILE_BYTES, FILE_BYTES + 64, 2 ** 31, 2 ** 47, Number.MAX_SAFE_INTEGER]))
  }

  #describe (random: Random): InflightDescription {
    const queueSize = Math.max(0, this.#number(random, 2 ** random.between(0, 7)))
    const queues = Math.max(0, this.#number(random, random.between(1, QUEUES)))
    const size = Math.max(0, this.#number(random, inflightRecordBytes(Math.max(1, queueSize)) * queues, Number.MAX_SAFE_INTEGER))
    return { size, offset: Math.max(0, this.#number(random, 64 * random.below(8), Number.MAX_SAFE_INTEGER)), queues, queueSize }
  }

  /** Whether a region can be of this geometry, in the specification's words. */
  #fits ({ size, offset, queues, queueSize }: InflightDescription, bytes: number): boolean {
    return queues >= 1 && queues <= QUEUES && queueSize >= 1 && queueSize <= 32768 && size >= queues * inflightRecordBytes(queueSize) &&
      offset % 64 === 0 && BigInt(offset) + BigInt(size) <= BigInt(bytes)
  }

  /** A region of the back-end's own making: zeroes, as many as it says. */
  async #ask (random: Random): Promise<void> {
    const { queues, queueSize } = this.#describe(random)
    const payload = encodeInflight({ size: 0, offset: 0, queues, queueSize }, random.pick([20, 24]))
    const reply = Buffer.from(await this.#front.ask(FrontEndRequest.GET_INFLIGHT_FD, { payload }))
    const fits = queues >= 1 && queues <= QUEUES && queueSize >= 1 && queueSize <= 32768
    assert.equal(reply.length, payload.length)
    assert.equal(Number(reply.readBigUInt64LE(0)), fits ? queues * inflightRecordBytes(queueSize) : 0)
    this.#tell(`a region for ${queues} of ${queueSize}: ${reply.readBigUInt64LE(0)} bytes`)
  }

  /** A region of the front-end's: of any content. */
  async #set (random: Random): Promise<void> {
    const description = this.#describe(random)
    const bytes = random.oneIn(4) ? Math.min(FILE_BYTES, description.offset + description.size) : FILE_BYTES
    const fd = memfdCreate('inflight')
    this.#fds.push(fd)
    ftruncate(fd, bytes)
    this.#forge(random, fd, bytes, description)
    const payload = encodeInflight(description, random.pick([20, 24]))
    const fits = this.#fits(description, bytes)
    this.#tell(`set a region ${JSON.stringify(description)} in a file of ${bytes} bytes: ${fits ? 'taken' : 'refused'}`)
    const taken = await this.#front.tell(FrontEndRequest.SET_INFLIGHT_FD, { payload, fds: [fd] }).then(() => true, refusal)
    assert.equal(taken, fits)
  }

  #forge (random: Random, fd: number, bytes: number, { queueSize, offset }: InflightDescription): void {
    if (bytes === 0) return
    const { memory, content } = mapFile(fd, bytes)
    for (let at = 0; at + 1 < bytes; at += 2) content.writeUInt16LE(random.oneIn(3) ? random.below(2) : random.below(queueSize + 2) & 0xffff, at)
    // What makes a header known.
    if (offset + 16 <= bytes && !random.oneIn(4)) {
      content.writeUInt16LE(1, offset + 8)
      content.writeUInt16LE(queueSize, offset + 10)
      content.writeUInt16LE(random.below(4), offset + 14)
    }
    memory.release()
  }

  async #start (random: Random): Promise<void> {
    const front = this.#front
    const index = random.below(QUEUES)
    const size = 2 ** random.between(0, 7)
    const ring = new RawRing(this.#memory, layOutRing(0x4000 * index, size))
    for (let head = 0; head < size; head++) ring.descriptor(head, { address: 0xf000, length: 8 })
    ring.usedIndex(random.below(4))
    ring.availableIndex(random.below(size))
    const { descriptorAddress, availableAddress, usedAddress } = ring.layout
    const kick = eventfd()
    try {
      await front.getVringBase(index)
      await front.setVringEnable(index, false)
      await front.setVringNum(index, size)
      await front.setVringAddr(index, { descriptor: USER + descriptorAddress, available: USER + availableAddress, used: USER + usedAddress })
      await front.setVringKick(index, kick)
      await front.setVringEnable(index, true)
      this.#tell(`ring ${index} of ${size}: to be done again ${this.#device.running.get(index)?.heads.join()}`)
    } catch (error) {
      refusal(error)
      this.#tell(`ring ${index} of ${size}: ${(error as Error).message}`)
    } finally {
      close(kick)
    }
  }
}

function mapFile (fd: number, bytes: number): { memory: GuestMemory, content: Buffer } {
  const memory = GuestMemory.map([{ guestAddress: 0, size: bytes, fd }])
  return { memory, content: Buffer.from(viewMemory(memory.regions[0]!.hostAddress, bytes)) }
}

/** What the front-end is told where a request is refused. @throws anything else */
function refusal (error: unknown): false {
  if ((error as { code?: string }).code !== 'ERR_VHOST_USER_REFUSED') throw error
  return false
}
