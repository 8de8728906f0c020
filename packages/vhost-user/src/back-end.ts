import { GuestMemory } from '@node-vmm/hostmem'
import { setNonBlocking } from '@node-vmm/libc'
import { Channel, isHangUp } from './channel.ts'
import { closeAll, signal } from './descriptor.ts'
import type { VhostUserDevice } from './device.ts'
import { asError, refused, VhostUserError, violation } from './errors.ts'
import { OFFERED_PROTOCOL_FEATURES, ProtocolFeature, protocolFeatureNames, TransportFeature } from './features.ts'
import {
  BackEndRequest, backEndRequestName, FLAG_REPLY, FrontEndRequest, frontEndRequestName, hasOwnReply, type Message,
  type MessageObserver
} from './message.ts'
import {
  CONFIG_BYTES_MAX, decodeConfig, decodeMemoryTable, decodeNothing, decodeRegion, decodeU64, decodeVringAddress,
  decodeVringDescriptor, decodeVringState, encodeConfig, encodeU64, encodeVringState, MEMORY_SLOTS_MAX, NOTHING
} from './payload.ts'
import { isComplete, newRing, queueSetup, type Ring, RING_SIZE_MAX } from './ring.ts'

const TRANSPORT_FEATURES = TransportFeature.LOG_ALL | TransportFeature.PROTOCOL_FEATURES
/** A peer can cause any number of problems: only so many of one session are told. */
const PROBLEMS_TOLD_MAX = 32

/** How a device is served. */
export interface BackEndOptions {
  /** Protocol features to offer, of `OFFERED_PROTOCOL_FEATURES`: for a peer that does not get along with one. @default all of them */
  readonly protocolFeatures?: bigint
  /** Sees each message that passes. @default nobody looks, at no cost */
  readonly onMessage?: MessageObserver | undefined
  /**
   * Told of each request that was refused and each ring that could not start, 32 times a session at most. The session
   * goes on. @default nobody is told
   */
  readonly onProblem?: ((problem: Error) => void) | undefined
}

/**
 * One front-end's session with a device: takes its messages strictly in order, keeps what it says of memory and rings,
 * and starts and stops the device's queues accordingly. No message is looked at before all that the last one caused
 * has ended, a drain included.
 *
 * A ring runs as long as its size, addresses and kick descriptor, the memory and the features are known (in whatever
 * order they came) and it is enabled; without PROTOCOL_FEATURES acknowledged it needs no enabling. What changes on a
 * running ring, memory and features included, stops it, drained, and starts it again at the index where it stopped.
 * Two changes are refused, for the guest's buffers would be taken twice or never: another size, and another base once
 * the ring has taken buffers.
 *
 * What a front-end does wrong never throws here. A request that cannot be served is answered as failed where REPLY_ACK
 * was agreed and asked for, told to `onProblem`, and has no effect, except that a ring which cannot start keeps what
 * was said of it, and is tried again with each message that says more. The session ends where going on would leave the
 * front-end waiting or the stream unreadable: a foreign version, a payload over 4096 bytes, more than 32 descriptors, a
 * reply, half a message, or a refused request that has a reply of its own (but GET_CONFIG, which can say that it failed).
 *
 * The session owns all descriptors and mappings that it receives.
 */
export class BackEndSession {
  /** Settles when all is over and given back. Never rejects: undefined after a hang-up or `close`, else why it ended. */
  readonly closed: Promise<Error | undefined>

  readonly #channel: Channel
  readonly #device: VhostUserDevice
  readonly #options: BackEndOptions
  readonly #offeredProtocolFeatures: bigint
  readonly #rings: readonly Ring[]
  #memory: GuestMemory | undefined
  #features: bigint | undefined
  #protocolFeatures = 0n
  #backEndChannel: Channel | undefined
  #problemsTold = 0

