import type { GuestMemory } from '@node-vmm/hostmem'
import type { VringFault, VringInit } from '@node-vmm/vring'
import { type Disk, type DiskModule, isDiskModule } from './custom-disk.ts'
import type { EngineChoice } from './engine.ts'
import { checkInteger } from './check.ts'
import { DataPlaneError } from './errors.ts'
import type { ImageOptions } from './image.ts'
import { type IoThread, POLL_DEFAULT, POLL_MAX } from './io-thread.ts'
import { VIRTIO_BLK_ID_BYTES } from '@node-vmm/virtio-blk'
import type { Tracer, TraceSink } from './trace.ts'

/** The most queues of one disk. */
export const QUEUES_MAX = 256
/** Milliseconds after which a stop gives up, unless told otherwise. */
export const STOP_TIMEOUT_DEFAULT = 60_000
/** The most segments of one discard or write-zeroes request. */
export const DISCARD_SEGMENTS_MAX = 256

/** A disk and how to serve it: give `path` or `disk`. */
export interface DataPlaneOptions extends Omit<ImageOptions, 'path'> {
  /** A raw image: a file or a block device. @default none: `disk` is given */
  readonly path?: string
  /**
   * A disk of one's own instead of an image, the data plane's to close: itself, to run on the calling thread, whose state
   * it shares; or what opens it on the data-plane thread, by `DataPlane.open`. It has one thread, and none of an image's
   * options but `readOnly`. @default none: `path` is given
   */
  readonly disk?: Disk | DiskModule
  /** Queues that the guest may use, 1 to 256. @default 1 */
  readonly queues?: number
  /** How the kernel is asked for disk I/O. @default 'auto' */
  readonly engine?: EngineChoice
  /** What the guest reads as the disk's serial number: up to 20 bytes. @default '' */
  readonly serial?: string
  /** Data-plane threads, 1 to as many as there are queues. @default 1 */
  readonly threads?: number
  /** The thread of each queue, from 0. @default one after the other, round and round */
  readonly queueThreads?: readonly number[]
  /**
   * A thread to share with other disks, for all queues; with options of its own for processors and polling. Not for a disk
   * of one's own. @default threads of this disk's own
   */
  readonly iothread?: IoThread
  /** Processors to pin each data-plane thread to. @default those of the thread that starts it */
  readonly cpus?: readonly (readonly number[])[]
  /**
   * How long a data-plane thread may look at its rings before it sleeps, in microseconds, 0 to 1000. Within that it
   * adapts: it polls where its sleeps are short, and beside a disk that has requests where these are done sooner by it; or it
   * sleeps in naps there, which keep the processor from sleeping deeply, if that is worth the work. 0: neither.
   * @default 100, about the time that a guest and this thread take to wake each other where processors are virtual
   * (QEMU's iothreads poll for 32)
   */
  readonly pollMaxMicroseconds?: number
  /**
   * Milliseconds that requests in flight have for their end when queues are stopped, unless the call says otherwise, and
   * that a data-plane thread has for any other command (5000 at least); Infinity waits for ever. Then the data plane is
   * given up: see `AbandonedError`. @default 60000: longer than storage takes to fail over, shorter than the 90 s after which systemd kills
   */
  readonly stopTimeout?: number
  /** Every write is stable when it completes, until the guest wants it otherwise. @default false: a flush makes stable what was written */
  readonly writeThrough?: boolean
  /** Segments of one discard or write-zeroes request, 0 (offer neither) to 256. @default 1, as QEMU */
  readonly discardSegments?: number
  /** Offer packed rings. @default false */
  readonly packed?: boolean
  /** Offer to complete requests in the order in which they came: slower where some take longer. @default false */
  readonly inOrder?: boolean
  /** The device passes SCSI commands through. A data plane cannot: it is refused. @default false */
  readonly scsi?: boolean
  /** False makes a data plane that does nothing, for hosts without the kernel features: every call succeeds. @default true */
  readonly dataPlane?: boolean
  /**
   * Measure how long requests take: `latency` of the data plane tells, `measureLatency` changes it later. Costs two looks
   * at the clock a batch of requests, about 50 ns each, and a few nanoseconds a request.
   *
   * @default false
   */
  readonly latency?: boolean
  /** Receives the trace events, one by one or as records in bulk; `setTracer` changes it later. @default none, which costs a branch an event */
  readonly tracer?: Tracer | TraceSink
  /**
   * A disk of one's own failed a request: ERR_DISK, with the disk's error as the `cause` (from another thread, its stack).
   * Failures of the same operation and code are told once in ten seconds. @default none
   */
  readonly onProblem?: (problem: DataPlaneError) => void
  /** A guest broke its ring: the queue stops there until it is stopped and started again. @default none */
  readonly onFault?: (queue: number, fault: VringFault) => void
  /** The data-plane thread died, which is a fault of this software: no request is served any more. @default none */
  readonly onDeath?: (error: DataPlaneError) => void
}

