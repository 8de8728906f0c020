import type { RegionInit } from '@node-vmm/hostmem'
import { connectUnix, unixSocket, unixSocketPair } from '@node-vmm/libc'
import { closeSync } from 'node:fs'
import { Channel, isHangUp } from './channel.ts'
import { closeAll } from './descriptor.ts'
import { asError, refused, VhostUserError, violation } from './errors.ts'
import { ProtocolFeature } from './features.ts'
import {
  BackEndRequest, backEndRequestName, FLAG_NEED_REPLY, FLAG_REPLY, FrontEndRequest, frontEndRequestName, type Message,
  type MessageObserver
} from './message.ts'
import {
  CONFIG_BYTES_MAX, decodeConfig, decodeInflight, decodeU64, decodeVringState, encodeConfig, encodeInflight, encodeLog,
  encodeMemoryTable, encodeRegion, encodeU64, encodeVringAddress, encodeVringDescriptor, encodeVringState,
  type InflightDescription, NOTHING, type RegionDescription, type VringAddress
} from './payload.ts'

/** How a front-end talks. */
export interface FrontEndOptions {
  /** Milliseconds that a back-end may take for a reply; a drain may be part of it. @default 10000 */
  readonly timeout?: number
  /** Ends the connection when it is aborted; calls that wait fail with its reason. @default never */
  readonly signal?: AbortSignal | undefined
  /** Sees each message that passes. @default nobody looks */
  readonly onMessage?: MessageObserver | undefined
}

/** What a message carries beside its request. */
export interface RequestInit {
  /** @default none */
  readonly payload?: Uint8Array
  /** Descriptors to pass on; they stay the caller's. @default none */
  readonly fds?: readonly number[]
}

/** A region for records of what is in flight, and the file that it is in. */
export interface InflightInit extends InflightDescription {
  /** The file, a memfd mostly. */
  readonly fd: number
}

/** A log of written pages: a bit for each 4096 bytes of guest memory, from guest address 0. */
export interface LogInit {
  /** The file that it is in. */
  readonly fd: number
  /** Bytes: all memory that the back-end was given is to be covered. */
  readonly size: number
  /** Where in the file, a multiple of 8. @default 0 */
  readonly offset?: number
}

/**
 * The front-end's side of a vhost-user connection: one method for each request, sent in the order of the calls, one at
 * a time. What the back-end refuses is thrown (`ERR_VHOST_USER_REFUSED`) once REPLY_ACK is agreed, by
 * `setProtocolFeatures`; before, a request without a reply of its own ends with its sending.
 *
 * Descriptors that are passed stay the caller's, and may be closed when the call has ended. A reply that does not come
 * in time, does not match, or does not come at all closes the connection: it cannot be followed any further. A back-end
 * that hangs up is noticed at any time: see `closed`. An idle connection does not keep the process alive.
 *
 * Every request rejects with VhostUserError: ERR_VHOST_USER_REFUSED; or, for good, ERR_VHOST_USER_CLOSED,
 * ERR_VHOST_USER_TIMEOUT, ERR_VHOST_USER_PROTOCOL; or with the reason of the connection's signal. Which feature a request
 * needs is the specification's word ("Front-end message types"); it is not checked here.
 */
export class FrontEnd {
  /** Settles when the connection is over: undefined after `close`, else why, `ERR_VHOST_USER_CLOSED` after a hang-up. Never rejects. */
  readonly closed: Promise<Error | undefined>

  readonly #channel: Channel
  readonly #timeout: number
  readonly #onMessage: MessageObserver | undefined
  readonly #signal: AbortSignal | undefined
  #protocolFeatures = 0n
  #backEndChannel: Channel | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #failure: unknown
  #settle!: (failure: Error | undefined) => void

