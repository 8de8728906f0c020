import { GuestMemory, type RegionInit } from '@node-vmm/hostmem'
import { close, eventfd, ftruncate, memfdCreate, unixSocketPair } from '@node-vmm/libc'
import { readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs'
import {
  BackEndSession, FrontEnd, OFFERED_PROTOCOL_FEATURES, TransportFeature, type BackEndOptions, type FrontEndOptions,
  type QueueSetup, type RegionDescription, type VhostUserDevice
} from '../../src/index.ts'

/** Where the tests' front-end claims to have the guest's memory. */
export const USER_BASE = 0x7f0000000000
/** Guest address of the tests' memory. */
export const GUEST_BASE = 0x40000000

/** VIRTIO_F_VERSION_1. */
export const VERSION_1 = 1n << 32n
/** VIRTIO_F_RING_PACKED. */
export const PACKED = 1n << 34n

/** A device that writes down what is asked of it, and does nothing. */
export class RecordingDevice implements VhostUserDevice {
  features = (1n << 32n) | (1n << 29n) | (1n << 9n)
  queueCount = 2
  logsDirtyPages = true
  config: Uint8Array = Uint8Array.from({ length: 60 }, (_, index) => index + 1)
  readonly log: string[] = []
  readonly queues = new Map<number, QueueSetup>()
  /** What a stop adds to the index that a queue was started at: buffers "taken" meanwhile. */
  taken = 0
  refuseStart = false
  onStop: () => Promise<void> = async () => {}

  getConfig (): Uint8Array {
    return this.config
  }

  inflightBytes (queueSize: number, features: bigint): number {
    return (features & PACKED) === 0n ? Math.ceil((16 + 16 * queueSize) / 64) * 64 : 0
  }

  setConfig (offset: number, data: Uint8Array, live: boolean): boolean {
    this.log.push(`config ${offset} ${[...data].join()}${live ? ' live' : ''}`)
    return offset === 32 && data.length === 1
  }

  setFeatures (features: bigint): void {
    this.log.push(`features 0x${features.toString(16)}`)
  }

  startQueue (index: number, queue: QueueSetup): void {
    if (this.refuseStart) throw new Error('the ring is crooked')
    this.queues.set(index, queue)
    const at = [queue.descriptorAddress, queue.availableAddress, queue.usedAddress].map((address) => (address - GUEST_BASE).toString(16)).join()
    const extras = `${queue.inflight === undefined ? '' : ' recorded'}${queue.log === undefined ? '' : ' logged'}`
    this.log.push(`start ${index} size ${queue.size} at ${at} base ${queue.base}${extras}`)
  }

  async stopQueue (index: number): Promise<number> {
    await this.onStop()
    this.log.push(`stop ${index}`)
    const queue = this.queues.get(index)!
    this.queues.delete(index)
    return queue.base + this.taken
  }

  setCall (index: number, fd: number | undefined): void {
    this.log.push(`call ${index} ${fd === undefined ? 'none' : 'replaced'}`)
  }

  reset (): void {
    this.log.push('reset')
  }

  /** What was written down since the last look. */
  look (): string[] {
    return this.log.splice(0)
  }
}

export interface Pair {
  readonly front: FrontEnd
  readonly session: BackEndSession
  readonly device: RecordingDevice
  readonly problems: string[]
}

/** A front-end and a session on the two ends of a socket pair. */
export function connect (options: BackEndOptions = {}, device = new RecordingDevice(), frontOptions: FrontEndOptions = {}): Pair {
  const [ours, theirs] = unixSocketPair()
  const problems: string[] = []
  const session = new BackEndSession(theirs, device, { onProblem: ({ message }) => problems.push(message), ...options })
  return { front: new FrontEnd(ours, { timeout: 60_000, ...frontOptions }), session, device, problems }
}

/** What `guestMemory` gives. */
export interface Ram {
  readonly memory: GuestMemory
  readonly regions: RegionInit[]
  /** The same as they stand in a message. */
  readonly descriptions: RegionDescription[]
  close (): void
}

/** Guest memory of 64 KiB, as a front-end passes it on. */
export function guestMemory (size = 0x10000): Ram {
  const { memory, fd, regions } = GuestMemory.allocate([{ guestAddress: GUEST_BASE, size }])
  return {
    memory,
    regions: regions.map((region) => ({ ...region, userAddress: USER_BASE })),
    descriptions: [{ guestAddress: GUEST_BASE, size, userAddress: USER_BASE, offset: 0 }],
    close () {
      memory.release()
      close(fd)
    }
  }
}

/** The three addresses of a ring somewhere in `guestMemory`, as the front-end says them. */
export function ringAddresses (index = 0): { descriptor: number, available: number, used: number } {
  const at = USER_BASE + index * 0x4000
  return { descriptor: at, available: at + 0x1000, used: at + 0x2000 }
}

/** Opens eventfds and closes them all. */
export class Eventfds {
  readonly #open: number[] = []

  make (): number {
    const fd = eventfd()
    this.#open.push(fd)
    return fd
  }

  close (): void {
    for (const fd of this.#open.splice(0)) close(fd)
  }
}

/** All that a ring needs to run, in a session with all protocol features. */
export async function startRing ({ front }: Pair, ram: Ram, fds: Eventfds, index = 0, features = VERSION_1): Promise<{ kick: number, call: number, error: number }> {
  const [kick, call, error] = [fds.make(), fds.make(), fds.make()]
  await front.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
  await front.setFeatures(features | TransportFeature.PROTOCOL_FEATURES)
  await front.setMemTable(ram.regions)
  await front.setVringErr(index, error)
  await front.setVringCall(index, call)
  await front.setVringNum(index, 128)
  await front.setVringAddr(index, ringAddresses(index))
  await front.setVringBase(index, 5)
  await front.setVringKick(index, kick)
  await front.setVringEnable(index, true)
  return { kick, call, error }
}

/** A file in memory of so many bytes, zeros. */
export function memoryFile (bytes: number): number {
  const fd = memfdCreate('test')
  ftruncate(fd, bytes)
  return fd
}

/** What an eventfd was signalled, 0 when it was not. */
export function counter (fd: number): number {
  const bytes = Buffer.alloc(8)
  try {
    readSync(fd, bytes)
  } catch {
    return 0
  }
  return Number(bytes.readBigUInt64LE())
}

/** What this process has open, but for the runtime's own. */
export function openDescriptors (): string[] {
  return readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  }).filter((target) => /^(socket|pipe|\/memfd|anon_inode:\[eventfd)/.test(target)).sort()
}

/** How many mappings of files in memory this process has: the guest's, logs, records. */
export function mappings (): number {
  return readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => line.includes('/memfd:')).length
}
