/** The trace events of the 2012 data plane, by their old names, with what each says; and one more, of the trace itself. */
export type TraceEvent =
  /** The data-plane thread serves its queues. */
  | { readonly name: 'virtio_blk_data_plane_start', readonly queues: number }
  /** It does no longer. */
  | { readonly name: 'virtio_blk_data_plane_stop' }
  /** A ring was set up: its parts' guest addresses, and the index that it begins at. */
  | { readonly name: 'vring_setup', readonly queue: number, readonly descriptorAddress: number, readonly availableAddress: number, readonly usedAddress: number, readonly index: number }
  /** A request was taken off the ring: its segments to read and to write, and its name. */
  | { readonly name: 'virtio_blk_data_plane_process_request', readonly queue: number, readonly readable: number, readonly writable: number, readonly head: number }
  /** A request is complete: bytes moved or a negative error number. */
  | { readonly name: 'virtio_blk_data_plane_complete_request', readonly queue: number, readonly head: number, readonly result: number }
  /** So many events of this thread are missing here: whoever takes them did not keep up. */
  | { readonly name: 'virtio_blk_data_plane_trace_lost', readonly events: number }

/**
 * Receives trace events, those of a thread in order, within 10 ms or so.
 *
 * @param microseconds when it was, by CLOCK_MONOTONIC (`clock_gettime(2)`). Requests that are taken off a ring together, or
 * found complete together, have one time
 */
export type Tracer = (event: TraceEvent, microseconds: number) => void

/** Receives trace events as records, in bulk: see `decodeTrace`. */
export interface TraceSink {
  /** Takes whole records of one thread, in order: `TRACE_RECORD_BYTES` each, the sink's own from now on. */
  write (records: Uint8Array): void
  /** Leaves records where they are for now, which has new ones lost when there is no room. @default false */
  readonly isFull?: boolean
}

// A record: the time in microseconds, four 16-bit words, and three more numbers; all little-endian, numbers as 64-bit floats.
/** Bytes of a record. */
export const TRACE_RECORD_BYTES = 40
export const RECORD_NUMBERS = 5
export const RECORD_HALVES = 20

// Places of 64-bit floats.
export const TIME = 0
export const FIRST = 2
export const SECOND = 3
export const THIRD = 4

// Places of 16-bit words.
export const EVENT = 4
export const QUEUE = 5
/** Of a request its name, of a ring its index. */
export const HEAD = 6
/** 0 as the data plane writes it: for sinks that keep records of several disks together. */
const SOURCE = 7

// What `EVENT` has.
export const LOST = 0
export const START = 1
export const STOP = 2
export const VRING_SETUP = 3
export const PROCESS_REQUEST = 4
export const COMPLETE_REQUEST = 5

/** A record of the trace. */
export interface TraceRecord {
  /** What happened. */
  readonly event: TraceEvent
  /** When it was, by CLOCK_MONOTONIC. */
  readonly microseconds: number
  /** The number that `markTrace` gave it, else 0. */
  readonly source: number
}

/** The events of whole records. What this version does not know is left out. */
export function decodeTrace (records: Uint8Array): TraceRecord[] {
  const view = new DataView(records.buffer, records.byteOffset, records.byteLength)
  const decoded: TraceRecord[] = []
  for (let at = 0; at + TRACE_RECORD_BYTES <= view.byteLength; at += TRACE_RECORD_BYTES) {
    const event = decodeEvent(view, at)
    if (event !== undefined) decoded.push({ event, microseconds: view.getFloat64(at + 8 * TIME, true), source: view.getUint16(at + 2 * SOURCE, true) })
  }
  return decoded
}

function decodeEvent (view: DataView, at: number): TraceEvent | undefined {
  const half = (place: number): number => view.getUint16(at + 2 * place, true)
  const number = (place: number): number => view.getFloat64(at + 8 * place, true)
  switch (half(EVENT)) {
    case LOST: return { name: 'virtio_blk_data_plane_trace_lost', events: number(FIRST) }
    case START: return { name: 'virtio_blk_data_plane_start', queues: number(FIRST) }
    case STOP: return { name: 'virtio_blk_data_plane_stop' }
    case VRING_SETUP: return {
      name: 'vring_setup',
      queue: half(QUEUE),
      descriptorAddress: number(FIRST),
      availableAddress: number(SECOND),
      usedAddress: number(THIRD),
      index: half(HEAD)
    }
    case PROCESS_REQUEST: return {
      name: 'virtio_blk_data_plane_process_request', queue: half(QUEUE), readable: number(FIRST), writable: number(SECOND), head: half(HEAD)
    }
    case COMPLETE_REQUEST: return { name: 'virtio_blk_data_plane_complete_request', queue: half(QUEUE), head: half(HEAD), result: number(FIRST) }
    default: return undefined
  }
}

/** Writes a number, 0 to 65535, into records, for a sink to know again whose they are. */
export function markTrace (records: Uint8Array, source: number): void {
  const view = new DataView(records.buffer, records.byteOffset, records.byteLength)
  for (let at = 0; at < view.byteLength; at += TRACE_RECORD_BYTES) view.setUint16(at + 2 * SOURCE, source, true)
}
