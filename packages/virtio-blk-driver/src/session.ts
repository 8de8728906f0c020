import {
  PACKED_RING_START, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, hasFeature
} from '@node-vmm/vring'
import { setTimeout as sleep } from 'node:timers/promises'
import { EventNotifier } from '@node-vmm/event-poll'
import { GuestMemory, type RegionInit } from '@node-vmm/hostmem'
import { close, watchReadable, type Watch } from '@node-vmm/libc'
import { FrontEnd, type InflightInit, ProtocolFeature, TransportFeature } from '@node-vmm/vhost-user'
import { indirectTableBytes, layOutPackedRing, layOutRing, packedRingBytes, ringBytes } from '@node-vmm/vring/driver'
import { BufferPool } from './buffer-pool.ts'
import { BLOCK_CONFIG_BYTES, type BlockConfig, parseBlockConfig } from './config.ts'
import { BlockDriverError } from './errors.ts'
import { agreedFeatures, agreeOnProtocol, disagreement, type Wishes } from './negotiation.ts'
import { type QueueData, REQUEST_BYTES } from './queue.ts'

/** What to connect to, and with what. */
export interface ConnectOptions {
  /** Path of the unix socket that the vhost-user-blk server listens on. */
  readonly socketPath: string
  /** Request queues. @default 1 */
  readonly queues?: number
  /** Descriptors of each queue, 4 to 32768: a power of two, unless the rings are packed. @default 128 */
  readonly queueSize?: number
  /** Have packed rings (VIRTIO_F_RING_PACKED), from a server that offers them. @default false: split */
  readonly packed?: boolean
  /**
   * Have requests given back in order (VIRTIO_F_IN_ORDER), by a server that offers it: less to read for each, but a slow
   * one holds up all after it. @default false
   */
  readonly inOrder?: boolean
  /** Bytes of memory for data, up to `VIEW_BYTES_MAX` (4 GiB on Node 20); pages take up space once they are used. @default 64 MiB */
  readonly memoryBytes?: number
  /**
   * Agree to these virtio features only, where they are offered: a mask. VERSION_1 is a must; RING_PACKED and IN_ORDER are
   * options of their own. @default DRIVER_FEATURES
   */
  readonly features?: bigint
  /** Milliseconds that the server may take to answer a message. @default 10000 */
  readonly timeout?: number
  /** Gives up connecting. @default never */
  readonly signal?: AbortSignal
  /**
   * When the server dies, connect to the next one on the same path. Where the server keeps a record of what is in flight
   * (INFLIGHT_SHMFD) the next one does these requests, and calls go on as if nothing had been; otherwise they reject with
   * ERR_BLOCK_DISCONNECTED. @default never: the driver ends with its server
   */
  readonly reconnect?: ReconnectOptions
}

/** How to look for the next server. `{}` will do. */
export interface ReconnectOptions {
  /** How often to try before it is given up. @default 100 */
  readonly attempts?: number
  /** Milliseconds before each attempt. @default 100 */
  readonly delay?: number
}

/** The lowest guest address: any but 0, and low enough that addresses are small integers to the JavaScript engine. */
const MEMORY_ADDRESS = 0x100000
const PAGE_BYTES = 4096
const QUEUE_SIZE_MIN = 4
/** The most data segments that a table of indirect descriptors has room for here. */
const TABLE_SEGMENTS_MAX = 126
/** A request's header and its status are segments beside the data. */
const OVERHEAD_SEGMENTS = 2

/** A disk whose rings run: what is agreed, and all that has to be given back at the end. The server may change meanwhile. */
export class Session {
  /** The virtio features agreed on. */
  features = 0n
  memory!: GuestMemory
  /** The part of the memory that is for data. */
  pool!: BufferPool
  queues: readonly QueueData[] = []
  config!: BlockConfig
  /** Called once, when the server is gone for good or says that a ring is broken. */
  onEnd: (error: BlockDriverError) => void = () => {}
  /**
   * Called when a new server is there, whose rings do not run yet: collect what the old one has finished.
   *
   * @param isRecorded what is in flight will be done; otherwise the rings are to begin anew, empty.
   * @returns for each queue, where it stands. @see QueueData.index
   * @throws BlockDriverError to end it all
   */
  onResume: (isRecorded: boolean) => number[] = () => this.queues.map(({ index }) => index)

  readonly #options: ConnectOptions
  readonly #wishes: Wishes
  readonly #owned: (() => void)[] = []
  readonly #closing = new AbortController()
  #frontEnd!: FrontEnd
  #memoryFile: { readonly fd: number, readonly regions: RegionInit[] } | undefined
  #errorFd = -1
  #errorWatch: Watch | undefined
  /** Where the server records what is in flight, kept for the next one. */
  #inflight: InflightInit | undefined
  #state: 'connecting' | 'connected' | 'ended' = 'connecting'
  #reconnecting: Promise<void> | undefined

  private constructor (options: ConnectOptions) {
    const { queues = 1, reconnect } = options
    this.#options = options
    this.#wishes = { ...options, queues, inflightRecord: reconnect !== undefined }
    this.#connect()
  }

