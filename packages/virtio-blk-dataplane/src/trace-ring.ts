import { monotonicClock } from './clock.ts'
import {
  COMPLETE_REQUEST, EVENT, FIRST, HEAD, LOST, PROCESS_REQUEST, QUEUE, RECORD_HALVES, RECORD_NUMBERS, SECOND, START, STOP, THIRD, TIME,
  TRACE_RECORD_BYTES, VRING_SETUP
} from './trace.ts'

// Records of one thread on their way to another, in shared memory. The invariants:
// - One writer, one reader. `WRITTEN` and `READ` count records, modulo 2^32: WRITTEN - READ of them are the reader's, the
//   rest of the ring is the writer's. Neither touches what is the other's: no record is ever seen half written.
// - A record is filled before `WRITTEN` passes it, and copied before `READ` does: both go through Atomics, sequentially
//   consistent, so that what was done before is seen to be done.
// - Nobody waits. Where there is no room the event is not written, but counted; the next record that is written comes
//   behind one that says how many there were. `MISSED` has what no record says yet.
// - Writing allocates nothing.

// 32-bit words, each in a cache line of its own, before the records.
const WRITTEN = 0
const READ = 16
const MISSED = 32
const HEADER_BYTES = 192

/** Records of a ring: a power of two. A thread that does its utmost fills it in some 40 ms. */
const RECORDS = 1 << 15

/** Shared memory for a ring. @param records a power of two, 2 or more. @default 32768 */
export function allocateTraceRing (records = RECORDS): SharedArrayBuffer {
  return new SharedArrayBuffer(HEADER_BYTES + records * TRACE_RECORD_BYTES)
}

function recordsOf (state: SharedArrayBuffer): number {
  return (state.byteLength - HEADER_BYTES) / TRACE_RECORD_BYTES
}

/** The end of a ring that a thread writes its trace events to. It may be another one than before: it goes on where that was. */
export class TraceWriter {
  readonly #words: Int32Array
  readonly #numbers: Float64Array
  readonly #halves: Uint16Array
  readonly #records: number
  #written: number
  #missed: number
  readonly #clock = monotonicClock()
  readonly #now = new Float64Array(1)

  constructor (state: SharedArrayBuffer) {
    this.#words = new Int32Array(state, 0, HEADER_BYTES / 4)
    this.#numbers = new Float64Array(state, HEADER_BYTES)
    this.#halves = new Uint16Array(state, HEADER_BYTES)
    this.#records = recordsOf(state)
    this.#written = this.#words[WRITTEN]!
    this.#missed = this.#words[MISSED]!
  }

  start (queues: number): void {
    this.#clock(this.#now, 0)
    if (this.#hasRoom()) this.#write(this.#now, START, 0, 0, queues, 0, 0)
  }

  stop (): void {
    this.#clock(this.#now, 0)
    if (this.#hasRoom()) this.#write(this.#now, STOP, 0, 0, 0, 0, 0)
  }

  vringSetup (queue: number, descriptorAddress: number, availableAddress: number, usedAddress: number, index: number): void {
    this.#clock(this.#now, 0)
    if (this.#hasRoom()) this.#write(this.#now, VRING_SETUP, queue, index, descriptorAddress, availableAddress, usedAddress)
  }

  /** @param now the time, in microseconds: as a number it would be an object */
  processRequest (now: Float64Array, queue: number, head: number, readable: number, writable: number): void {
    if (this.#hasRoom()) this.#write(now, PROCESS_REQUEST, queue, head, readable, writable, 0)
  }

  completeRequest (now: Float64Array, queue: number, head: number, result: number): void {
    if (this.#hasRoom()) this.#write(now, COMPLETE_REQUEST, queue, head, result, 0, 0)
  }

  /** Says what was missed and no record says yet: for who knows that the ring is empty, and that nobody else writes. */
  settle (): void {
    if (this.#missed === 0) return
    this.#clock(this.#now, 0)
    this.#writeLost(this.#now)
  }

  /** Whether there is room for a record, and for one more where that has to say what was missed; else one more is missed. */
  #hasRoom (): boolean {
    const room = this.#records - ((this.#written - Atomics.load(this.#words, READ)) | 0)
    if (room > (this.#missed === 0 ? 0 : 1)) return true
    this.#missed++
    this.#words[MISSED] = this.#missed
    return false
  }

  #write (now: Float64Array, event: number, queue: number, head: number, first: number, second: number, third: number): void {
    if (this.#missed > 0) this.#writeLost(now)
    const record = this.#written & (this.#records - 1)
    const number = record * RECORD_NUMBERS
    this.#numbers[number + TIME] = now[0]!
    const half = record * RECORD_HALVES
    this.#halves[half + EVENT] = event
    this.#halves[half + QUEUE] = queue
    this.#halves[half + HEAD] = head
    this.#numbers[number + FIRST] = first
    this.#numbers[number + SECOND] = second
    this.#numbers[number + THIRD] = third
    this.#written = (this.#written + 1) | 0
    Atomics.store(this.#words, WRITTEN, this.#written)
  }

  #writeLost (now: Float64Array): void {
    const missed = this.#missed
    this.#words[MISSED] = this.#missed = 0
    this.#write(now, LOST, 0, 0, missed, 0, 0)
  }
}

/** The other end. */
export class TraceReader {
  /** For the writer. */
  readonly state: SharedArrayBuffer
  readonly #words: Int32Array
  readonly #bytes: Uint8Array
  readonly #records: number

  constructor (state: SharedArrayBuffer) {
    this.state = state
    this.#words = new Int32Array(state, 0, HEADER_BYTES / 4)
    this.#bytes = new Uint8Array(state, HEADER_BYTES)
    this.#records = recordsOf(state)
  }

  /** Takes what is there, oldest first; undefined where there is nothing. */
  take (): Uint8Array | undefined {
    const written = Atomics.load(this.#words, WRITTEN)
    const read = this.#words[READ]!
    const count = (written - read) | 0
    if (count === 0) return undefined
    const from = read & (this.#records - 1)
    const toEnd = Math.min(count, this.#records - from)
    const taken = new Uint8Array(count * TRACE_RECORD_BYTES)
    taken.set(this.#piece(from, toEnd))
    taken.set(this.#piece(0, count - toEnd), toEnd * TRACE_RECORD_BYTES)
    Atomics.store(this.#words, READ, written)
    return taken
  }

  #piece (from: number, count: number): Uint8Array {
    return this.#bytes.subarray(from * TRACE_RECORD_BYTES, (from + count) * TRACE_RECORD_BYTES)
  }
}
