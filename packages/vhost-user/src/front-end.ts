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
  CONFIG_BYTES_MAX, decodeConfig, decodeU64, decodeVringState, encodeConfig, encodeMemoryTable, encodeRegion, encodeU64,
  encodeVringAddress, encodeVringDescriptor, encodeVringState, NOTHING, type RegionDescription, type VringAddress
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

/**
 * The front-end's side of a vhost-user connection: one method for each request, sent in the order of the calls, one at
 * a time. What the back-end refuses is thrown (`ERR_VHOST_USER_REFUSED`) once REPLY_ACK is agreed, by
 * `setProtocolFeatures`; before, a request without a reply of its own ends with its sending.
 *
 * Descriptors that are passed stay the caller's, and may be closed when the call has ended. A reply that does not come
 * in time, does not match, or does not come at all closes the connection: it cannot be followed any further.
 */
export class FrontEnd {
  readonly #channel: Channel
  readonly #timeout: number
  readonly #onMessage: MessageObserver | undefined
  readonly #signal: AbortSignal | undefined
  #protocolFeatures = 0n
  #backEndChannel: Channel | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #failure: unknown

  /** @param fd a connected unix stream socket, the front-end's from now on */
  constructor (fd: number, options: FrontEndOptions = {}) {
    this.#timeout = options.timeout ?? 10_000
    this.#onMessage = options.onMessage
    this.#channel = new Channel(fd, { nameOf: frontEndRequestName, onMessage: options.onMessage })
    this.#signal = options.signal
    if (this.#signal?.aborted === true) this.#onAbort()
    else this.#signal?.addEventListener('abort', this.#onAbort)
  }

  /** Connects to a back-end that listens on a path. @throws LinuxError such as ENOENT, ECONNREFUSED */
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

  [Symbol.dispose] (): void {
    this.close()
  }

  /** The protocol features agreed, by `setProtocolFeatures`. */
  get protocolFeatures (): bigint {
    return this.#protocolFeatures
  }

  // Negotiation

  /** The virtio features offered, with the transport's: see `TransportFeature`. */
  async getFeatures (): Promise<bigint> {
    return await this.#get(FrontEndRequest.GET_FEATURES, decodeU64)
  }

  /** Accepts virtio features. With `TransportFeature.PROTOCOL_FEATURES` rings start disabled. */
  async setFeatures (features: bigint): Promise<void> {
    await this.tell(FrontEndRequest.SET_FEATURES, { payload: encodeU64(features) })
  }

  async getProtocolFeatures (): Promise<bigint> {
    return await this.#get(FrontEndRequest.GET_PROTOCOL_FEATURES, decodeU64)
  }

  /** Accepts protocol features, of those offered. With REPLY_ACK each later request waits for its success. */
  async setProtocolFeatures (features: bigint): Promise<void> {
    await this.tell(FrontEndRequest.SET_PROTOCOL_FEATURES, { payload: encodeU64(features) })
    this.#protocolFeatures = features
  }

  async setOwner (): Promise<void> {
    await this.tell(FrontEndRequest.SET_OWNER)
  }

  /** How many queues the device has at most. Needs MQ. */
  async getQueueNum (): Promise<number> {
    return Number(await this.#get(FrontEndRequest.GET_QUEUE_NUM, decodeU64))
  }

  /** Resets the device: rings stopped, features forgotten. Needs RESET_DEVICE. */
  async resetDevice (): Promise<void> {
    await this.tell(FrontEndRequest.RESET_DEVICE)
  }

  // Memory

  /** Replaces the whole memory table, 8 regions at most with most back-ends. */
  async setMemTable (regions: readonly RegionInit[]): Promise<void> {
    await this.tell(FrontEndRequest.SET_MEM_TABLE, { payload: encodeMemoryTable(regions.map(describe)), fds: regions.map(({ fd }) => fd) })
  }

  /** How many memory regions there may be. Needs CONFIGURE_MEM_SLOTS, as the next two. */
  async getMaxMemSlots (): Promise<number> {
    return Number(await this.#get(FrontEndRequest.GET_MAX_MEM_SLOTS, decodeU64))
  }

  async addMemReg (region: RegionInit): Promise<void> {
    await this.tell(FrontEndRequest.ADD_MEM_REG, { payload: encodeRegion(describe(region)), fds: [region.fd] })
  }

  /** Removes the region with this guest address, user address and size. */
  async remMemReg (region: Omit<RegionInit, 'fd'>): Promise<void> {
    await this.tell(FrontEndRequest.REM_MEM_REG, { payload: encodeRegion(describe(region)) })
  }

  // Rings

  /** A ring's size: descriptors. */
  async setVringNum (index: number, size: number): Promise<void> {
    await this.tell(FrontEndRequest.SET_VRING_NUM, { payload: encodeVringState({ index, num: size }) })
  }

  /** Where a ring's three parts are: user addresses, in memory regions that the back-end was given. */
  async setVringAddr (index: number, addresses: Omit<VringAddress, 'index'>): Promise<void> {
    await this.tell(FrontEndRequest.SET_VRING_ADDR, { payload: encodeVringAddress({ index, ...addresses }) })
  }

  /** The next index that the back-end is to take from the available ring. */
  async setVringBase (index: number, base: number): Promise<void> {
    await this.tell(FrontEndRequest.SET_VRING_BASE, { payload: encodeVringState({ index, num: base }) })
  }

  /** Stops a ring, drained. @returns the next index that the back-end would have taken */
  async getVringBase (index: number): Promise<number> {
    return await this.#get(FrontEndRequest.GET_VRING_BASE, (payload) => {
      const state = decodeVringState(payload)
      if (state.index !== index) throw refused(`ring ${state.index} where ring ${index} was asked for`)
      return state.num
    }, { payload: encodeVringState({ index, num: 0 }) })
  }

  /** The descriptor that announces buffers to the back-end; undefined asks it to poll. */
  async setVringKick (index: number, fd: number | undefined): Promise<void> {
    await this.#passVringDescriptor(FrontEndRequest.SET_VRING_KICK, index, fd)
  }

  /** The descriptor that announces used buffers; undefined when they are polled for. */
  async setVringCall (index: number, fd: number | undefined): Promise<void> {
    await this.#passVringDescriptor(FrontEndRequest.SET_VRING_CALL, index, fd)
  }

  /** The descriptor that announces a broken ring. */
  async setVringErr (index: number, fd: number | undefined): Promise<void> {
    await this.#passVringDescriptor(FrontEndRequest.SET_VRING_ERR, index, fd)
  }

  /** Enables or disables a ring. Needs PROTOCOL_FEATURES among the virtio features. */
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

  /** Bytes of the configuration space. Needs CONFIG, as the next one. */
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

  /** Writes to the configuration space. @param live as part of a migration: read-only fields too */
  async setConfig (offset: number, data: Uint8Array, live = false): Promise<void> {
    const range = { offset, size: data.length, flags: Number(live), data }
    await this.tell(FrontEndRequest.SET_CONFIG, { payload: encodeConfig(range) })
  }

  /** Gives the back-end a channel of its own, on which it announces changes of the configuration space. Needs BACKEND_REQ. */
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
    return await this.#inTurn(async () => {
      await this.send(request, 0, init)
      return await this.#reply(request)
    })
  }

  /** Sends a request that has none, and waits for its success where REPLY_ACK is agreed. @throws VhostUserError when it was refused */
  async tell (request: number, init: RequestInit = {}): Promise<void> {
    await this.#inTurn(async () => {
      const isAcknowledged = (this.#protocolFeatures & ProtocolFeature.REPLY_ACK) !== 0n
      await this.send(request, isAcknowledged ? FLAG_NEED_REPLY : 0, init)
      if (!isAcknowledged) return
      const result = await this.#reply(request)
      if (result.length !== 8) throw violation(`${frontEndRequestName(request)} was acknowledged with ${result.length} bytes`)
      if (decodeU64(result) !== 0n) throw refused(`the back-end refused ${frontEndRequestName(request)}`)
    })
  }

  /** Sends any message at once, for tests of a back-end: nothing is checked, nothing waited for. @param flags header flags, without the version */
  async send (request: number, flags: number, { payload = NOTHING, fds = [] }: RequestInit = {}): Promise<void> {
    await this.#channel.send(request, flags, payload, fds)
  }

  /** Waits for any message, for tests of a back-end. @returns undefined when the back-end hung up */
  async receive (): Promise<Message | undefined> {
    return await this.#channel.receive()
  }

  async #reply (request: number): Promise<Uint8Array> {
    const name = frontEndRequestName(request)
    const message = await this.#channel.receive()
    if (message === undefined) throw new VhostUserError('ERR_VHOST_USER_CLOSED', `the back-end hung up instead of answering ${name}`)
    closeAll(message.fds)
    // QEMU and Linux refuse a reply with need_reply set, too.
    if (!message.isReply || message.needsReply || message.request !== request) {
      throw violation(`${name} was answered with ${message.isReply ? 'a reply to ' : ''}${frontEndRequestName(message.request)}`)
    }
    return message.payload
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
    const payload = await this.ask(request, init)
    try {
      return decode(payload)
    } catch (error) {
      throw this.#fail(violation(`${frontEndRequestName(request)} was answered with ${asError(error).message}`))
    }
  }

  // Closes the connection. The first reason is the one that all who wait hear.
  #fail (reason: unknown): Error {
    if (!this.#channel.closed) {
      this.#failure = reason
      this.#channel.close()
      this.#backEndChannel?.close()
      this.#signal?.removeEventListener('abort', this.#onAbort)
    }
    return asError(this.#failure ?? reason)
  }
}

function describe ({ guestAddress, size, userAddress = guestAddress, offset = 0 }: Omit<RegionInit, 'fd'>): RegionDescription {
  return { guestAddress, size, userAddress, offset }
}