  /** Connects, agrees on features and starts the rings. @throws LinuxError, VhostUserError, BlockDriverError */
  static async open (options: ConnectOptions): Promise<Session> {
    const { signal, queueSize = 128 } = options
    signal?.throwIfAborted()
    if (queueSize < QUEUE_SIZE_MIN) throw new RangeError(`a request has 3 descriptors at least: a queue of ${queueSize} is too small`)
    const session = new Session(options)
    const abort = (): void => session.#frontEnd.close()
    signal?.addEventListener('abort', abort)
    try {
      await session.#begin()
      return session
    } catch (error) {
      session.#giveBack()
      signal?.throwIfAborted()
      throw error
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  /** Reads the configuration space anew. */
  async refreshConfig (): Promise<BlockConfig> {
    for (;;) {
      const reconnecting = this.#reconnecting
      await reconnecting
      try {
        return await this.#readConfig()
      } catch (error) {
        // A server that went away just now: the next one has the answer.
        if (reconnecting === this.#reconnecting) throw error
      }
    }
  }

  async #readConfig (): Promise<BlockConfig> {
    this.config = parseBlockConfig(await this.#frontEnd.getConfig(0, BLOCK_CONFIG_BYTES), this.features)
    return this.config
  }

  /**
   * Stops the rings, where the server still listens, and gives everything back.
   *
   * @param hurry aborts when the server's answers are not to be waited for
   */
  async close (hurry: AbortSignal): Promise<void> {
    const isConnected = this.#state === 'connected'
    this.#state = 'ended'
    this.#closing.abort()
    hurry.addEventListener('abort', () => this.#frontEnd.close())
    try {
      if (isConnected && !hurry.aborted) await this.#stopRings()
    } catch {
      // A server that cannot be asked to stop has no hold on what is ours: the connection ends here in any case.
    } finally {
      this.#giveBack()
    }
  }

  get #ended (): boolean {
    return this.#state === 'ended'
  }

  #connect (): void {
    const { socketPath, timeout } = this.#options
    this.#frontEnd = FrontEnd.connect(socketPath, { ...(timeout !== undefined && { timeout }) })
  }

  async #begin (): Promise<void> {
    const offered = await agreeOnProtocol(this.#frontEnd, this.#wishes)
    await this.#accept(agreedFeatures(offered, this.#wishes))
    this.#layOut()
    this.#watchForBrokenRings()
    await this.#takeInflightRegion()
    await this.#startRings(this.queues.map(({ index }) => index))
    this.#connected()
  }

  async #accept (features: bigint): Promise<void> {
    this.features = features
    await this.#frontEnd.setFeatures(features | TransportFeature.PROTOCOL_FEATURES)
    await this.#readConfig()
  }

  /** Makes the memory: for each queue its ring, headers and indirect tables, then the rest for data. */
  #layOut (): void {
    const { queues = 1, queueSize: size = 128, memoryBytes = 64 << 20 } = this.#options
    const { sizeMax, segmentsMax } = this.config
    const packed = hasFeature(this.features, VIRTIO_F_RING_PACKED)
    const layoutBytes = packed ? packedRingBytes(size) : ringBytes(size)
    const indirect = hasFeature(this.features, VIRTIO_F_INDIRECT_DESC)
    const segments = Math.min(segmentsMax, size - OVERHEAD_SEGMENTS, TABLE_SEGMENTS_MAX) + OVERHEAD_SEGMENTS
    const tableBytes = indirect ? indirectTableBytes(size, segments) : 0
    const queueBytes = toPages(layoutBytes + size * REQUEST_BYTES + tableBytes)
    const dataBytes = toPages(memoryBytes)

    const { memory, fd, regions } = GuestMemory.allocate([{ guestAddress: MEMORY_ADDRESS, size: queues * queueBytes + dataBytes }])
    this.#owned.push(() => close(fd), () => memory.release())
    this.memory = memory
    this.#memoryFile = { fd, regions }
    this.pool = new BufferPool(memory, MEMORY_ADDRESS + queues * queueBytes, dataBytes)
    this.queues = Array.from({ length: queues }, (_, index): QueueData => {
      const ringAddress = MEMORY_ADDRESS + index * queueBytes
      const requestAddress = ringAddress + layoutBytes
      return {
        memory: memory.toData(),
        layout: packed ? layOutPackedRing(ringAddress, size) : layOutRing(ringAddress, size),
        packed,
        inOrder: hasFeature(this.features, VIRTIO_F_IN_ORDER),
        requestAddress,
        indirect: indirect ? { address: requestAddress + size * REQUEST_BYTES, segments } : undefined,
        eventIdx: hasFeature(this.features, VIRTIO_F_EVENT_IDX),
        index: packed ? PACKED_RING_START : 0,
        kickFd: this.#makeNotifier().fd,
        callFd: this.#makeNotifier().fd,
        sizeMax,
        segmentsMax
      }
    })
  }

