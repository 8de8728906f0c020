import { viewMemory } from '@node-vmm/libc'

// The record of a split ring's chains in flight that outlives the device's process: vhost-user, "Inflight I/O
// tracking", struct QueueRegionSplit. A header of 16 bytes (u64 features, u16 version, u16 desc_num, u16
// last_batch_head, u16 used_idx), then 16 bytes for each descriptor (u8 inflight, 5 bytes, u16 next, u64 counter).
//
// The order of its stores is the protocol: wherever the process is killed, the next one finds out which chains the
// driver was not told of. Atomics keep the compiler from changing it.

const HEADER_BYTES = 16
const ENTRY_BYTES = 16
const ALIGNMENT = 64
const VERSION = 1
// Places in the header, in 16-bit words, and in an entry; the counter's in 32-bit words.
const HEADER_VERSION = 4
const HEADER_SIZE = 5
const HEADER_BATCH_HEAD = 6
const HEADER_USED = 7
const ENTRY_NEXT = 3
const ENTRY_COUNTER = 2

/** Bytes of the record of a ring of this size. */
export function inflightRecordBytes (size: number): number {
  return Math.ceil((HEADER_BYTES + ENTRY_BYTES * size) / ALIGNMENT) * ALIGNMENT
}

/** Which chains a device has taken and not given back, kept in memory that a restarted device finds again: vhost-user, "Inflight I/O tracking", split. */
export class InflightRecord {
  readonly #size: number
  readonly #bytes: Uint8Array
  readonly #halves: Uint16Array
  readonly #words: Uint32Array
  /** Heads staged since the last publish, linked by their `next`: the newest of them. */
  #staged = 0
  #batchHead = 0
  #counter = 0

  /** @param address host address of `inflightRecordBytes(size)` bytes, zeroed when new. The content is not trusted. @throws RangeError for address 0 */
  constructor (address: number, size: number) {
    const buffer = viewMemory(address, inflightRecordBytes(size))
    this.#size = size
    this.#bytes = new Uint8Array(buffer)
    this.#halves = new Uint16Array(buffer)
    this.#words = new Uint32Array(buffer)
  }

  /**
   * Makes the record agree with the used ring, whatever the last process was doing when it ended.
   *
   * @returns the heads that are to be done again, in the order in which the driver made them available; undefined when
   * the record is a new one, or of another ring: nothing is known then
   */
  recover (usedIndex: number): number[] | undefined {
    const halves = this.#halves
    const known = halves[HEADER_VERSION] === VERSION && halves[HEADER_SIZE] === this.#size
    if (!known) {
      this.#bytes.fill(0)
      halves[HEADER_VERSION] = VERSION
      halves[HEADER_SIZE] = this.#size
      halves[HEADER_USED] = usedIndex
      return undefined
    }
    this.#finishBatch(usedIndex)
    const heads = Array.from({ length: this.#size }, (_, head) => head).filter((head) => this.#isInFlight(head))
    heads.sort((one, other) => this.#getCounter(one) - this.#getCounter(other))
    this.#counter = heads.length === 0 ? 0 : this.#getCounter(heads.at(-1)!)
    return heads
  }

  /** A batch that the driver was shown, but whose marks were not cleared any more. */
  #finishBatch (usedIndex: number): void {
    const published = (usedIndex - this.#halves[HEADER_USED]!) & 0xffff
    let head = this.#halves[HEADER_BATCH_HEAD]!
    for (let count = Math.min(published, this.#size); count > 0 && head < this.#size; count--) {
      this.#bytes[this.#entry(head)] = 0
      head = this.#halves[this.#entry(head) / 2 + ENTRY_NEXT]!
    }
    this.#halves[HEADER_USED] = usedIndex
  }

  #entry (head: number): number {
    return HEADER_BYTES + ENTRY_BYTES * head
  }

  #isInFlight (head: number): boolean {
    return this.#bytes[this.#entry(head)] === 1
  }

  #getCounter (head: number): number {
    const at = this.#entry(head) / 4 + ENTRY_COUNTER
    return this.#words[at + 1]! * 0x100000000 + this.#words[at]!
  }

  /** A chain was taken off the ring. */
  popped (head: number): void {
    const at = this.#entry(head) / 4 + ENTRY_COUNTER
    this.#counter++
    this.#words[at] = this.#counter
    this.#words[at + 1] = this.#counter / 0x100000000
    Atomics.store(this.#bytes, this.#entry(head), 1)
  }

  /** A chain is to be given back with the next publish. */
  staged (head: number): void {
    this.#halves[this.#entry(head) / 2 + ENTRY_NEXT] = this.#batchHead
    this.#batchHead = head
    this.#staged++
  }

  /** The staged chains are about to be shown to the driver. */
  publishing (): void {
    Atomics.store(this.#halves, HEADER_BATCH_HEAD, this.#batchHead)
  }

  /** They were shown. */
  published (usedIndex: number): void {
    let head = this.#batchHead
    for (; this.#staged > 0; this.#staged--) {
      Atomics.store(this.#bytes, this.#entry(head), 0)
      head = this.#halves[this.#entry(head) / 2 + ENTRY_NEXT]!
    }
    Atomics.store(this.#halves, HEADER_USED, usedIndex)
  }
}