  /**
   * Starts to serve.
   *
   * @param fd a connected unix stream socket, the session's from now on.
   * @param device stays the caller's; its queues are the session's until `closed`.
   */
  constructor (fd: number, device: VhostUserDevice, options: BackEndOptions = {}) {
    this.#device = device
    this.#options = options
    this.#offeredProtocolFeatures = OFFERED_PROTOCOL_FEATURES & (options.protocolFeatures ?? OFFERED_PROTOCOL_FEATURES)
    this.#rings = Array.from({ length: device.queueCount }, newRing)
    this.#channel = new Channel(fd, { nameOf: frontEndRequestName, onMessage: options.onMessage })
    this.closed = Promise.resolve().then(() => this.#run())
  }

  /**
   * Tells the front-end that the configuration space changed, so that it reads it again.
   *
   * @returns false when it cannot be told: it did not agree to BACKEND_REQ and CONFIG, or passed no channel.
   */
  notifyConfigChange (): boolean {
    const channel = this.#backEndChannel
    if (channel === undefined || channel.closed || !this.#accepted(ProtocolFeature.CONFIG)) return false
    // No reply is asked for: nothing here would wait for it.
    channel.send(BackEndRequest.CONFIG_CHANGE, 0, NOTHING).catch((error: unknown) => {
      this.#tell(asError(error))
      channel.close()
    })
    return true
  }

  /** Ends the session: stops all queues, drained, and hangs up. A message being served is finished first. @returns `closed` */
  close (): Promise<Error | undefined> {
    this.#channel.close()
    return this.closed
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  async #run (): Promise<Error | undefined> {
    let failure: Error | undefined
    try {
      for (let message = await this.#channel.receive(); message !== undefined; message = await this.#channel.receive()) {
        try {
          await this.#answer(message)
        } finally {
          closeAll(message.fds)
        }
      }
    } catch (error) {
      // That a reply could not be sent is no failure after a hang-up, ours or theirs.
      const isOver = this.#channel.closed || isHangUp(error)
      if (!isOver || isDeviceFailure(error)) failure = asError(error)
    }
    return await this.#end() ?? failure
  }

  async #answer (message: Message): Promise<void> {
    const { request, isReply, needsReply } = message
    if (isReply) throw violation(`a reply to ${frontEndRequestName(request)}, which only a back-end gives`)
    let reply: Uint8Array | undefined
    let failure: Error | undefined
    try {
      reply = await this.#serve(message)
    } catch (error) {
      failure = asError(error)
      if (isDeviceFailure(failure)) throw failure
      // "Uses zero length of payload to indicate an error": the one request whose reply can say so.
      if (request === FrontEndRequest.GET_CONFIG) reply = NOTHING
      this.#tell(refused(`${frontEndRequestName(request)} refused: ${failure.message}`, { cause: failure }))
    }
    if (hasOwnReply(request)) {
      if (reply === undefined) throw violation(`${frontEndRequestName(request)} has no answer: ${failure?.message}`)
      await this.#channel.send(request, FLAG_REPLY, reply)
    } else if (needsReply && this.#accepted(ProtocolFeature.REPLY_ACK)) {
      await this.#channel.send(request, FLAG_REPLY, encodeU64(failure === undefined ? 0n : 1n))
    }
  }

  // Gives the reply of a request that has its own. Throws to refuse: nothing has changed then.
  async #serve (message: Message): Promise<Uint8Array | undefined> {
    const { request, payload } = message
    if (!carriesDescriptors.has(request)) expectDescriptors(message, 0)
    switch (request) {
      case FrontEndRequest.GET_FEATURES: return this.#getFeatures(payload)
      case FrontEndRequest.SET_FEATURES: return await this.#setFeatures(payload)
      case FrontEndRequest.GET_PROTOCOL_FEATURES: return this.#getProtocolFeatures(payload)
      case FrontEndRequest.SET_PROTOCOL_FEATURES: return this.#setProtocolFeatures(payload)
      case FrontEndRequest.GET_QUEUE_NUM: return this.#getQueueNum(payload)
      case FrontEndRequest.SET_OWNER: return decodeNothing(payload)
      // Deprecated: the specification recommends to ignore it.
      case FrontEndRequest.RESET_OWNER: return decodeNothing(payload)
      case FrontEndRequest.RESET_DEVICE: return await this.#resetDevice(payload)
      case FrontEndRequest.SET_MEM_TABLE: return await this.#setMemTable(message)
      case FrontEndRequest.GET_MAX_MEM_SLOTS: return this.#getMaxMemSlots(payload)
      case FrontEndRequest.ADD_MEM_REG: return await this.#addMemReg(message)
      case FrontEndRequest.REM_MEM_REG: return await this.#remMemReg(message)
      case FrontEndRequest.SET_VRING_NUM: return await this.#setVringNum(payload)
      case FrontEndRequest.SET_VRING_ADDR: return await this.#setVringAddr(payload)
      case FrontEndRequest.SET_VRING_BASE: return await this.#setVringBase(payload)
      case FrontEndRequest.GET_VRING_BASE: return await this.#getVringBase(payload)
      case FrontEndRequest.SET_VRING_KICK: return await this.#setVringKick(message)
      case FrontEndRequest.SET_VRING_CALL: return await this.#setVringCall(message)
      case FrontEndRequest.SET_VRING_ERR: return await this.#setVringErr(message)
      case FrontEndRequest.SET_VRING_ENABLE: return await this.#setVringEnable(payload)
      case FrontEndRequest.GET_CONFIG: return this.#getConfig(payload)
      case FrontEndRequest.SET_CONFIG: return this.#setConfig(payload)
      case FrontEndRequest.SET_BACKEND_REQ_FD: return this.#setBackEndChannel(message)
      default: throw refused('this back-end does not know it, and did not offer it')
    }
  }