  /** @param fd a connected unix stream socket, the front-end's from now on. @throws LinuxError for what is no descriptor */
  constructor (fd: number, options: FrontEndOptions = {}) {
    this.#timeout = options.timeout ?? 10_000
    this.#onMessage = options.onMessage
    this.closed = new Promise((resolve) => { this.#settle = resolve })
    this.#channel = new Channel(fd, {
      nameOf: frontEndRequestName,
      onMessage: options.onMessage,
      onHangUp: () => this.#fail(new VhostUserError('ERR_VHOST_USER_CLOSED', 'the back-end hung up'))
    })
    this.#signal = options.signal
    if (this.#signal?.aborted === true) this.#onAbort()
    else this.#signal?.addEventListener('abort', this.#onAbort)
  }

  /**
   * Connects to a back-end that listens on a path, up to 107 bytes (`unix(7)`).
   *
   * @throws LinuxError such as ENOENT, ECONNREFUSED, EAGAIN for one that has too many waiting; RangeError for a path that is
   * too long
   */
  static connect (path: string, options: FrontEndOptions = {}): FrontEnd {
    const fd = unixSocket({ nonBlocking: true })
    try {
      connectUnix(fd, path)
    } catch (error) {
      closeSync(fd)
      throw error
    }
    return new FrontEnd(fd, options)
  }

  /** Hangs up. Calls that wait fail with `ERR_VHOST_USER_CLOSED`. */
  close (): void {
    this.#fail(undefined)
  }

  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void {
    this.close()
  }

  /** The protocol features agreed, by `setProtocolFeatures`. */
  get protocolFeatures (): bigint {
    return this.#protocolFeatures
  }

  // Negotiation

  /** The virtio features offered, with the transport's: see `TransportFeature`. GET_FEATURES. */
  async getFeatures (): Promise<bigint> {
    return await this.#get(FrontEndRequest.GET_FEATURES, decodeU64)
  }

  /** Accepts virtio features. With `TransportFeature.PROTOCOL_FEATURES` rings start disabled. SET_FEATURES. */
  async setFeatures (features: bigint): Promise<void> {
    await this.tell(FrontEndRequest.SET_FEATURES, { payload: encodeU64(features) })
  }

  /** What the back-end offers of `ProtocolFeature`, as bits. GET_PROTOCOL_FEATURES. */
  async getProtocolFeatures (): Promise<bigint> {
    return await this.#get(FrontEndRequest.GET_PROTOCOL_FEATURES, decodeU64)
  }

  /** Accepts protocol features, of those offered. With REPLY_ACK each later request waits for its success. SET_PROTOCOL_FEATURES. */
  async setProtocolFeatures (features: bigint): Promise<void> {
    await this.tell(FrontEndRequest.SET_PROTOCOL_FEATURES, { payload: encodeU64(features) })
    this.#protocolFeatures = features
  }

  /** Makes this front-end the owner of the session. SET_OWNER. */
  async setOwner (): Promise<void> {
    await this.tell(FrontEndRequest.SET_OWNER)
  }

  /** How many queues the device has at most. GET_QUEUE_NUM. Needs MQ. */
  async getQueueNum (): Promise<number> {
    return Number(await this.#get(FrontEndRequest.GET_QUEUE_NUM, decodeU64))
  }

  /** Resets the device: rings stopped, features forgotten. RESET_DEVICE, where that is agreed. */
  async resetDevice (): Promise<void> {
    await this.tell(FrontEndRequest.RESET_DEVICE)
  }

  /** The device status (virtio 1.2, 2.1), 8 bits. GET_STATUS. Needs STATUS, as the next one. */
  async getStatus (): Promise<number> {
    return Number(await this.#get(FrontEndRequest.GET_STATUS, decodeU64))
  }

  /** Sets the device status; 0 stops all rings, and forgets them and the features. SET_STATUS. */
  async setStatus (status: number): Promise<void> {
    await this.tell(FrontEndRequest.SET_STATUS, { payload: encodeU64(BigInt(status)) })
  }

  // Memory

  /** Replaces the whole memory table, 8 regions at most with most back-ends. SET_MEM_TABLE. */
  async setMemTable (regions: readonly RegionInit[]): Promise<void> {
    await this.tell(FrontEndRequest.SET_MEM_TABLE, { payload: encodeMemoryTable(regions.map(describe)), fds: regions.map(({ fd }) => fd) })
  }

  /** How many memory regions there may be. GET_MAX_MEM_SLOTS. Needs CONFIGURE_MEM_SLOTS, as the next two. */
  async getMaxMemSlots (): Promise<number> {
    return Number(await this.#get(FrontEndRequest.GET_MAX_MEM_SLOTS, decodeU64))
  }

  /** Shares one more region of memory. ADD_MEM_REG. */
  async addMemReg (region: RegionInit): Promise<void> {
    await this.tell(FrontEndRequest.ADD_MEM_REG, { payload: encodeRegion(describe(region)), fds: [region.fd] })
  }

  /** Removes the region with this guest address, user address and size. REM_MEM_REG. */
  async remMemReg (region: Omit<RegionInit, 'fd'>): Promise<void> {
    await this.tell(FrontEndRequest.REM_MEM_REG, { payload: encodeRegion(describe(region)) })
  }

  // In flight, and written

  /**
   * A region in which the back-end keeps what it has in flight, zeroed, to be kept beyond its end. Needs INFLIGHT_SHMFD,
   * as the next one. GET_INFLIGHT_FD.
   *
   * @param queueSize descriptors of the largest ring, 1 to 32768.
   * @returns the region, its file the caller's to close; undefined when the device keeps none
   */
  async getInflightFd (queues: number, queueSize: number): Promise<InflightInit | undefined> {
    const request = { payload: encodeInflight({ size: 0, offset: 0, queues, queueSize }) }
    return await this.#inTurn(async () => {
      const { payload, fds } = await this.#exchange(FrontEndRequest.GET_INFLIGHT_FD, 0, request)
      try {
        const description = decodeReply(FrontEndRequest.GET_INFLIGHT_FD, payload, decodeInflight)
        if (description.size === 0) return undefined
        if (fds.length !== 1) throw violation(`GET_INFLIGHT_FD was answered with ${fds.length} descriptors`)
        return { ...description, fd: fds.shift()! }
      } finally {
        closeAll(fds)
      }
    })
  }

  /** Gives the region to the back-end, which uses it from the next start of each ring: a new one, or one that died left. SET_INFLIGHT_FD. */
  async setInflightFd (inflight: InflightInit): Promise<void> {
    await this.tell(FrontEndRequest.SET_INFLIGHT_FD, { payload: encodeInflight(inflight), fds: [inflight.fd] })
  }

  /**
   * Where the back-end is to log the pages it writes, while `TransportFeature.LOG_ALL` is set; once this has ended it
   * writes no other log any more. SET_LOG_BASE. Needs LOG_SHMFD.
   */
  async setLogBase ({ fd, size, offset = 0 }: LogInit): Promise<void> {
    const request = { payload: encodeLog({ size, offset }), fds: [fd] }
    await this.#inTurn(async () => {
      const { payload, fds } = await this.#exchange(FrontEndRequest.SET_LOG_BASE, this.#needReply, request)
      closeAll(fds)
      // Anything else is no answer to judge by: some back-ends send nothing, libvhost-user the size that it was sent.
      const result = payload.length === 8 ? decodeU64(payload) : 0n
      if (result !== 0n && result !== BigInt(size)) throw refused('the back-end refused SET_LOG_BASE')
    })
  }

