// The transmission phase of one connection: requests out, replies in. The clauses "Transmission", "Structured reply
// types" and "Request types" of the specification.
//
// Invariants:
// - A request's memory is the caller's again when its promise settles. Until then it may be read (a write's payload is
//   being sent) or written (a read's target is lent to the socket) by the kernel.
// - Nothing that a server sends is kept: data goes to its place or is dropped, the rest fits in #control.
// - A reply is believed only where it fits a request in flight: slot, sequence number, kind, range.
import { randomInt } from 'node:crypto'
import { Coverage } from './coverage.ts'
import { codeOf, NbdError, quoted, violation } from './errors.ts'
import type { Agreed, ExportInfo } from './handshake.ts'
import {
  NBD_CMD_DISC, NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES, NBD_REPLY_FLAG_DONE,
  NBD_REPLY_FLAG_ERROR, NBD_REPLY_TYPE_ERROR_OFFSET, NBD_REPLY_TYPE_NONE, NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE, NBD_REQUEST_MAGIC, NBD_SIMPLE_REPLY_MAGIC, NBD_STRUCTURED_REPLY_MAGIC, REQUEST_BYTES,
  SIMPLE_REPLY_BYTES, STRING_BYTES_MAX, STRUCTURED_REPLY_BYTES
} from './protocol.ts'
import { lengthOf, type Request, slice } from './request.ts'
import type { Receiver, Transport } from './transport.ts'

/** Requests in flight at once: more would wait in the server. */
const SLOTS = 128
/** A batch ends with the request that exceeds this: what is sent together is answered late together. */
const BATCH_BYTES = 1 << 20
/** Less than this is copied, which is cheaper than a system call of its own. */
const IN_PLACE_BYTES = 4096
/** An error chunk has a message, and fields that may be added to it. */
const ERROR_BYTES_MAX = STRING_BYTES_MAX + 256
/** How long an aborted request may still need its memory; then the connection is ended to get it back. */
const GRACE_MILLISECONDS = 1000
const DISCONNECT_MILLISECONDS = 1000

/** Who owns a connection. */
export interface ConnectionOwner {
  /** The server has done the request: its promise is about to be fulfilled. */
  done (request: Request): void
  /** More requests can be taken. */
  ready (): void
  /** The connection is gone; these were in flight, oldest first. Called once. */
  lost (error: Error, requests: Request[]): void
}

/** A request on its way. */
interface Flight {
  readonly request: Request
  readonly slot: number
  readonly sequence: number
  readonly header: Uint8Array
  /** Of a structured reply. */
  readonly coverage: Coverage
  /** The kernel has all of it. */
  sent: boolean
  /** The reply is complete. */
  answered: boolean
  error: NbdError | undefined
  /** The caller has given up, for this reason. */
  abandoned: { readonly reason: unknown } | undefined
  grace: NodeJS.Timeout | undefined
}

export class Connection implements Receiver {
  readonly info: ExportInfo
  readonly #transport: Transport
  readonly #owner: ConnectionOwner
  readonly #flights: (Flight | undefined)[] = new Array(SLOTS).fill(undefined)
  readonly #free = Array.from({ length: SLOTS }, (_, slot) => SLOTS - 1 - slot)
  readonly #byRequest = new Map<Request, Flight>()
  readonly #headers = new ArrayBuffer(SLOTS * REQUEST_BYTES)
  #sequence = randomInt(0x100000000)
  #batch: Flight[] = []
  #batchBytes = 0
  #isSending = false

  // What is being received: bytes of a header or of a chunk's fields…
  readonly #control = Buffer.alloc(STRUCTURED_REPLY_BYTES + ERROR_BYTES_MAX)
  #have = 0
  #want = 4
  #understand: () => void = () => this.#header()
  // … or data, for a place in a flight's segments.
  #body: Flight | undefined
  #bodyLeft = 0
  #segment = 0
  #segmentOffset = 0
  /** Whose memory the socket has for its next read. */
  #lent: Flight | undefined
  #flight!: Flight
  #isLastChunk = false

  /** @param silence milliseconds without a byte while requests are in flight, after which the server counts as dead; 0 for never */
  constructor ({ transport, info }: Agreed, owner: ConnectionOwner, silence: number) {
    this.info = info
    this.#transport = transport
    this.#owner = owner
    transport.onEnd = (error) => this.#end(error)
    transport.receiver = this
    transport.watchSilence(silence, () => {
      if (this.inFlight > 0) transport.destroy(new Error(`the server has been silent for ${silence} ms, with requests in flight`))
    })
  }