  // Negotiation

  #getFeatures (payload: Uint8Array): Uint8Array {
    decodeNothing(payload)
    return encodeU64(this.#offeredFeatures)
  }

  get #offeredFeatures (): bigint {
    return (this.#device.features & ~TRANSPORT_FEATURES) | TransportFeature.PROTOCOL_FEATURES
  }

  async #setFeatures (payload: Uint8Array): Promise<undefined> {
    const features = decodeU64(payload)
    const surplus = features & ~this.#offeredFeatures
    if (surplus !== 0n) throw refused(`features 0x${surplus.toString(16)} were not offered`)
    if (features === this.#features) return
    await this.#withRingsStopped(() => {
      this.#device.setFeatures(features & ~TRANSPORT_FEATURES)
      this.#features = features
    })
  }

  #getProtocolFeatures (payload: Uint8Array): Uint8Array {
    decodeNothing(payload)
    return encodeU64(this.#offeredProtocolFeatures)
  }

  #setProtocolFeatures (payload: Uint8Array): undefined {
    const features = decodeU64(payload)
    const surplus = features & ~this.#offeredProtocolFeatures
    if (surplus !== 0n) throw refused(`protocol features were not offered: ${protocolFeatureNames(surplus).join(', ')}`)
    this.#protocolFeatures = features
  }

  #accepted (feature: bigint): boolean {
    return (this.#protocolFeatures & feature) !== 0n
  }

  #expectOffered (feature: bigint): void {
    if ((this.#offeredProtocolFeatures & feature) === 0n) throw refused(`${protocolFeatureNames(feature).join()} was not offered`)
  }

  #getQueueNum (payload: Uint8Array): Uint8Array {
    this.#expectOffered(ProtocolFeature.MQ)
    decodeNothing(payload)
    return encodeU64(BigInt(this.#device.queueCount))
  }

  async #resetDevice (payload: Uint8Array): Promise<undefined> {
    this.#expectOffered(ProtocolFeature.RESET_DEVICE)
    decodeNothing(payload)
    await this.#stopAll()
    for (const ring of this.#rings) {
      closeAll([ring.kick])
      // Front-ends pass these two once, before the guest runs, and not again after its reset. So with memory.
      const { call, error } = ring
      Object.assign(ring, newRing(), { call, error })
    }
    this.#features = undefined
    await deviceDoes('reset', () => this.#device.reset())
  }

  // Memory

  async #setMemTable (message: Message): Promise<undefined> {
    const regions = decodeMemoryTable(message.payload)
    expectDescriptors(message, regions.length)
    await this.#setMemory(GuestMemory.map(regions.map((region, index) => ({ ...region, fd: message.fds[index]! }))))
  }

  #getMaxMemSlots (payload: Uint8Array): Uint8Array {
    this.#expectOffered(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    decodeNothing(payload)
    return encodeU64(BigInt(MEMORY_SLOTS_MAX))
  }

  async #addMemReg (message: Message): Promise<undefined> {
    this.#expectOffered(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    const region = decodeRegion(message.payload)
    expectDescriptors(message, 1)
    if ((this.#memory?.regions.length ?? 0) >= MEMORY_SLOTS_MAX) throw refused(`all ${MEMORY_SLOTS_MAX} memory slots are taken`)
    const added = { ...region, fd: message.fds[0]! }
    await this.#setMemory(this.#memory === undefined ? GuestMemory.map([added]) : this.#memory.with(added))
  }

  async #remMemReg (message: Message): Promise<undefined> {
    this.#expectOffered(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    const region = decodeRegion(message.payload)
    // One is tolerated, for front-ends that send the region's file again; it is closed.
    if (message.fds.length > 1) expectDescriptors(message, 1)
    if (this.#memory === undefined) throw refused('there is no memory to remove from')
    await this.#setMemory(this.#memory.without(region))
  }

  async #setMemory (memory: GuestMemory): Promise<void> {
    try {
      await this.#withRingsStopped(() => {
        this.#memory?.release()
        this.#memory = memory
      })
    } catch (error) {
      memory.release()
      throw error
    }
  }

  // Rings

  async #setVringNum (payload: Uint8Array): Promise<undefined> {
    const { index, num } = decodeVringState(payload)
    const ring = this.#ring(index)
    if (num < 1 || num > RING_SIZE_MAX) throw refused(`a ring of ${num}: 1 to ${RING_SIZE_MAX} is possible`)
    if (ring.running !== undefined && num !== ring.size) throw refused(`ring ${index} runs with a size of ${ring.size}: GET_VRING_BASE stops it`)
    ring.size = num
    await this.#settle(index)
  }

  async #setVringAddr (payload: Uint8Array): Promise<undefined> {
    const addresses = decodeVringAddress(payload)
    const { index, descriptor, available, used } = addresses
    const ring = this.#ring(index)
    const old = ring.addresses
    // Only the log may have changed: front-ends send the same addresses to a running ring when a migration begins.
    const same = old?.descriptor === descriptor && old.available === available && old.used === used
    if (!same) await this.#stop(index)
    ring.addresses = addresses
    await this.#settle(index)
  }

  async #setVringBase (payload: Uint8Array): Promise<undefined> {
    const { index, num } = decodeVringState(payload)
    const ring = this.#ring(index)
    if (num > 0xffff) throw refused(`base ${num}: a ring's index has 16 bits`)
    const startedAt = ring.running?.startedAt
    await this.#stop(index)
    const stands = ring.base
    const isTooLate = startedAt !== undefined && stands !== startedAt && stands !== num
    if (!isTooLate) ring.base = num
    await this.#settle(index)
    if (isTooLate) throw refused(`base ${num}: ring ${index} runs and stands at ${stands}, GET_VRING_BASE stops it`)
  }

  async #getVringBase (payload: Uint8Array): Promise<Uint8Array> {
    const { index } = decodeVringState(payload)
    const ring = this.#ring(index)
    await this.#stop(index)
    // The kick descriptor is what starts a ring: only the next one does so again.
    closeAll([ring.kick])
    ring.kick = undefined
    return encodeVringState({ index, num: ring.base })
  }

  async #setVringKick (message: Message): Promise<undefined> {
    const { index, hasFd } = decodeVringDescriptor(message.payload)
    const ring = this.#ring(index)
    if (!hasFd) throw refused('a ring without a kick descriptor would have to be polled, which is not done here')
    expectSignalDescriptor(message, hasFd)
    await this.#stop(index)
    closeAll([ring.kick])
    ring.kick = message.fds.shift()
    await this.#settle(index)
  }

  async #setVringCall (message: Message): Promise<undefined> {
    const { index, hasFd } = decodeVringDescriptor(message.payload)
    const ring = this.#ring(index)
    expectSignalDescriptor(message, hasFd)
    const old = ring.call
    ring.call = message.fds.shift()
    if (ring.running !== undefined) await deviceDoes('take a call descriptor', () => this.#device.setCall(index, ring.call))
    closeAll([old])
    // What was signalled to the old one may have been lost with it: let the driver look once.
    signal(ring.call)
  }

  async #setVringErr (message: Message): Promise<undefined> {
    const { index, hasFd } = decodeVringDescriptor(message.payload)
    const ring = this.#ring(index)
    expectSignalDescriptor(message, hasFd)
    await this.#stop(index)
    closeAll([ring.error])
    ring.error = message.fds.shift()
    await this.#settle(index)
  }

  async #setVringEnable (payload: Uint8Array): Promise<undefined> {
    const { index, num } = decodeVringState(payload)
    const ring = this.#ring(index)
    if (num > 1) throw refused(`a ring is enabled by 1 and disabled by 0, not by ${num}`)
    ring.enabled = num === 1
    await this.#settle(index)
  }

  #ring (index: number): Ring {
    const ring = this.#rings[index]
    if (ring === undefined) throw refused(`there is no ring ${index}: the device has ${this.#rings.length}`)
    return ring
  }

  // Running

  // Starts or stops a ring, as all that is known now asks for.
  async #settle (index: number): Promise<void> {
    const ring = this.#rings[index]!
    const isEnabled = ring.enabled || (this.#features !== undefined && (this.#features & TransportFeature.PROTOCOL_FEATURES) === 0n)
    if (!isEnabled || !isComplete(ring) || this.#features === undefined || this.#memory === undefined) await this.#stop(index)
    else if (ring.running === undefined) await this.#start(index, this.#memory, this.#features)
  }

  async #start (index: number, memory: GuestMemory, features: bigint): Promise<void> {
    const ring = this.#rings[index]!
    memory.retain()
    try {
      await this.#device.startQueue(index, queueSetup(ring, memory, features & ~TRANSPORT_FEATURES))
      ring.running = { memory, startedAt: ring.base }
    } catch (error) {
      memory.release()
      signal(ring.error)
      throw new VhostUserError('ERR_VHOST_USER_RING', `ring ${index} cannot start: ${asError(error).message}`, { cause: error })
    }
  }

  async #stop (index: number): Promise<void> {
    const ring = this.#rings[index]!
    if (ring.running === undefined) return
    ring.base = await deviceDoes(`stop queue ${index}`, () => this.#device.stopQueue(index))
    ring.running.memory.release()
    ring.running = undefined
  }

  async #stopAll (): Promise<void> {
    const stops = await Promise.allSettled(this.#rings.map((_, index) => this.#stop(index)))
    for (const stop of stops) if (stop.status === 'rejected') throw stop.reason
  }

  // For what all rings depend on. One that does not start again afterwards is told of, and does not make the change fail.
  async #withRingsStopped (change: () => void): Promise<void> {
    await this.#stopAll()
    try {
      change()
    } finally {
      for (const index of this.#rings.keys()) {
        await this.#settle(index).catch((error: unknown) => this.#tell(asError(error)))
      }
    }
  }

  // Configuration

  #getConfig (payload: Uint8Array): Uint8Array {
    this.#expectOffered(ProtocolFeature.CONFIG)
    const range = decodeConfig(payload)
    const space = new Uint8Array(CONFIG_BYTES_MAX)
    space.set(this.#device.getConfig())
    return encodeConfig({ ...range, data: space.subarray(range.offset) })
  }

  #setConfig (payload: Uint8Array): undefined {
    this.#expectOffered(ProtocolFeature.CONFIG)
    const { offset, size, flags, data } = decodeConfig(payload)
    if (flags > 1) throw refused(`flags ${flags}: 0 and 1 are known`)
    const isWritten = this.#device.setConfig?.(offset, data, flags === 1) ?? false
    if (!isWritten) throw refused(`the device did not take ${size} bytes at offset ${offset} of its configuration space`)
  }

  #setBackEndChannel (message: Message): undefined {
    this.#expectOffered(ProtocolFeature.BACKEND_REQ)
    decodeNothing(message.payload)
    expectDescriptors(message, 1)
    const old = this.#backEndChannel
    this.#backEndChannel = new Channel(message.fds[0]!, { nameOf: backEndRequestName, onMessage: this.#options.onMessage })
    message.fds.shift()
    old?.close()
  }

  // The end

  // What a queue that could not be stopped may still use stays open and mapped: a leak is better than foreign memory written.
  async #end (): Promise<Error | undefined> {
    this.#channel.close()
    this.#backEndChannel?.close()
    let failure: Error | undefined
    await this.#stopAll().catch((error: unknown) => { failure = asError(error) })
    for (const ring of this.#rings) {
      if (ring.running === undefined) closeAll([ring.kick, ring.call, ring.error])
    }
    this.#memory?.release()
    if (failure !== undefined) return failure
    return await deviceDoes('reset', () => this.#device.reset()).then(() => undefined, asError)
  }

  #tell (problem: Error): void {
    if (this.#problemsTold < PROBLEMS_TOLD_MAX) this.#options.onProblem?.(problem)
    this.#problemsTold++
  }
}

const carriesDescriptors: ReadonlySet<number> = new Set([
  FrontEndRequest.SET_MEM_TABLE, FrontEndRequest.ADD_MEM_REG, FrontEndRequest.REM_MEM_REG, FrontEndRequest.SET_VRING_KICK,
  FrontEndRequest.SET_VRING_CALL, FrontEndRequest.SET_VRING_ERR, FrontEndRequest.SET_BACKEND_REQ_FD
])

function expectDescriptors ({ fds }: Message, count: number): void {
  if (fds.length !== count) throw refused(`${fds.length} descriptors came along where ${count} belong`)
}

// A write to a full pipe, or a read of an eventfd that somebody else has read, must not block the thread.
function expectSignalDescriptor (message: Message, hasFd: boolean): void {
  expectDescriptors(message, Number(hasFd))
  if (hasFd) setNonBlocking(message.fds[0]!)
}

async function deviceDoes<T> (what: string, action: () => T | Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    throw new VhostUserError('ERR_VHOST_USER_DEVICE', `the device failed to ${what}: ${asError(error).message}`, { cause: error })
  }
}

function isDeviceFailure (error: unknown): boolean {
  return error instanceof VhostUserError && error.code === 'ERR_VHOST_USER_DEVICE'
}
