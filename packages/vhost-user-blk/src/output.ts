import type { TraceEvent } from '@node-vmm/virtio-blk-dataplane'
import { bars, BARS_HEAD, duration, summarize } from './latency.ts'
import type { DiskRates, RateMeter } from './rates.ts'
import { isReadOnly, placeOf, type ServedDisk } from './served-disk.ts'
import { formatTable } from './table.ts'
import type { FiledEvent } from './trace-file.ts'

/** What the program writes to. */
export interface OutputStream {
  readonly isTTY?: boolean
  /** Lines of the terminal. */
  readonly rows?: number
  /** Characters of a line. */
  readonly columns?: number
  write (text: string): unknown
}

/** What the program says: for people, or (`json`) a line of JSON each for scripts. */
export class Output {
  readonly #json: boolean
  readonly #stdout: OutputStream
  readonly #stderr: OutputStream
  /** Lines of the table that stands at the end of the terminal. */
  #tableLines = 0

  constructor (json: boolean, stdout: OutputStream = process.stdout, stderr: OutputStream = process.stderr) {
    this.#json = json
    this.#stdout = stdout
    this.#stderr = stderr
  }

  /** What an operator should know. */
  log (message: string): void {
    this.#eraseTable()
    this.#stderr.write(this.#json ? line({ event: 'log', message }) : `vhost-user-blk: ${message}\n`)
  }

  /** A disk is served from now on. */
  ready (disk: ServedDisk): void {
    this.#stdout.write(this.#json ? line({ event: 'ready', ...readyFields(disk) }) : `${readyLine(disk)}\n`)
  }

  /** Something that a data plane traces. */
  trace (event: TraceEvent, microseconds: number): void {
    if (this.#json) this.#stderr.write(line({ event: 'trace', microseconds, ...event }))
    else this.log(eventText(event))
  }

  /** What disks did in an interval: on a terminal in place of what they did before. */
  statistics ({ seconds, disks }: ReturnType<RateMeter['sample']>): void {
    if (this.#json) this.#stdout.write(line({ event: 'stats', seconds, disks: disks.map((disk) => ({ ...disk, latency: summarize(disk.latency) })) }))
    else if (this.#stdout.isTTY === true) this.#drawTable(disks)
    else for (const disk of disks) this.#stdout.write(`${statisticsLine(disk)}\n`)
  }

  // No higher than the terminal, nor wider: a line that is broken in two could not be found again.
  #drawTable (disks: readonly DiskRates[]): void {
    const { rows = 24, columns = 80 } = this.#stdout
    const lines = `${statisticsTable(disks)}\n\n${latencyTable(disks)}`.split('\n').slice(0, Math.max(rows - 1, 1)).map((text) => text.slice(0, columns))
    this.#eraseTable()
    this.#stdout.write(`${lines.join('\n')}\n`)
    this.#tableLines = lines.length
  }

  #eraseTable (): void {
    if (this.#tableLines > 0) this.#stdout.write(`\x1b[${this.#tableLines}A\x1b[J`)
    this.#tableLines = 0
  }
}

/** A line of a trace file: the seconds since it was begun, the disk, and what happened. */
export function filedLine ({ event, disk, microseconds }: FiledEvent, json: boolean): string {
  return json ? line({ disk, microseconds, ...event }) : `${(microseconds / 1e6).toFixed(6)} ${disk} ${eventText(event)}\n`
}

function eventText ({ name, ...fields }: TraceEvent): string {
  return [name, ...Object.entries(fields).map(([key, value]) => `${key}=${key.endsWith('Address') ? hex(value) : value}`)].join(' ')
}

function line (value: object): string {
  return `${JSON.stringify(value)}\n`
}

function hex (address: number): string {
  return `0x${address.toString(16)}`
}

function readyFields ({ name, image, options, server: { plane } }: ServedDisk) {
  return {
    name,
    image,
    socket: placeOf(options),
    capacity: plane.capacity,
    readOnly: isReadOnly(plane),
    queues: plane.queues,
    engine: plane.engine.name
  }
}

function readyLine (disk: ServedDisk): string {
  const { image, socket, capacity, readOnly, queues, engine } = readyFields(disk)
  return `ready: ${image} (${capacity} bytes, ${readOnly ? 'read-only' : 'read-write'}, ${queues === 1 ? '1 queue' : `${queues} queues`}, ${engine}) on ${socket}`
}

function statisticsTable (disks: readonly DiskRates[]): string {
  const head = ['disk', 'IOPS', 'read', 'written', 'in flight', 'kicks/IO', 'interrupts/IO', 'errors']
  return formatTable([head, ...disks.map((disk) => [
    disk.name, Math.round(disk.requestsPerSecond), throughput(disk.bytesReadPerSecond), throughput(disk.bytesWrittenPerSecond), disk.inFlight,
    disk.kicksPerRequest.toFixed(2), disk.interruptsPerRequest.toFixed(2), disk.errors
  ])])
}

function latencyTable (disks: readonly DiskRates[]): string {
  const head = ['latency', 'p50', 'p99', 'p99.9', 'max', BARS_HEAD]
  return formatTable([head, ...disks.map(({ name, latency }) => [name, ...percentiles(latency), bars(latency)])])
}

function percentiles (latency: DiskRates['latency']): string[] {
  const { p50, p99, p999, max } = summarize(latency)
  return [p50, p99, p999, max].map(duration)
}

function statisticsLine (disk: DiskRates): string {
  return `${disk.name}: ${Math.round(disk.requestsPerSecond)} IOPS, ${throughput(disk.bytesReadPerSecond)} read, ` +
    `${throughput(disk.bytesWrittenPerSecond)} written, ${disk.inFlight} in flight, ${disk.kicksPerRequest.toFixed(2)} kicks and ` +
    `${disk.interruptsPerRequest.toFixed(2)} interrupts a request, ${disk.errors} errors${latencyPart(disk.latency)}`
}

function latencyPart (latency: DiskRates['latency']): string {
  if (latency.count === 0) return ''
  const [p50, p99, p999, max] = percentiles(latency)
  return `, latency p50 ${p50}, p99 ${p99}, p99.9 ${p999}, max ${max}`
}

const UNITS = ['B/s', 'KiB/s', 'MiB/s', 'GiB/s'] as const

function throughput (bytesPerSecond: number): string {
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log2(Math.max(1, bytesPerSecond)) / 10))
  return `${(bytesPerSecond / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${UNITS[power]}`
}