  /** Why it is gone; undefined while it is not. */
  get ended (): Error | undefined {
    return this.#transport.ended
  }

  get inFlight (): number {
    return SLOTS - this.#free.length
  }

  /** A request can be added. */
  get hasRoom (): boolean {
    return !this.#isSending && this.#free.length > 0 && this.#batchBytes < BATCH_BYTES && this.ended === undefined
  }

  /** Takes a request, which goes out with the next {@link Connection.send}. Only where there is room. */
  add (request: Request): void {
    const slot = this.#free.pop()!
    this.#sequence = (this.#sequence + 1) >>> 0
    const header = this.#writeHeader(slot, request)
    const flight: Flight = {
      request, slot, sequence: this.#sequence, header, coverage: new Coverage(request.length), sent: false, answered: false,
      error: undefined, abandoned: undefined, grace: undefined
    }
    this.#flights[slot] = flight
    this.#byRequest.set(request, flight)
    this.#batch.push(flight)
    this.#batchBytes += lengthOf(request.payload)
  }

  /** Sends what was added, in one go. */
  send (): void {
    if (this.#batch.length === 0) return
    const batch = this.#batch
    this.#batch = []
    this.#batchBytes = 0
    this.#isSending = true
    this.#transport.send(batch.flatMap(({ header, request }) => [header, ...request.payload]), () => {
      this.#isSending = false
      for (const flight of batch) this.#sent(flight)
      this.#owner.ready()
    })
  }

  /** The caller of a request gives up, if it is this connection's. It is told so as soon as its memory is out of the kernel's hands. */
  abandon (request: Request, reason: unknown): void {
    const flight = this.#byRequest.get(request)
    if (flight === undefined) return
    flight.abandoned = { reason }
    if (!this.#usesMemory(flight)) return request.fail(reason)
    flight.grace = setTimeout(() => {
      this.#transport.destroy(new Error('an aborted request was still being transferred: its memory had to be given back'))
    }, GRACE_MILLISECONDS)
  }

  /** Tells the server goodbye, and waits until it is gone. What is in flight is lost. */
  async disconnect (): Promise<void> {
    if (this.ended !== undefined) return
    const transport = this.#transport
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => transport.destroy(new Error('closed')), DISCONNECT_MILLISECONDS)
      transport.onEnd = (error) => {
        clearTimeout(timer)
        this.#end(error)
        resolve()
      }
      this.#goodbye()
    })
  }

  // Receiver: memory that the next bytes go straight into.
  target (): Uint8Array | undefined {
    this.#lent = undefined
    const body = this.#body
    if (body === undefined || body.abandoned !== undefined) return undefined
    const segment = body.request.segments[this.#segment]
    const length = Math.min(segment.length - this.#segmentOffset, this.#bodyLeft)
    if (length < IN_PLACE_BYTES) return undefined
    this.#lent = body
    return segment.subarray(this.#segmentOffset, this.#segmentOffset + length)
  }

  filled (count: number): void {
    const flight = this.#lent!
    this.#lent = undefined
    this.#advance(count)
    this.#releaseAbandoned(flight)
    if (this.#bodyLeft === 0) this.#endBody()
  }

  received (bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length && this.ended === undefined;) {
      at += this.#body === undefined ? this.#takeControl(bytes, at) : this.#takeBody(bytes, at)
    }
  }

  #takeControl (bytes: Uint8Array, at: number): number {
    const count = Math.min(this.#want - this.#have, bytes.length - at)
    this.#control.set(bytes.subarray(at, at + count), this.#have)
    this.#have += count
    if (this.#have === this.#want) this.#understand()
    return count
  }

  #takeBody (bytes: Uint8Array, at: number): number {
    const flight = this.#body!
    let count = Math.min(this.#bodyLeft, bytes.length - at)
    if (flight.abandoned !== undefined) {
      this.#bodyLeft -= count
    } else {
      const segment = flight.request.segments[this.#segment]
      count = Math.min(count, segment.length - this.#segmentOffset)
      segment.set(bytes.subarray(at, at + count), this.#segmentOffset)
      this.#advance(count)
    }
    if (this.#bodyLeft === 0) this.#endBody()
    return count
  }

  #header (): void {
    const magic = this.#control.readUInt32BE(0)
    if (magic === NBD_SIMPLE_REPLY_MAGIC) return this.#wantMore(SIMPLE_REPLY_BYTES, () => this.#simpleReply())
    if (magic === NBD_STRUCTURED_REPLY_MAGIC && this.info.structuredReplies) return this.#wantMore(STRUCTURED_REPLY_BYTES, () => this.#chunk())
    throw violation(`a reply begins with 0x${magic.toString(16)}`)
  }

  #simpleReply (): void {
    const flight = this.#inFlight(8)
    const { request } = flight
    const value = this.#control.readUInt32BE(4)
    if (request.isRead && this.info.structuredReplies) throw violation('a simple reply to a read, where structured ones were agreed on')
    if (value !== 0) {
      flight.error = failure(request, value)
    } else if (request.isRead) {
      flight.coverage.add(0, request.length)
      return this.#beginBody(flight, 0, request.length, true)
    }
    this.#answer(flight)
    this.#nextReply()
  }

  #chunk (): void {
    const flags = this.#control.readUInt16BE(4)
    const type = this.#control.readUInt16BE(6)
    const flight = this.#flight = this.#inFlight(8)
    const length = this.#control.readUInt32BE(16)
    this.#isLastChunk = (flags & NBD_REPLY_FLAG_DONE) !== 0
    if (type === NBD_REPLY_TYPE_NONE) {
      if (length !== 0 || !this.#isLastChunk) throw violation(`a chunk of type NONE with ${length} bytes, ${this.#isLastChunk ? '' : 'not '}the last`)
      this.#endChunk()
    } else if ((type & NBD_REPLY_FLAG_ERROR) !== 0) {
      if (length < 6 || length > ERROR_BYTES_MAX) throw violation(`an error chunk of ${length} bytes`)
      this.#wantMore(STRUCTURED_REPLY_BYTES + length, () => this.#errorChunk(type, length))
    } else if (type === NBD_REPLY_TYPE_OFFSET_DATA && flight.request.isRead) {
      if (length < 9) throw violation(`a data chunk of ${length} bytes`)
      this.#wantMore(STRUCTURED_REPLY_BYTES + 8, () => this.#dataChunk(length - 8))
    } else if (type === NBD_REPLY_TYPE_OFFSET_HOLE && flight.request.isRead) {
      if (length !== 12) throw violation(`a hole chunk of ${length} bytes`)
      this.#wantMore(STRUCTURED_REPLY_BYTES + 12, () => this.#holeChunk())
    } else {
      throw violation(`a chunk of type ${type} in reply to ${nameOf(flight.request)}`)
    }
  }

  #dataChunk (length: number): void {
    this.#beginBody(this.#flight, this.#cover(length), length, this.#isLastChunk)
  }

  #holeChunk (): void {
    const length = this.#control.readUInt32BE(STRUCTURED_REPLY_BYTES + 8)
    const start = this.#cover(length)
    if (this.#flight.abandoned === undefined) for (const piece of slice(this.#flight.request.segments, start, length)) piece.fill(0)
    this.#endChunk()
  }

  #errorChunk (type: number, length: number): void {
    const fields = this.#control.subarray(STRUCTURED_REPLY_BYTES, STRUCTURED_REPLY_BYTES + length)
    const value = fields.readUInt32BE(0)
    const end = 6 + fields.readUInt16BE(4)
    if (value === 0) throw violation('an error chunk that says success')
    if (end + (type === NBD_REPLY_TYPE_ERROR_OFFSET ? 8 : 0) > length) throw violation('the message of an error is longer than its chunk')
    // The first one counts: those that follow are of other offsets.
    this.#flight.error ??= failure(this.#flight.request, value, fields.subarray(6, end))
    this.#endChunk()
  }

  /** Where in the request a content chunk begins. Its range is answered now. */
  #cover (length: number): number {
    const { request, coverage } = this.#flight
    const high = this.#control.readUInt32BE(STRUCTURED_REPLY_BYTES)
    const start = high * 0x100000000 + this.#control.readUInt32BE(STRUCTURED_REPLY_BYTES + 4) - request.offset
    if (!coverage.add(start, length)) {
      throw violation(`a chunk of ${length} bytes at ${start} of a read of ${request.length}: outside, a second time, or one of too many`)
    }
    return start
  }

  #beginBody (flight: Flight, start: number, length: number, isLast: boolean): void {
    this.#flight = flight
    this.#isLastChunk = isLast
    this.#body = flight
    this.#bodyLeft = length
    const { segments } = flight.request
    for (this.#segment = 0; start >= segments[this.#segment].length; this.#segment++) start -= segments[this.#segment].length
    this.#segmentOffset = start
  }

  #advance (count: number): void {
    const { segments } = this.#body!.request
    this.#bodyLeft -= count
    this.#segmentOffset += count
    while (this.#bodyLeft > 0 && this.#segmentOffset === segments[this.#segment].length) {
      this.#segment++
      this.#segmentOffset = 0
    }
  }

  #endBody (): void {
    this.#body = undefined
    this.#endChunk()
  }

  #endChunk (): void {
    if (this.#isLastChunk) this.#answer(this.#flight)
    this.#nextReply()
  }

  #nextReply (): void {
    this.#have = 0
    this.#wantMore(4, () => this.#header())
  }

  #wantMore (bytes: number, understand: () => void): void {
    this.#want = bytes
    this.#understand = understand
  }

  /** The request that the cookie in the control bytes is of. */
  #inFlight (at: number): Flight {
    const sequence = this.#control.readUInt32BE(at)
    const flight = this.#flights[this.#control.readUInt32BE(at + 4)]
    if (flight === undefined || flight.sequence !== sequence || flight.answered) throw violation('a reply to a request that is not in flight')
    return flight
  }

  #answer (flight: Flight): void {
    const { request } = flight
    if (flight.error === undefined && request.isRead && !flight.coverage.isComplete) throw violation('a read that was answered in part')
    flight.answered = true
    if (flight.error?.code === 'ESHUTDOWN') this.#shutDown(flight)
    // A server may answer the first requests of a batch while the last are being sent.
    else if (flight.sent) this.#finish(flight)
  }

  #sent (flight: Flight): void {
    flight.sent = true
    this.#releaseAbandoned(flight)
    if (flight.answered && this.#byRequest.has(flight.request)) this.#finish(flight)
  }

  #finish (flight: Flight): void {
    const { request, error } = flight
    this.#flights[flight.slot] = undefined
    this.#byRequest.delete(request)
    this.#free.push(flight.slot)
    clearTimeout(flight.grace)
    if (!request.settled) {
      if (flight.abandoned !== undefined) {
        request.fail(flight.abandoned.reason)
      } else if (error !== undefined) {
        request.fail(error)
      } else {
        this.#owner.done(request)
        request.succeed()
      }
    }
    this.#owner.ready()
  }

  /** The specification: a client that is told ESHUTDOWN disconnects. */
  #shutDown (flight: Flight): void {
    this.#goodbye()
    this.#transport.destroy(flight.error!)
  }

  #goodbye (): void {
    const bytes = new Uint8Array(REQUEST_BYTES)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, NBD_REQUEST_MAGIC)
    view.setUint16(6, NBD_CMD_DISC)
    this.#transport.finish([bytes])
  }

  #usesMemory (flight: Flight): boolean {
    return this.#lent === flight || (!flight.sent && flight.request.payload.length > 0)
  }

  #releaseAbandoned (flight: Flight): void {
    if (flight.abandoned === undefined || flight.request.settled || this.#usesMemory(flight)) return
    clearTimeout(flight.grace)
    flight.request.fail(flight.abandoned.reason)
  }

  #end (error: Error): void {
    const flights = [...this.#byRequest.values()]
    this.#byRequest.clear()
    for (const { request, abandoned, grace } of flights) {
      clearTimeout(grace)
      if (abandoned !== undefined) request.fail(abandoned.reason)
    }
    this.#owner.lost(error, flights.filter(({ request }) => !request.settled).map(({ request }) => request))
  }

  #writeHeader (slot: number, request: Request): Uint8Array {
    const view = new DataView(this.#headers, slot * REQUEST_BYTES, REQUEST_BYTES)
    view.setUint32(0, NBD_REQUEST_MAGIC)
    view.setUint16(4, request.flags)
    view.setUint16(6, request.type)
    view.setUint32(8, this.#sequence)
    view.setUint32(12, slot)
    view.setUint32(16, Math.floor(request.offset / 0x100000000))
    view.setUint32(20, request.offset >>> 0)
    view.setUint32(24, request.length)
    return new Uint8Array(this.#headers, slot * REQUEST_BYTES, REQUEST_BYTES)
  }
}

const names = new Map([
  [NBD_CMD_READ, 'read'], [NBD_CMD_WRITE, 'write'], [NBD_CMD_FLUSH, 'flush'], [NBD_CMD_TRIM, 'trim'], [NBD_CMD_WRITE_ZEROES, 'write zeroes']
])

function nameOf (request: Request): string {
  return names.get(request.type)!
}

function failure (request: Request, value: number, words: Uint8Array = new Uint8Array()): NbdError {
  const code = codeOf(value)
  const said = words.length > 0 ? `, and says ${quoted(words)}` : ''
  const where = request.type === NBD_CMD_FLUSH ? '' : ` of ${request.length} bytes at ${request.offset}`
  return new NbdError(code, `${nameOf(request)}${where}: the server answers ${code}${said}`)
}

