import { allocateTraceRing, TraceReader, TraceWriter } from './trace-ring.ts'
import { decodeTrace, type Tracer, type TraceSink } from './trace.ts'

/** Milliseconds between two looks at the rings. */
const INTERVAL = 10
/** Records of the calling thread's own events, which are collected at once. */
const OWN_RECORDS = 16

/** The trace of a data plane as its control plane has it: takes what its threads write, each to a ring of its own. */
export class TraceCollector {
  #sink: TraceSink | undefined
  /** By thread. */
  readonly #rings = new Map<number, TraceReader>()
  #timer: NodeJS.Timeout | undefined

  constructor (tracer: Tracer | TraceSink | undefined) {
    this.#sink = asSink(tracer)
  }

  /** Has the events that come from now on go elsewhere, or nowhere. Those that came are collected first. */
  setTracer (tracer: Tracer | TraceSink | undefined): void {
    this.collect()
    this.#sink = asSink(tracer)
  }

  /** The ring that a thread is to write to, a new one where it has none; undefined where nobody wants the trace. */
  ringOf (thread: number): SharedArrayBuffer | undefined {
    if (this.#sink === undefined) return undefined
    let ring = this.#rings.get(thread)
    if (ring === undefined) {
      ring = new TraceReader(allocateTraceRing())
      this.#rings.set(thread, ring)
      this.#timer ??= setInterval(() => { if (this.#sink?.isFull !== true) this.collect() }, INTERVAL).unref()
    }
    return ring.state
  }

  /** Delivers what the threads have written so far. */
  collect (): void {
    for (const ring of this.#rings.values()) this.#deliver(ring)
  }

  /** Delivers the last that was written: the threads have stopped to write. */
  end (): void {
    for (const ring of this.#rings.values()) {
      this.#deliver(ring)
      new TraceWriter(ring.state).settle()
      this.#deliver(ring)
    }
    this.#rings.clear()
    this.#rest()
  }

  /** Delivers what is left of a thread's ring, which the thread may still write to, and takes no more of it. */
  abandon (thread: number): void {
    const ring = this.#rings.get(thread)
    if (ring !== undefined) this.#deliver(ring)
    this.#rings.delete(thread)
    if (this.#rings.size === 0) this.#rest()
  }

  /** Delivers an event of the calling thread. */
  write (event: (writer: TraceWriter) => void): void {
    if (this.#sink === undefined) return
    const ring = new TraceReader(allocateTraceRing(OWN_RECORDS))
    event(new TraceWriter(ring.state))
    this.#deliver(ring)
  }

  #rest (): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #deliver (ring: TraceReader): void {
    const records = ring.take()
    if (records !== undefined) this.#sink?.write(records)
  }
}

function asSink (tracer: Tracer | TraceSink | undefined): TraceSink | undefined {
  if (typeof tracer !== 'function') return tracer
  return { write: (records) => { for (const { event, microseconds } of decodeTrace(records)) tracer(event, microseconds) } }
}
