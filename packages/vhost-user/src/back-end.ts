import { GuestMemory } from '@node-vmm/hostmem'
import { setNonBlocking } from '@node-vmm/libc'
import { unlessAborted } from './aborts.ts'
import { Channel, isHangUp } from './channel.ts'
import { closeAll, signal } from './descriptor.ts'
import type { VhostUserDevice } from './device.ts'
import { checkLogCovers, LOG_ALIGNMENT } from './dirty-log.ts'
import { asError, isAbandonment, refused, VhostUserError, violation } from './errors.ts'
import { OFFERED_PROTOCOL_FEATURES, ProtocolFeature, protocolFeatureNames, TransportFeature } from './features.ts'
import { checkInflight, createInflightFile, InflightRegion } from './inflight.ts'
import {
  BackEndRequest, backEndRequestName, FLAG_REPLY, FrontEndRequest, frontEndRequestName, hasOwnReply, type Message,
  type MessageObserver
} from './message.ts'
import {
  CONFIG_BYTES_MAX, decodeConfig, decodeInflight, decodeLog, decodeMemoryTable, decodeNothing, decodeRegion, decodeU64,
  decodeVringAddress, decodeVringDescriptor, decodeVringState, encodeConfig, encodeInflight, encodeU64, encodeVringState,
  type InflightDescription, MEMORY_SLOTS_MAX, NOTHING
} from './payload.ts'
import { baseOf, isComplete, isPacked, newRing, queueSetup, type Ring, RING_SIZE_MAX, type RingSurroundings } from './ring.ts'
import { SharedArea } from './shared-area.ts'

const TRANSPORT_FEATURES = TransportFeature.LOG_ALL | TransportFeature.PROTOCOL_FEATURES
/** The answer to GET_INFLIGHT_FD that there is no region: front-ends go on without. */
const NO_INFLIGHT: InflightDescription = { size: 0, offset: 0, queues: 0, queueSize: 0 }
/** A peer can cause any number of problems: only so many of one session are told. */
const PROBLEMS_TOLD_MAX = 32

/** A reply's payload, and the descriptor that goes along, which is closed once it is sent. */
type Reply = Uint8Array | { readonly payload: Uint8Array, readonly fd: number }

/** How a device is served. */
export interface BackEndOptions {
  /**
   * Protocol features to offer, of `OFFERED_PROTOCOL_FEATURES`: for a peer that does not get along with one.
   * @default all of them that the device does its part for
   */
  readonly protocolFeatures?: bigint
  /** Milliseconds that a front-end has for its first message. @default Infinity; 5000 for one that a `Listener` accepted */
  readonly greetingTimeout?: number
  /** Sees each message that passes. @default nobody looks, at no cost */
  readonly onMessage?: MessageObserver | undefined
  /**
   * Told of each request that was refused and each ring that could not start, 32 times a session at most. The session
   * goes on. @default nobody is told
   */
  readonly onProblem?: ((problem: Error) => void) | undefined
}

/** How long to wait for an end. */
export interface CloseOptions {
  /** Gives the wait up, with the signal's reason; the end comes all the same, as `closed` tells. @default never */
  readonly signal?: AbortSignal
}

