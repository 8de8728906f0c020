import { EventNotifier } from '@node-vmm/event-poll'
import { GuestMemory, type RegionInit } from '@node-vmm/hostmem'
import { close, connectUnix, duplicate, receiveMessage, unixSocket, watchReadable, type Watch } from '@node-vmm/libc'
import { FrontEnd, ProtocolFeature, TransportFeature } from '@node-vmm/vhost-user'
import { indirectTableBytes, layOutRing, ringBytes } from '@node-vmm/vring/driver'
import { BufferPool } from './buffer-pool.ts'
import { BLOCK_CONFIG_BYTES, type BlockConfig, parseBlockConfig } from './config.ts'
import { BlockDriverError } from './errors.ts'
import { DRIVER_FEATURES, featureMask, hasFeature, VIRTIO_BLK_F_MQ, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from './features.ts'
import { type QueueData, REQUEST_BYTES } from './queue.ts'

/** What to connect to, and with what. */
export interface ConnectOptions {
  /** Path of the unix socket that the vhost-user-blk server listens on. */
  readonly socketPath: string
  /** Request queues. @default 1 */
  readonly queues?: number
  /** Descriptors of each queue: a power of two, 4 to 32768. @default 128 */
  readonly queueSize?: number
  /** Bytes of memory for data, up to `VIEW_BYTES_MAX` (4 GiB on Node 20); pages take up space once they are used. @default 64 MiB */
  readonly memoryBytes?: number
  /** Agree to these virtio features only, where they are offered: a mask. VERSION_1 is a must. @default DRIVER_FEATURES */
  readonly features?: bigint
  /** Milliseconds that the server may take to answer a message. @default 10000 */
  readonly timeout?: number
  /** Gives up connecting. @default never */
  readonly signal?: AbortSignal
}

/** The lowest guest address: any but 0, and low enough that addresses are small integers to the JavaScript engine. */
const MEMORY_ADDRESS = 0x100000
const PAGE_BYTES = 4096
const QUEUE_SIZE_MIN = 4
/** The most data segments that a table of indirect descriptors has room for here. */
const TABLE_SEGMENTS_MAX = 126
/** A request's header and its status are segments beside the data. */
const OVERHEAD_SEGMENTS = 2

/** Flag of `recv(2)`: look, and leave it there. */
const MSG_PEEK = 2

const WANTED_PROTOCOL_FEATURES = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG

/** A connection to a server whose rings run: what is agreed, and all that has to be given back at the end. */
export class Session {
  /** The virtio features agreed on. */
  features = 0n
  memory!: GuestMemory
  /** The part of the memory that is for data. */
  pool!: BufferPool
  queues: readonly QueueData[] = []
  config!: BlockConfig
  /** Called once, when the server hangs up or says that a ring is broken. */
  onEnd: (reason: 'disconnected' | 'broken') => void = () => {}

  readonly #frontEnd: FrontEnd
  readonly #owned: (() => void)[] = []
  readonly #watches: Watch[] = []
  #memoryFile: { readonly fd: number, readonly regions: RegionInit[] } | undefined
  #asking = 0
  #connected = true

  private constructor ({ socketPath, timeout }: ConnectOptions) {
    const fd = unixSocket({ nonBlocking: true })
    try {
      connectUnix(fd, socketPath)
    } catch (error) {
      close(fd)
      throw error
    }
    this.#frontEnd = new FrontEnd(fd, { ...(timeout !== undefined && { timeout }) })
    this.#owned.push(() => this.#frontEnd.close())
    this.#watchHangUp(duplicate(fd))
  }

  /** Connects, agrees on features and starts the rings. @throws LinuxError, VhostUserError, BlockDriverError */
  static async open (options: ConnectOptions): Promise<Session> {
    const { signal } = options
    signal?.throwIfAborted()
    const session = new Session(options)
    const abort = (): void => session.#frontEnd.close()
    signal?.addEventListener('abort', abort)
    try {
      await session.#negotiate(options)
      await session.#startRings()
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
    this.#asking++
    try {
      return (this.config = parseBlockConfig(await this.#frontEnd.getConfig(0, BLOCK_CONFIG_BYTES), this.features))
    } finally {
      this.#asking--
    }
  }

  /** Stops the rings, where the server still listens, and gives everything back. */
  async close (): Promise<void> {
    this.#asking++
    try {
      if (this.#connected) await this.#stopRings()
    } catch {
      // A server that cannot be asked to stop has no hold on what is ours: the connection ends here in any case.
    } finally {
      this.#giveBack()
    }
  }

  async #negotiate (options: ConnectOptions): Promise<void> {
    const { queues = 1, queueSize = 128, memoryBytes = 64 << 20, features: wanted = DRIVER_FEATURES } = options
    if (queueSize < QUEUE_SIZE_MIN) throw new RangeError(`a request has 3 descriptors at least: a queue of ${queueSize} is too small`)
    this.#asking++
    try {
      const offered = await this.#agreeOnProtocol(queues)
      this.features = offered & (wanted | featureMask(VIRTIO_F_VERSION_1))
      if (!hasFeature(this.features, VIRTIO_F_VERSION_1)) throw disagreement('the server does not offer VIRTIO_F_VERSION_1: older devices are not driven')
      if (queues > 1 && !hasFeature(this.features, VIRTIO_BLK_F_MQ)) throw disagreement(`${queues} queues need VIRTIO_BLK_F_MQ`)
      await this.#frontEnd.setFeatures(this.features | TransportFeature.PROTOCOL_FEATURES)
      await this.refreshConfig()
      this.#layOut(queues, queueSize, memoryBytes)
    } finally {
      this.#asking--
    }
  }

  /** @returns the virtio features that the server offers */
  async #agreeOnProtocol (queues: number): Promise<bigint> {
    const frontEnd = this.#frontEnd
    await frontEnd.setOwner()
    const offered = await frontEnd.getFeatures()
    if ((offered & TransportFeature.PROTOCOL_FEATURES) === 0n) throw disagreement('the server has no protocol features: a disk needs CONFIG')
    const protocol = await frontEnd.getProtocolFeatures() & WANTED_PROTOCOL_FEATURES
    if ((protocol & ProtocolFeature.CONFIG) === 0n) throw disagreement('the server has no configuration space: is it a disk?')
    await frontEnd.setProtocolFeatures(protocol)
    const most = (protocol & ProtocolFeature.MQ) === 0n ? 1 : await frontEnd.getQueueNum()
    if (queues > most) throw disagreement(`the server has ${most} queues: ${queues} are asked for`)
    return offered
  }

  /** Makes the memory: for each queue its ring, headers and indirect tables, then the rest for data. */
  #layOut (queues: number, size: number, memoryBytes: number): void {
    const { sizeMax, segmentsMax } = this.config
    const indirect = hasFeature(this.features, VIRTIO_F_INDIRECT_DESC)
    const segments = Math.min(segmentsMax, size - OVERHEAD_SEGMENTS, TABLE_SEGMENTS_MAX) + OVERHEAD_SEGMENTS
    const tableBytes = indirect ? indirectTableBytes(size, segments) : 0
    const queueBytes = toPages(ringBytes(size) + size * REQUEST_BYTES + tableBytes)
    const dataBytes = toPages(memoryBytes)

    const { memory, fd, regions } = GuestMemory.allocate([{ guestAddress: MEMORY_ADDRESS, size: queues * queueBytes + dataBytes }])
    this.#owned.push(() => close(fd), () => memory.release())
    this.memory = memory
    this.#memoryFile = { fd, regions }
    this.pool = new BufferPool(memory, MEMORY_ADDRESS + queues * queueBytes, dataBytes)
    this.queues = Array.from({ length: queues }, (_, index): QueueData => {
      const ringAddress = MEMORY_ADDRESS + index * queueBytes
      const requestAddress = ringAddress + ringBytes(size)
      return {
        memory: memory.toData(),
        layout: layOutRing(ringAddress, size),
        requestAddress,
        indirect: indirect ? { address: requestAddress + size * REQUEST_BYTES, segments } : undefined,
        eventIdx: hasFeature(this.features, VIRTIO_F_EVENT_IDX),
        index: 0,
        kickFd: this.#makeNotifier().fd,
        callFd: this.#makeNotifier().fd,
        sizeMax,
        segmentsMax
      }
    })
  }

  async #startRings (): Promise<void> {
    const frontEnd = this.#frontEnd
    const error = this.#makeNotifier()
    this.#watch(error.fd, () => this.#end('broken'))
    this.#asking++
    try {
      await frontEnd.setMemTable(this.#memoryFile!.regions)
      for (const [index, { layout, kickFd, callFd }] of this.queues.entries()) {
        const { descriptorAddress, availableAddress, usedAddress } = layout
        await frontEnd.setVringNum(index, layout.size)
        await frontEnd.setVringBase(index, 0)
        // The regions' user addresses are their guest addresses.
        await frontEnd.setVringAddr(index, { descriptor: descriptorAddress, available: availableAddress, used: usedAddress })
        await frontEnd.setVringErr(index, error.fd)
        await frontEnd.setVringCall(index, callFd)
        await frontEnd.setVringKick(index, kickFd)
      }
      for (const index of this.queues.keys()) await frontEnd.setVringEnable(index, true)
    } finally {
      this.#asking--
    }
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

  // A server says nothing unless it is asked: what can be read at any other time is the end. Looked at anew, since the
  // reply that made the socket readable may be taken by now.
  #watchHangUp (socket: number): void {
    this.#owned.push(() => close(socket))
    this.#watch(socket, () => {
      const readable = peek(socket)
      if (readable === 'end' || (readable === 'bytes' && this.#asking === 0)) this.#end('disconnected')
    })
  }

  #watch (fd: number, callback: () => void): void {
    const watch = watchReadable(fd, callback)
    watch.unref()
    this.#watches.push(watch)
  }

  #end (reason: 'disconnected' | 'broken'): void {
    if (!this.#connected) return
    this.#connected = false
    this.#stopWatching()
    this.onEnd(reason)
  }

  // What tells of an end stays readable: it would call for ever.
  #stopWatching (): void {
    for (const watch of this.#watches.splice(0)) watch.close()
  }

  #giveBack (): void {
    this.#stopWatching()
    for (const giveBack of this.#owned.splice(0).reverse()) giveBack()
  }
}

function peek (socket: number): 'nothing' | 'bytes' | 'end' {
  try {
    const message = receiveMessage(socket, new Uint8Array(1), 0, MSG_PEEK)
    if (message === undefined) return 'nothing'
    return message.length === 0 ? 'end' : 'bytes'
  } catch {
    // A connection that was reset.
    return 'end'
  }
}

function disagreement (message: string): BlockDriverError {
  return new BlockDriverError('ERR_BLOCK_NEGOTIATION', message)
}

function toPages (bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES
}