  // Rings

  /** A ring's size: descriptors, 1 to 32768, a power of two where it is split. SET_VRING_NUM. */
  async setVringNum (index: number, size: number): Promise<void> {
    await this.tell(FrontEndRequest.SET_VRING_NUM, { payload: encodeVringState({ index, num: size }) })
  }

  /** Where a ring's three parts are: user addresses, in memory regions that the back-end was given. SET_VRING_ADDR. */
  async setVringAddr (index: number, addresses: Omit<VringAddress, 'index'>): Promise<void> {
    await this.tell(FrontEndRequest.SET_VRING_ADDR, { payload: encodeVringAddress({ index, ...addresses }) })
  }

  /** Where the back-end is to begin: the next index of the available ring, or the four numbers of a packed ring, as `QueueSetup.base`. SET_VRING_BASE. */
  async setVringBase (index: number, base: number): Promise<void> {
    await this.tell(FrontEndRequest.SET_VRING_BASE, { payload: encodeVringState({ index, num: base }) })
  }

  /** Stops a ring, drained. GET_VRING_BASE. @returns where the back-end would have gone on, as in `setVringBase` */
  async getVringBase (index: number): Promise<number> {
    return await this.#get(FrontEndRequest.GET_VRING_BASE, (payload) => {
      const state = decodeVringState(payload)
      if (state.index !== index) throw refused(`ring ${state.index} where ring ${index} was asked for`)
      return state.num
    }, { payload: encodeVringState({ index, num: 0 }) })
  }

  /** The descriptor that announces buffers to the back-end; undefined asks it to poll. SET_VRING_KICK. */
  async setVringKick (index: number, fd: number | undefined): Promise<void> {
    await this.#passVringDescriptor(FrontEndRequest.SET_VRING_KICK, index, fd)
  }

  /** The descriptor that announces used buffers; undefined when they are polled for. SET_VRING_CALL. */
  async setVringCall (index: number, fd: number | undefined): Promise<void> {
    await this.#passVringDescriptor(FrontEndRequest.SET_VRING_CALL, index, fd)
  }

  /** The descriptor that announces a broken ring; undefined for none. SET_VRING_ERR. */
  async setVringErr (index: number, fd: number | undefined): Promise<void> {
    await this.#passVringDescriptor(FrontEndRequest.SET_VRING_ERR, index, fd)
  }

  /** Enables or disables a ring. SET_VRING_ENABLE. Needs PROTOCOL_FEATURES among the virtio features. */
  async setVringEnable (index: number, isEnabled: boolean): Promise<void> {
    await this.tell(FrontEndRequest.SET_VRING_ENABLE, { payload: encodeVringState({ index, num: Number(isEnabled) }) })
  }

  async #passVringDescriptor (request: number, index: number, fd: number | undefined): Promise<void> {
    await this.tell(request, {
      payload: encodeVringDescriptor({ index, hasFd: fd !== undefined }),
      fds: fd === undefined ? [] : [fd]
    })
  }

  // Configuration

  /**
   * Bytes of the configuration space. GET_CONFIG. Needs CONFIG, as the next one.
   *
   * @param offset 0 to 255. @default 0
   * @param size bytes, 1 or more. @default up to the end, `CONFIG_BYTES_MAX`
   */
  async getConfig (offset = 0, size: number = CONFIG_BYTES_MAX - offset): Promise<Uint8Array> {
    const request = encodeConfig({ offset, size, flags: 0, data: new Uint8Array(size) })
    const data = await this.#get(FrontEndRequest.GET_CONFIG, (payload) => {
      if (payload.length === 0) return undefined
      const given = decodeConfig(payload)
      if (given.offset !== offset || given.size !== size) throw refused(`${given.size} bytes at offset ${given.offset}`)
      return given.data
    }, { payload: request })
    if (data === undefined) throw refused(`GET_CONFIG: the back-end does not give ${size} bytes at offset ${offset}`)
    return data
  }

  /** Writes to the configuration space. SET_CONFIG. @param live as part of a migration: read-only fields too. @default false */
  async setConfig (offset: number, data: Uint8Array, live = false): Promise<void> {
    const range = { offset, size: data.length, flags: Number(live), data }
    await this.tell(FrontEndRequest.SET_CONFIG, { payload: encodeConfig(range) })
  }

  /** Gives the back-end a channel of its own, on which it announces changes of the configuration space. SET_BACKEND_REQ_FD. Needs BACKEND_REQ. @throws LinuxError such as EMFILE, too */
  async setBackendReqFd (onConfigChange: () => void): Promise<void> {
    const [ours, theirs] = unixSocketPair()
    const channel = new Channel(ours, { nameOf: backEndRequestName, onMessage: this.#onMessage })
    try {
      await this.tell(FrontEndRequest.SET_BACKEND_REQ_FD, { fds: [theirs] })
    } catch (error) {
      channel.close()
      throw error
    } finally {
      closeSync(theirs)
    }
    this.#backEndChannel?.close()
    this.#backEndChannel = channel
    if (this.#channel.closed) channel.close()
    void this.#listen(channel, onConfigChange)
  }

  async #listen (channel: Channel, onConfigChange: () => void): Promise<void> {
    try {
      for (let message = await channel.receive(); message !== undefined; message = await channel.receive()) {
        closeAll(message.fds)
        const isKnown = message.request === BackEndRequest.CONFIG_CHANGE
        if (isKnown) onConfigChange()
        if (message.needsReply) await channel.send(message.request, FLAG_REPLY, encodeU64(isKnown ? 0n : 1n))
      }
    } catch {
      // A back-end that cannot use its channel is without one; what is wrong with it shows on the connection itself.
    } finally {
      channel.close()
    }
  }

  // Messages

  /** Sends a request that has a reply of its own. @returns the reply's payload */
  async ask (request: number, init: RequestInit = {}): Promise<Uint8Array> {
    return await this.#inTurn(() => this.#askNow(request, 0, init))
  }

  /** Sends a request that has none, and waits for its success where REPLY_ACK is agreed. */
  async tell (request: number, init: RequestInit = {}): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#needReply === 0) return await this.send(request, 0, init)
      const result = await this.#askNow(request, this.#needReply, init)
      if (result.length !== 8) throw violation(`${frontEndRequestName(request)} was acknowledged with ${result.length} bytes`)
      if (decodeU64(result) !== 0n) throw refused(`the back-end refused ${frontEndRequestName(request)}`)
    })
  }

  /**
   * Sends any message at once, for tests of a back-end: nothing is checked, and no answer
   * waited for.
   *
   * @param flags header flags, without the version
   * @throws LinuxError such as EPIPE; VhostUserError ERR_VHOST_USER_CLOSED
   */
  async send (request: number, flags: number, { payload = NOTHING, fds = [] }: RequestInit = {}): Promise<void> {
    await this.#channel.send(request, flags, payload, fds)
  }

  /** Waits for any message, for tests of a back-end. @returns undefined when the back-end hung up. @throws VhostUserError ERR_VHOST_USER_PROTOCOL; LinuxError */
  async receive (): Promise<Message | undefined> {
    return await this.#channel.receive()
  }

  /** The header flag for requests without a reply of their own. */
  get #needReply (): number {
    return (this.#protocolFeatures & ProtocolFeature.REPLY_ACK) === 0n ? 0 : FLAG_NEED_REPLY
  }

  async #askNow (request: number, flags: number, init: RequestInit): Promise<Uint8Array> {
    const { payload, fds } = await this.#exchange(request, flags, init)
    closeAll(fds)
    return payload
  }

  // The reply's descriptors are the caller's.
  async #exchange (request: number, flags: number, init: RequestInit): Promise<Message> {
    await this.send(request, flags, init)
    const name = frontEndRequestName(request)
    const message = await this.#channel.receive()
    if (message === undefined) throw new VhostUserError('ERR_VHOST_USER_CLOSED', `the back-end hung up instead of answering ${name}`)
    // QEMU and Linux refuse a reply with need_reply set, too. But libvhost-user leaves it set where it was set on a
    // request with a reply of its own: here, that is SET_LOG_BASE.
    const hasPlainFlags = !message.needsReply || request === FrontEndRequest.SET_LOG_BASE
    if (message.isReply && hasPlainFlags && message.request === request) return message
    closeAll(message.fds)
    throw violation(`${name} was answered with ${message.isReply ? 'a reply to ' : ''}${frontEndRequestName(message.request)}`)
  }

  // Replies carry no number: each request waits for the one before.
  async #inTurn<T> (exchange: () => Promise<T>): Promise<T> {
    const before = this.#turn
    const mine = before.then(() => this.#limited(exchange))
    this.#turn = mine.catch(() => {})
    return await mine
  }

  async #limited<T> (exchange: () => Promise<T>): Promise<T> {
    const timer = setTimeout(() => {
      this.#fail(new VhostUserError('ERR_VHOST_USER_TIMEOUT', `the back-end did not answer within ${this.#timeout} ms`))
    }, this.#timeout)
    try {
      return await exchange()
    } catch (error) {
      if (error instanceof VhostUserError && error.code === 'ERR_VHOST_USER_REFUSED') throw error
      throw this.#fail(isHangUp(error) ? new VhostUserError('ERR_VHOST_USER_CLOSED', 'the back-end hung up', { cause: error }) : error)
    } finally {
      clearTimeout(timer)
    }
  }

  readonly #onAbort = (): void => { this.#fail(this.#signal?.reason) }

  async #get<T> (request: number, decode: (payload: Uint8Array) => T, init: RequestInit = {}): Promise<T> {
    return await this.#inTurn(async () => decodeReply(request, await this.#askNow(request, 0, init), decode))
  }

  // Closes the connection. The first reason is the one that all who wait hear.
  #fail (reason: unknown): Error {
    if (!this.#channel.closed) {
      this.#failure = reason
      this.#channel.close()
      this.#backEndChannel?.close()
      this.#signal?.removeEventListener('abort', this.#onAbort)
      this.#settle(reason === undefined ? undefined : asError(reason))
    }
    return asError(this.#failure ?? reason)
  }
}

function decodeReply<T> (request: number, payload: Uint8Array, decode: (payload: Uint8Array) => T): T {
  try {
    return decode(payload)
  } catch (error) {
    throw violation(`${frontEndRequestName(request)} was answered with ${asError(error).message}`)
  }
}

function describe ({ guestAddress, size, userAddress = guestAddress, offset = 0 }: Omit<RegionInit, 'fd'>): RegionDescription {
  return { guestAddress, size, userAddress, offset }
}