/**
 * One front-end's session with a device: takes its messages strictly in order, keeps what it says of memory and rings,
 * and starts and stops the device's queues accordingly. No message is looked at before all that the last one caused
 * has ended, a drain included.
 *
 * A ring runs as long as its size, addresses and kick descriptor, the memory and the features are known (in whatever
 * order they came) and it is enabled; without PROTOCOL_FEATURES acknowledged it needs no enabling. What changes on a
 * running ring, memory, features and log included, stops it, drained, and starts it again where it stopped. The region
 * for what is in flight is the exception: a running ring keeps its record, the next start gets a new one.
 * Two changes are refused, for the guest's buffers would be taken twice or never: another size, and another base once
 * the ring has taken buffers.
 *
 * What a front-end does wrong never throws here. A request that cannot be served is answered as failed where REPLY_ACK
 * was agreed and asked for, told to `onProblem`, and has no effect, except that a ring which cannot start keeps what
 * was said of it, and is tried again with each message that says more. The session ends where going on would leave the
 * front-end waiting or the stream unreadable: a foreign version, a payload over 4096 bytes, more than 32 descriptors, a
 * reply, half a message, or a refused request that has a reply of its own (but GET_CONFIG and GET_INFLIGHT_FD, which
 * can say that they failed).
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
  #log: SharedArea | undefined
  #inflight: InflightRegion | undefined
  #features: bigint | undefined
  #status = 0n
  #protocolFeatures = 0n
  #backEndChannel: Channel | undefined
  #problemsTold = 0
  #abandonment: Error | undefined
  #isMemoryMissed = false

  /**
   * Starts to serve.
   *
   * @param fd a connected unix stream socket, the session's from now on.
   * @param device stays the caller's; its queues are the session's until `closed`.
   * @throws LinuxError for what is no descriptor
   */
  constructor (fd: number, device: VhostUserDevice, options: BackEndOptions = {}) {
    this.#device = device
    this.#options = options
    this.#offeredProtocolFeatures = backedProtocolFeatures(device) & (options.protocolFeatures ?? OFFERED_PROTOCOL_FEATURES)
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

  /**
   * Ends the session: stops all queues, drained, and hangs up. A message being served is finished first.
   *
   * @returns what `closed` settles with
   * @throws the signal's reason
   */
  close ({ signal }: CloseOptions = {}): Promise<Error | undefined> {
    this.#channel.close()
    return unlessAborted(() => this.closed, signal)
  }

  /** The same as `close()`, for `await using`. */
  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  async #run (): Promise<Error | undefined> {
    let failure: Error | undefined
    try {
      for (let message = await this.#receiveFirst(); message !== undefined; message = await this.#channel.receive()) {
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
    return await this.#end() ?? failure ?? this.#abandonment
  }

  /**
   * The first message, for which a front-end has so long. One that connects and says nothing keeps others waiting; and
   * QEMU 7.2, whose server went away twice in quick succession, may forget that it is connected: hung up on, it tries anew.
   */
  async #receiveFirst (): Promise<Message | undefined> {
    const { greetingTimeout = Infinity } = this.#options
    if (greetingTimeout === Infinity) return await this.#channel.receive()
    let isSilent = false
    const timer = setTimeout(() => {
      isSilent = true
      this.#channel.close()
    }, greetingTimeout)
    try {
      return await this.#channel.receive()
    } finally {
      clearTimeout(timer)
      if (isSilent) this.#tell(new VhostUserError('ERR_VHOST_USER_TIMEOUT', `the front-end said nothing for ${greetingTimeout} ms: hung up, for it or another to connect`))
    }
  }

  async #answer (message: Message): Promise<void> {
    const { request, isReply, needsReply } = message
    if (isReply) throw violation(`a reply to ${frontEndRequestName(request)}, which only a back-end gives`)
    let reply: Reply | undefined
    let failure: Error | undefined
    try {
      reply = await this.#serve(message)
    } catch (error) {
      failure = asError(error)
      if (isDeviceFailure(failure)) throw failure
      reply = replyOfFailure(message)
      this.#tell(refused(`${frontEndRequestName(request)} refused: ${failure.message}`, { cause: failure }))
    }
    const acknowledges = needsReply && this.#accepted(ProtocolFeature.REPLY_ACK)
    if (reply !== undefined) {
      await this.#reply(request, reply)
    } else if (hasOwnReply(request) || (this.#isLogBase(request) && !acknowledges)) {
      throw violation(`${frontEndRequestName(request)} has no answer: ${failure?.message}`)
    } else if (acknowledges) {
      await this.#reply(request, encodeU64(failure === undefined ? 0n : 1n))
    }
  }

  // Its sender waits for a reply in any case, but may not look what it says (QEMU), and would take pages for logged
  // that are not. Only one that asked for an acknowledgement can be told of a failure.
  #isLogBase (request: number): boolean {
    return request === FrontEndRequest.SET_LOG_BASE && this.#accepted(ProtocolFeature.LOG_SHMFD)
  }

  async #reply (request: number, reply: Reply): Promise<void> {
    const { payload, fds } = reply instanceof Uint8Array ? { payload: reply, fds: [] } : { payload: reply.payload, fds: [reply.fd] }
    try {
      await this.#channel.send(request, FLAG_REPLY, payload, fds)
    } finally {
      closeAll(fds)
    }
  }

  // Gives the reply of a request that has its own. Throws to refuse: nothing has changed then.
  async #serve (message: Message): Promise<Reply | undefined> {
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
      case FrontEndRequest.SET_STATUS: return await this.#setStatus(payload)
      case FrontEndRequest.GET_STATUS: return this.#getStatus(payload)
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
      case FrontEndRequest.GET_INFLIGHT_FD: return this.#getInflightFd(payload)
      case FrontEndRequest.SET_INFLIGHT_FD: return this.#setInflightFd(message)
      case FrontEndRequest.SET_LOG_BASE: return await this.#setLogBase(message)
      case FrontEndRequest.SET_LOG_FD: return this.#setLogFd(message)
      case FrontEndRequest.GET_CONFIG: return this.#getConfig(payload)
      case FrontEndRequest.SET_CONFIG: return await this.#setConfig(payload)
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
    const logging = (this.#offeredProtocolFeatures & ProtocolFeature.LOG_SHMFD) === 0n ? 0n : TransportFeature.LOG_ALL
    return (this.#device.features & ~TRANSPORT_FEATURES) | TransportFeature.PROTOCOL_FEATURES | logging
  }

  // The features as the device knows them.
  get #deviceFeatures (): bigint {
    return (this.#features ?? 0n) & ~TRANSPORT_FEATURES
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
    await this.#resetRings()
    for (const ring of this.#rings) ring.base = undefined
    await deviceDoes('reset', () => this.#device.reset())
  }

  async #setStatus (payload: Uint8Array): Promise<undefined> {
    this.#expectOffered(ProtocolFeature.STATUS)
    const status = decodeU64(payload)
    if (status > 0xffn) throw refused(`status 0x${status.toString(16)}: it has 8 bits`)
    // A reset, to virtio; but QEMU sends it when it pauses the guest, too. It does not restore what a device forgets then,
    // and up to version 8.0 asks only afterwards where the rings stand.
    if (status === 0n) await this.#resetRings()
    this.#status = status
  }

  #getStatus (payload: Uint8Array): Uint8Array {
    this.#expectOffered(ProtocolFeature.STATUS)
    decodeNothing(payload)
    return encodeU64(this.#status)
  }

  // All is forgotten but where the rings stand, and what front-ends send once, before the guest runs, and not again after
  // its reset: call and error descriptors, and memory.
  async #resetRings (): Promise<void> {
    await this.#stopAll()
    for (const ring of this.#rings) {
      closeAll([ring.kick])
      const { base, call, error } = ring
      Object.assign(ring, newRing(), { base, call, error })
    }
    this.#replaceInflight(undefined)
    this.#features = undefined
    this.#status = 0n
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
      if (this.#log !== undefined && this.#rings.some(({ running }) => running?.isLogged)) checkLogCovers(this.#log, memory)
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
    const same = old?.descriptor === descriptor && old.available === available && old.used === used
    const sameLog = old?.flags === addresses.flags && old.log === addresses.log
    if (!same || (ring.running?.isLogged && !sameLog)) await this.#stop(index)
    ring.addresses = addresses
    await this.#settle(index)
  }

  async #setVringBase (payload: Uint8Array): Promise<undefined> {
    const { index, num } = decodeVringState(payload)
    const ring = this.#ring(index)
    // Without features yet, the ring may become packed.
    if (num > 0xffff && !isPacked(this.#features ?? this.#device.features)) throw refused(`base ${num}: a ring's index has 16 bits`)
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
    return encodeVringState({ index, num: baseOf(ring, this.#deviceFeatures) })
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
    if (!isEnabled || !isComplete(ring) || this.#features === undefined) return await this.#stop(index)
    if (this.#memory === undefined) return this.#missMemory(index)
    if (ring.running === undefined) await this.#start(index, this.#memory)
  }

  // A front-end whose guest's memory is not shared has none to pass on. It is not told so by anybody: its guest just hangs.
  #missMemory (index: number): void {
    if (this.#isMemoryMissed) return
    this.#isMemoryMissed = true
    this.#tell(new VhostUserError('ERR_VHOST_USER_RING', `ring ${index} waits for the guest's memory, of which the front-end has shared nothing. ` +
      'QEMU shares it with -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem'))
  }

  async #start (index: number, memory: GuestMemory): Promise<void> {
    const ring = this.#rings[index]!
    const log = this.#isLogging ? this.#log : undefined
    const inflight = this.#inflight
    const held = [memory, log, inflight]
    for (const each of held) each?.retain()
    const release = (): void => held.forEach((each) => each?.release())
    try {
      const surroundings: RingSurroundings = {
        memory, features: this.#deviceFeatures, log, inflight: inflight?.record(index, ring.size, (size) => this.#inflightBytes(size))
      }
      const setup = queueSetup(ring, surroundings)
      await this.#device.startQueue(index, setup)
      ring.running = { startedAt: setup.base, isLogged: log !== undefined, release }
    } catch (error) {
      release()
      signal(ring.error)
      if (isAbandonment(error)) throw error
      throw new VhostUserError('ERR_VHOST_USER_RING', `ring ${index} cannot start: ${asError(error).message}`, { cause: error })
    }
  }

  async #stop (index: number): Promise<void> {
    const ring = this.#rings[index]!
    if (ring.running === undefined) return
    ring.base = await deviceDoes(`stop queue ${index}`, () => this.#device.stopQueue(index))
    ring.running.release()
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
        await this.#settle(index).catch((error: unknown) => {
          if (isAbandonment(error)) this.#giveUp(asError(error))
          else this.#tell(asError(error))
        })
      }
    }
  }

  // The change that is under way is made all the same.
  #giveUp (why: Error): void {
    this.#abandonment ??= why
    this.#channel.close()
  }

  // What is in flight

  #inflightBytes (queueSize: number): number {
    return this.#device.inflightBytes!(queueSize, this.#deviceFeatures)
  }

  #getInflightFd (payload: Uint8Array): Reply {
    const wanted = this.#decodeInflight(payload)
    const size = wanted.queues * this.#inflightBytes(wanted.queueSize)
    if (size === 0) return encodeInflight(NO_INFLIGHT, payload.length)
    return { payload: encodeInflight({ ...wanted, size, offset: 0 }, payload.length), fd: createInflightFile(size) }
  }

  #setInflightFd (message: Message): undefined {
    const description = this.#decodeInflight(message.payload)
    expectDescriptors(message, 1)
    const needed = description.queues * this.#inflightBytes(description.queueSize)
    if (description.size < needed) throw refused(`${description.size} bytes for ${description.queues} records: ${needed} are needed`)
    this.#replaceInflight(new InflightRegion(message.fds[0]!, description))
  }

  #decodeInflight (payload: Uint8Array): InflightDescription {
    this.#expectOffered(ProtocolFeature.INFLIGHT_SHMFD)
    const description = decodeInflight(payload)
    checkInflight(description, this.#rings.length)
    return description
  }

  // Rings that run hold the old one.
  #replaceInflight (region: InflightRegion | undefined): void {
    this.#inflight?.release()
    this.#inflight = region
  }

  // The log of written pages

  get #isLogging (): boolean {
    return ((this.#features ?? 0n) & TransportFeature.LOG_ALL) !== 0n
  }

  async #setLogBase (message: Message): Promise<Uint8Array> {
    if (!this.#accepted(ProtocolFeature.LOG_SHMFD)) throw refused('LOG_SHMFD was not agreed on')
    const description = decodeLog(message.payload)
    expectDescriptors(message, 1)
    const log = new SharedArea(message.fds[0]!, description, LOG_ALIGNMENT)
    const replace = (): void => {
      this.#log?.release()
      this.#log = log
    }
    try {
      checkLogCovers(log, this.#memory)
      // Once this is answered nothing is written to the old log any more: the front-end reads it for the last time.
      if (this.#isLogging) await this.#withRingsStopped(replace)
      else replace()
    } catch (error) {
      log.release()
      throw error
    }
    return encodeU64(0n)
  }

  // To signal it is left to us, and nobody waits for that: a log is read again and again while a guest migrates.
  #setLogFd (message: Message): undefined {
    this.#expectOffered(ProtocolFeature.LOG_SHMFD)
    decodeNothing(message.payload)
    expectDescriptors(message, 1)
  }

  // Configuration

  #getConfig (payload: Uint8Array): Uint8Array {
    this.#expectOffered(ProtocolFeature.CONFIG)
    const range = decodeConfig(payload)
    const space = new Uint8Array(CONFIG_BYTES_MAX)
    space.set(this.#device.getConfig())
    return encodeConfig({ ...range, data: space.subarray(range.offset) })
  }

  async #setConfig (payload: Uint8Array): Promise<undefined> {
    this.#expectOffered(ProtocolFeature.CONFIG)
    const { offset, size, flags, data } = decodeConfig(payload)
    if (flags > 1) throw refused(`flags ${flags}: 0 and 1 are known`)
    const isWritten = await this.#device.setConfig?.(offset, data, flags === 1) ?? false
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
    this.#log?.release()
    this.#inflight?.release()
    if (failure !== undefined && !isAbandonment(failure)) return failure
    return await deviceDoes('reset', () => this.#device.reset()).then(() => failure, asError)
  }

  #tell (problem: Error): void {
    if (this.#problemsTold < PROBLEMS_TOLD_MAX) this.#options.onProblem?.(problem)
    this.#problemsTold++
  }
}

const carriesDescriptors: ReadonlySet<number> = new Set([
  FrontEndRequest.SET_MEM_TABLE, FrontEndRequest.ADD_MEM_REG, FrontEndRequest.REM_MEM_REG, FrontEndRequest.SET_VRING_KICK,
  FrontEndRequest.SET_VRING_CALL, FrontEndRequest.SET_VRING_ERR, FrontEndRequest.SET_BACKEND_REQ_FD,
  FrontEndRequest.SET_INFLIGHT_FD, FrontEndRequest.SET_LOG_BASE, FrontEndRequest.SET_LOG_FD
])

function backedProtocolFeatures (device: VhostUserDevice): bigint {
  let features = OFFERED_PROTOCOL_FEATURES
  if (device.logsDirtyPages !== true) features &= ~ProtocolFeature.LOG_SHMFD
  if (device.inflightBytes === undefined) features &= ~ProtocolFeature.INFLIGHT_SHMFD
  return features
}

// The two requests whose own reply can say that they failed: by "zero length of payload", and by a size of 0.
function replyOfFailure ({ request, payload }: Message): Uint8Array | undefined {
  if (request === FrontEndRequest.GET_CONFIG) return NOTHING
  if (request === FrontEndRequest.GET_INFLIGHT_FD) return encodeInflight(NO_INFLIGHT, payload.length)
  return undefined
}

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
    if (isAbandonment(error)) throw error
    throw new VhostUserError('ERR_VHOST_USER_DEVICE', `the device failed to ${what}: ${asError(error).message}`, { cause: error })
  }
}

function isDeviceFailure (error: unknown): boolean {
  return isAbandonment(error) || (error instanceof VhostUserError && error.code === 'ERR_VHOST_USER_DEVICE')
}
