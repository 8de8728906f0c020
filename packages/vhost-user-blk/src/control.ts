import { type DataPlane, type DataPlaneState, LatencyHistogram, type QueueStatistics, STOP_TIMEOUT_DEFAULT } from '@node-vmm/virtio-blk-dataplane'
import { bucketsOf, type LatencySummary, summarize } from './latency.ts'
import { isReadOnly, placeOf, type ServedDisk } from './served-disk.ts'

/** What can be asked for over the control socket. */
export const CONTROL_COMMANDS = ['status', 'stats', 'resize', 'pause', 'resume', 'quit'] as const
export type ControlCommand = typeof CONTROL_COMMANDS[number]

/** One line of JSON that a client sends. */
export interface ControlRequest {
  readonly command: ControlCommand
  /** Comes back with the answer. @default none */
  readonly id?: string | number
  /** The name of the disk that is to be resized, paused or resumed. @default the only one */
  readonly disk?: string
  /** For `resize`: the size to have, or `"reread"` to take over what the image has by now. @default 'reread' */
  readonly bytes?: number | 'reread'
}

/** The line of JSON that comes back. */
export type ControlAnswer =
  | { readonly id?: string | number, readonly ok: true, readonly result: unknown }
  | { readonly id?: string | number, readonly ok: false, readonly error: { readonly code: string, readonly message: string } }

/** The result of `status`. */
export interface ProgramStatus {
  readonly version: string
  readonly pid: number
  readonly uptimeSeconds: number
  readonly disks: readonly DiskStatus[]
}

/** One disk in the result of `status`. */
export interface DiskStatus {
  readonly name: string
  readonly image: string
  readonly socket: string
  /** Bytes. */
  readonly capacity: number
  readonly readOnly: boolean
  readonly writeThrough: boolean
  readonly queues: number
  readonly engine: string
  readonly state: DataPlaneState
  /** A front-end is connected. */
  readonly connected: boolean
  /** Requests, in all queues together. */
  readonly inFlight: number
}

/** Counters of disks, which only grow. */
export interface DiskCounters {
  readonly name: string
  readonly queues: readonly (QueueStatistics & { readonly inFlight: number })[]
  /** Of all queues together. */
  readonly latency: LatencyHistogram
}

/** The result of `stats`. */
export interface ProgramStatistics {
  readonly disks: readonly (Pick<DiskCounters, 'name' | 'queues'> & { readonly latency: LatencySummary & { readonly buckets: ReturnType<typeof bucketsOf> } })[]
}

/** A request that cannot be followed; the message says what would do. */
export class ControlError extends Error {
  static override readonly name = 'ControlError'
  override readonly name = 'ControlError'
  readonly code = 'ERR_CONTROL'
}

/** Follows the requests of control clients. */
export class Controls {
  readonly #version: string
  readonly #disks: readonly ServedDisk[]
  readonly #quit: () => void

  constructor (version: string, disks: readonly ServedDisk[], quit: () => void) {
    this.#version = version
    this.#disks = disks
    this.#quit = quit
  }

  /** @throws ControlError, or what the data plane throws */
  async execute (request: ControlRequest): Promise<unknown> {
    switch (request.command) {
      case 'status': return this.#status()
      case 'stats': return this.#statistics()
      case 'resize': return this.#resize(this.#disk(request.disk), request.bytes)
      case 'pause': return pause(this.#disk(request.disk))
      case 'resume': return resume(this.#disk(request.disk))
      case 'quit':
        // The answer goes first.
        setImmediate(this.#quit)
        return {}
    }
  }

  #status (): ProgramStatus {
    return { version: this.#version, pid: process.pid, uptimeSeconds: process.uptime(), disks: this.#disks.map(diskStatus) }
  }

  // Only who asks for it pays for it.
  #statistics (): ProgramStatistics {
    for (const { server } of this.#disks) server.plane.measureLatency(true)
    return {
      disks: countersOf(this.#disks).map(({ latency, ...disk }) => ({ ...disk, latency: { ...summarize(latency), buckets: bucketsOf(latency) } }))
    }
  }

  async #resize ({ name, server }: ServedDisk, bytes: ControlRequest['bytes'] = 'reread'): Promise<unknown> {
    await server.resize(bytes === 'reread' ? undefined : bytes)
    return { disk: name, capacity: server.plane.capacity }
  }

  #disk (name: string | undefined): ServedDisk {
    const found = name === undefined ? this.#disks : this.#disks.filter((disk) => disk.name === name)
    if (found.length === 1) return found[0]!
    const names = this.#disks.map((disk) => disk.name).join(', ')
    throw new ControlError(name === undefined ? `which disk? There are ${names}.` : `no disk is called ${JSON.stringify(name)}: there is ${names}.`)
  }
}

/** The counters of disks as they are now. */
export function countersOf (disks: readonly ServedDisk[]): DiskCounters[] {
  return disks.map(({ name, server: { plane } }) => {
    const { inFlight } = plane
    const queues = Array.from({ length: plane.queues }, (_, queue) => ({ ...plane.statistics(queue), inFlight: inFlight[queue] ?? 0 }))
    return { name, queues, latency: latencyOf(plane) }
  })
}

function latencyOf (plane: DataPlane): LatencyHistogram {
  let latency = new LatencyHistogram()
  for (let queue = 0; queue < plane.queues; queue++) latency = latency.plus(plane.latency(queue))
  return latency
}

function diskStatus ({ name, image, options, server: { plane, listener } }: ServedDisk): DiskStatus {
  return {
    name,
    image,
    socket: placeOf(options),
    capacity: plane.capacity,
    readOnly: isReadOnly(plane),
    writeThrough: plane.writeThrough,
    queues: plane.queues,
    engine: plane.engine.name,
    state: plane.state,
    connected: listener.session !== undefined,
    inFlight: plane.inFlight.reduce((sum, queue) => sum + queue, 0)
  }
}

async function pause ({ name, options, server }: ServedDisk): Promise<unknown> {
  await server.plane.pause({ timeout: options.stopTimeout ?? STOP_TIMEOUT_DEFAULT })
  return { disk: name, state: server.plane.state }
}

function resume ({ name, server }: ServedDisk): unknown {
  server.plane.resume()
  return { disk: name, state: server.plane.state }
}

/**
 * Understands one line of a client's.
 *
 * @throws ControlError with what is wrong
 */
export function parseRequest (line: string): ControlRequest {
  const request = parseObject(line)
  const { command, disk, bytes } = request
  if (!CONTROL_COMMANDS.some((name) => name === command)) {
    throw new ControlError(`a request has one of these as "command": ${CONTROL_COMMANDS.join(', ')}.`)
  }
  if (disk !== undefined && typeof disk !== 'string') throw new ControlError('"disk" is the name of a disk.')
  if (bytes !== undefined && bytes !== 'reread' && !(Number.isSafeInteger(bytes) && (bytes as number) > 0)) {
    throw new ControlError('"bytes" is a number of bytes, or "reread".')
  }
  return request as unknown as ControlRequest
}

function parseObject (line: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    throw new ControlError('a request is one line of JSON.')
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new ControlError('a request is a JSON object.')
  return value as Record<string, unknown>
}