/** A queue to serve: its ring, and how the guest and the device wake each other. */
export interface QueueSetup extends VringInit {
  /** The features that the driver accepted: of the ring and of the disk. */
  readonly features: bigint
  /** Guest memory. Held until the queue is stopped. */
  readonly memory: GuestMemory
  /** An eventfd (or pipe) that the guest's kicks make readable. The caller's to close, after the queue is stopped. */
  readonly kickFd: number
  /** An eventfd (or pipe) that interrupts the guest. @default none: the guest polls */
  readonly callFd?: number | undefined
  /** An eventfd that is notified once when the ring breaks. @default none */
  readonly errorFd?: number | undefined
  /**
   * Host address of `inflightRecordBytes(size)` bytes that outlive this process, `packedInflightRecordBytes(size)` for a
   * packed ring: what a killed one had in flight is done again. @default none
   */
  readonly inflight?: { readonly address: number } | undefined
  /**
   * Host address and bytes of a bitmap in which the pages written are marked, for a migration; and where the used ring's
   * own writes are to be marked. @default none
   */
  readonly log?: {
    readonly address: number
    readonly length: number
    /** Guest address. @default they are not marked; a packed ring's are, at their own address */
    readonly usedAddress?: number | undefined
  } | undefined
}

/** @throws DataPlaneError ERR_OPTION, ERR_SCSI */
export function checkOptions (options: DataPlaneOptions): void {
  checkMedium(options)
  const { queues = 1, threads = 1, queueThreads = [], cpus = [], serial = '', discardSegments = 1, pollMaxMicroseconds = POLL_DEFAULT, scsi = false } = options
  const { stopTimeout = STOP_TIMEOUT_DEFAULT } = options
  checkInteger('queues', queues, 1, QUEUES_MAX)
  checkInteger('threads', threads, 1, queues)
  checkInteger('pollMaxMicroseconds', pollMaxMicroseconds, 0, POLL_MAX)
  if (!(stopTimeout >= 0)) throw new DataPlaneError('ERR_OPTION', `stopTimeout is a number of milliseconds, 0 or more: not ${stopTimeout}`)
  if (options.iothread !== undefined) checkShared(options)
  checkInteger('discardSegments', discardSegments, 0, DISCARD_SEGMENTS_MAX)
  for (const thread of queueThreads) checkInteger('queueThreads', thread, 0, threads - 1)
  if (queueThreads.length !== 0 && queueThreads.length !== queues) {
    throw new DataPlaneError('ERR_OPTION', `queueThreads names the thread of each of the ${queues} queues: not of ${queueThreads.length}`)
  }
  if (cpus.length !== 0 && cpus.length !== threads) {
    throw new DataPlaneError('ERR_OPTION', `cpus names the processors of each of the ${threads} threads: not of ${cpus.length}`)
  }
  if (Buffer.byteLength(serial) > VIRTIO_BLK_ID_BYTES) {
    throw new DataPlaneError('ERR_OPTION', `a serial number has up to ${VIRTIO_BLK_ID_BYTES} bytes: ${JSON.stringify(serial)} has ${Buffer.byteLength(serial)}`)
  }
  if (scsi) throw new DataPlaneError('ERR_SCSI', 'a data plane cannot pass SCSI commands through: switch SCSI passthrough off, or the data plane')
}

/** Options that are about threads of the disk's own. */
const OF_OWN_THREADS = ['threads', 'queueThreads', 'cpus', 'pollMaxMicroseconds'] as const

function checkShared (options: DataPlaneOptions): void {
  const own = OF_OWN_THREADS.find((name) => options[name] !== undefined)
  if (own !== undefined) throw new DataPlaneError('ERR_OPTION', `${own} is for threads of the disk's own: give it to the IoThread that it shares, or leave it out`)
}

/** Options that are about an image, or about how the kernel is asked for its blocks. */
const OF_AN_IMAGE = ['format', 'noFollow', 'direct', 'lock', 'engine', 'iothread'] as const

function checkMedium (options: DataPlaneOptions): void {
  const { path, disk, threads = 1, cpus } = options
  if ((path === undefined) === (disk === undefined)) {
    throw new DataPlaneError('ERR_OPTION', `give a path, of a raw image, or a disk of your own: not ${path === undefined ? 'neither' : 'both'}`)
  }
  if (disk === undefined) return
  const image = OF_AN_IMAGE.find((name) => options[name] !== undefined)
  if (image !== undefined) throw new DataPlaneError('ERR_OPTION', `${image} is for an image: leave it out with a disk of your own`)
  if (threads !== 1) throw new DataPlaneError('ERR_OPTION', `a disk of your own has one thread: not ${threads}`)
  if (isDiskModule(disk)) checkCloneable(disk.options)
  else if (cpus !== undefined) throw new DataPlaneError('ERR_OPTION', 'cpus is for threads of the data plane: this disk runs on yours')
}

function checkCloneable (options: unknown): void {
  try {
    structuredClone(options)
  } catch (cause) {
    throw new DataPlaneError('ERR_OPTION', `the options of a disk module are copied to another thread: ${(cause as Error).message}`, { cause })
  }
}
