import { decodeTrace, markTrace, TRACE_RECORD_BYTES, type TraceEvent, type TraceSink } from '@node-vmm/virtio-blk-dataplane'
import { createReadStream, createWriteStream, openSync, type WriteStream } from 'node:fs'
import { finished } from 'node:stream/promises'

// A trace file begins with a line of JSON, `TraceHeader`. Records follow, as the data plane makes them: see `decodeTrace`.

/** What tells a trace file from others, and this version of it from others. */
const FORMAT = 'node-vmm-trace-1'
/** Bytes that wait to be written: with more, what the data plane writes stays in its rings, and is lost when they are full. */
const WAITING_MAX = 16 << 20
/** Characters of the longest header: 4096 disks with names of 64. */
const HEADER_MAX = 1 << 19

/** The first line of a trace file. */
export interface TraceHeader {
  readonly format: typeof FORMAT
  /** The disks' names: a record has its disk's place here. */
  readonly disks: readonly string[]
  /** When the file was begun, in microseconds of CLOCK_MONOTONIC, which is the time of records. */
  readonly monotonicMicroseconds: number
  /** The same moment, in milliseconds since 1970. */
  readonly unixMilliseconds: number
}

/** A trace event of a file. */
export interface FiledEvent {
  readonly event: TraceEvent
  readonly disk: string
  /** Since the file was begun. */
  readonly microseconds: number
}

/** A file is no trace file. */
export class TraceFileError extends Error {
  static override readonly name = 'TraceFileError'
  override readonly name = 'TraceFileError'
  readonly code = 'ERR_TRACE_FILE'
}

/** Writes the trace of disks to a file, as it comes. */
export class TraceFile {
  readonly #stream: WriteStream
  #failed = false

  /**
   * Opens the file, anew where there is one.
   *
   * @param onError is told once that no more can be written
   * @throws Error of Node's when it cannot be opened
   */
  constructor (path: string, disks: readonly string[], onError: (error: Error) => void) {
    // At once: in a sandbox it could not be opened any more. Where the guest has its memory is not everybody's to know.
    const fd = openSync(path, 'w', 0o600)
    this.#stream = createWriteStream(path, { fd, highWaterMark: WAITING_MAX })
    this.#stream.on('error', (error) => {
      this.#failed = true
      onError(error)
    })
    const monotonicMicroseconds = Number(process.hrtime.bigint()) / 1e3
    this.#stream.write(`${JSON.stringify({ format: FORMAT, disks, monotonicMicroseconds, unixMilliseconds: Date.now() } satisfies TraceHeader)}\n`)
  }

  /** What takes the trace of one disk, by its place. */
  sinkOf (disk: number): TraceSink & { readonly isFull: boolean } {
    const stream = this.#stream
    return {
      get isFull () { return stream.writableNeedDrain },
      write: (records) => {
        if (this.#failed) return
        markTrace(records, disk)
        stream.write(records)
      }
    }
  }

  /** Writes what waits, and closes the file. */
  async close (): Promise<void> {
    this.#stream.end()
    // Who is to know has been told.
    await finished(this.#stream).catch(() => {})
  }
}

/**
 * The events of a trace file: in order for each thread. A last record that is not whole, as a server that was killed
 * leaves it, is left out.
 *
 * @throws TraceFileError; Error of Node's when it cannot be read
 */
export async function * readTraceFile (path: string): AsyncGenerator<FiledEvent> {
  let header: TraceHeader | undefined
  let rest: Buffer = Buffer.alloc(0)
  for await (const more of createReadStream(path) as AsyncIterable<Buffer>) {
    rest = Buffer.concat([rest, more])
    if (header === undefined) {
      const end = rest.indexOf('\n')
      if (end < 0 && rest.length < HEADER_MAX) continue
      header = parseHeader(path, rest.toString('utf8', 0, Math.max(0, end)))
      rest = rest.subarray(end + 1)
    }
    const whole = rest.length - rest.length % TRACE_RECORD_BYTES
    for (const { event, microseconds, source } of decodeTrace(rest.subarray(0, whole))) {
      yield { event, disk: header.disks[source] ?? String(source), microseconds: microseconds - header.monotonicMicroseconds }
    }
    rest = rest.subarray(whole)
  }
  if (header === undefined) parseHeader(path, '')
}

function parseHeader (path: string, text: string): TraceHeader {
  let header: Partial<TraceHeader> | null = null
  try {
    header = JSON.parse(text)
  } catch {
    // Said below.
  }
  if (header?.format !== FORMAT) throw new TraceFileError(`${path} is no trace of this version: --trace-file makes one.`)
  return header as TraceHeader
}