  /** Asks for a region where the server records what is in flight. Without one, that is lost when the server dies. */
  async #takeInflightRegion (): Promise<void> {
    // What another server left in an older one speaks of rings that have begun anew.
    this.#inflight = undefined
    const { queues = 1, queueSize = 128 } = this.#options
    if ((this.#frontEnd.protocolFeatures & ProtocolFeature.INFLIGHT_SHMFD) === 0n) return
    const inflight = await this.#frontEnd.getInflightFd(queues, queueSize)
    if (inflight === undefined) return
    this.#inflight = inflight
    this.#owned.push(() => close(inflight.fd))
    await this.#frontEnd.setInflightFd(inflight)
  }

  async #startRings (indices: readonly number[]): Promise<void> {
    const frontEnd = this.#frontEnd
    await frontEnd.setMemTable(this.#memoryFile!.regions)
    for (const [index, { layout, packed, kickFd, callFd }] of this.queues.entries()) {
      const { descriptorAddress, availableAddress, usedAddress } = layout
      await frontEnd.setVringNum(index, layout.size)
      await frontEnd.setVringBase(index, packed ? packedBase(indices[index]) : indices[index])
      // The regions' user addresses are their guest addresses.
      await frontEnd.setVringAddr(index, { descriptor: descriptorAddress, available: availableAddress, used: usedAddress })
      await frontEnd.setVringErr(index, this.#errorFd)
      await frontEnd.setVringCall(index, callFd)
      await frontEnd.setVringKick(index, kickFd)
    }
    for (const index of this.queues.keys()) await frontEnd.setVringEnable(index, true)
  }

  async #stopRings (): Promise<void> {
    for (const index of this.queues.keys()) await this.#frontEnd.setVringEnable(index, false)
    for (const index of this.queues.keys()) await this.#frontEnd.getVringBase(index)
  }

  #makeNotifier (): EventNotifier {
    const notifier = EventNotifier.create()
    this.#owned.push(() => notifier.close())
    return notifier
  }

  #watchForBrokenRings (): void {
    this.#errorFd = this.#makeNotifier().fd
    this.#errorWatch = watchReadable(this.#errorFd, () => {
      this.#end(new BlockDriverError('ERR_BLOCK_BROKEN', 'the server says that a ring is broken: connect anew'))
    })
    this.#errorWatch.unref()
  }

  #connected (): void {
    this.#state = 'connected'
    void this.#frontEnd.closed.then(() => this.#lost())
  }

  #lost (): void {
    if (this.#state !== 'connected') return
    if (this.#options.reconnect === undefined) {
      return this.#end(disconnected('the server went away: what was in flight may have been done or not'))
    }
    this.#state = 'connecting'
    this.#reconnecting = this.#reconnect(this.#options.reconnect)
  }

  async #reconnect ({ attempts = 100, delay = 100 }: ReconnectOptions): Promise<void> {
    let cause: unknown
    for (let attempt = 0; attempt < attempts; attempt++) {
      // An idle driver does not keep the process alive, nor does it while it looks for a server; what is in flight does.
      await sleep(delay, undefined, { ref: false, signal: this.#closing.signal }).catch(() => {})
      if (this.#ended) return
      try {
        return await this.#resume()
      } catch (error) {
        this.#frontEnd.close()
        if (error instanceof BlockDriverError) return this.#end(error)
        cause = error
      }
    }
    this.#end(disconnected(`the server went away, and ${attempts} attempts found no other: what was in flight may have been done or not`, cause))
  }

  /** Does with a new server what was done with the old one. */
  async #resume (): Promise<void> {
    this.#connect()
    const offered = await agreeOnProtocol(this.#frontEnd, this.#wishes)
    if ((offered & this.features) !== this.features) throw disagreement('the new server does not offer all that was agreed with the old one: connect anew')
    await this.#accept(this.features)
    const isRecorded = this.#inflight !== undefined && (this.#frontEnd.protocolFeatures & ProtocolFeature.INFLIGHT_SHMFD) !== 0n
    if (isRecorded) await this.#frontEnd.setInflightFd(this.#inflight!)
    else await this.#takeInflightRegion()
    if (this.#ended) return
    await this.#startRings(this.onResume(isRecorded))
    if (this.#ended) return
    this.#connected()
    // What was added meanwhile was kicked for in vain, or not at all where the old server did not want it.
    for (const { kickFd } of this.queues) EventNotifier.fromFd(kickFd).notify()
  }

  #end (error: BlockDriverError): void {
    if (this.#ended) return
    this.#state = 'ended'
    // What tells of a broken ring stays readable: it would call for ever.
    this.#errorWatch?.close()
    this.onEnd(error)
  }

  #giveBack (): void {
    this.#frontEnd.close()
    this.#errorWatch?.close()
    for (const giveBack of this.#owned.splice(0).reverse()) giveBack()
  }
}

/** The base of a packed ring: where the available side goes on, and in the upper half the used side (vhost-user, "Vring state"). */
function packedBase (index: number): number {
  return index + index * 0x10000
}

function disconnected (message: string, cause?: unknown): BlockDriverError {
  return new BlockDriverError('ERR_BLOCK_DISCONNECTED', message, { cause })
}

function toPages (bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES
}
