import { viewMemory } from '@node-vmm/libc'
import { indexOf, positionOf, wrapOf } from './packed-index.ts'

// The record of a packed ring's chains in flight that outlives the device's process: vhost-user, "Inflight I/O
// tracking", struct QueueRegionPacked. A header of 32 bytes (u64 features, u16 version, u16 desc_num, u16 free_head,
// u16 old_free_head, u16 used_idx, u16 old_used_idx, u8 used_wrap_counter, u8 old_used_wrap_counter, padding), then 32
// bytes for each descriptor (u8 inflight, 1 byte, u16 next, u16 last, u16 num, u64 counter, u16 id, u16 flags, u32 len,
// u64 addr). The driver's descriptors are copied, since used ones are written over them.
//
// The invariants:
// - The order of the stores is the protocol: wherever the process is killed, the next one finds out which chains the
//   driver was not told of. Atomics keep the compiler from changing it.
// - What stands together changes together: both heads of the free list are one store, both cursors with their wrap
//   counters another. With one store each, a process killed between them at a turn of the ring leaves what can be read
//   in two ways.
// - An entry is free, or of one chain. What is staged is linked to the free list when it is about to be shown, not before:
//   a chain that is popped meanwhile makes the free list's old head the new one.
// - Nothing is read from the record but in `recover`, from a copy, judged as a whole: links are kept here too.

const HEADER_BYTES = 32
const ENTRY_BYTES = 32
const ALIGNMENT = 64
const VERSION = 1
// Places in the header: in 16-bit words, both heads as a 32-bit one, all of the cursors as a 64-bit one.
const HEADER_VERSION = 4
const HEADER_SIZE = 5
const HEADER_HEADS = 3
const HEADER_CURSORS = 2
// Places in an entry: in 16-bit words, and in 32-bit ones.
const ENTRY_NEXT = 1
const ENTRY_LAST = 2
const ENTRY_COUNT = 3
const ENTRY_COUNTER = 2
const ENTRY_ID_AND_FLAGS = 4
const ENTRY_LENGTH = 5
const ENTRY_ADDRESS = 6

/** Bytes of the record of a packed ring of this size. */
export function packedInflightRecordBytes (size: number): number {
  return Math.ceil((HEADER_BYTES + ENTRY_BYTES * size) / ALIGNMENT) * ALIGNMENT
}

/** A chain that is to be done again. */
export interface RecordedChain {
  /** Its first entry in the record, by which `poppedAgain` knows it. */
  readonly entry: number
  /** Its descriptors as they stood in the ring: four 32-bit words each. */
  readonly descriptors: Int32Array
}

/** Where a device goes on that comes after one that ended. */
export interface PackedRecovery {
  /** Where the next used descriptor is written: a position with its wrap counter as bit 15. */
  readonly usedIndex: number
  /** What the driver was not told of, in the order in which it made that available. */
  readonly chains: RecordedChain[]
}

/** Whether the descriptor at an index, a position with its wrap counter as bit 15, says that the device has used it. */
export type UsedTest = (index: number) => boolean

/** Which chains of a packed ring a device has taken and not given back, kept in memory that a restarted device finds again: vhost-user, "Inflight I/O tracking", packed. */
export class PackedInflightRecord {
  readonly #size: number
  readonly #bytes: Uint8Array
  readonly #halves: Uint16Array
  readonly #words: Uint32Array
  readonly #cursors: Float64Array
  /** The cursors as they are to be stored: the highest 16 bits stay 0, so that it is a number however it is moved. */
  readonly #image = new Uint16Array(4)
  readonly #imageNumber = new Float64Array(this.#image.buffer)

  /** Of each entry: the next one of its list; `#size` is the end. */
  readonly #next: Uint16Array
  /** Of each chain's first entry: its last one. */
  readonly #last: Uint16Array
  /** Of each chain that was popped, by slot: its first entry. */
  readonly #entryOf: Uint16Array
  /** First entries of what was staged since the last publish. */
  readonly #staged: Uint16Array
  #stagedCount = 0
  #free = 0
  /** Where the next descriptor of the chain that is being taken goes, and where its last one went. */
  #filling = 0
  #filled = 0
  #usedIndex = 0
  #counter = 0

  /** @param address host address of `packedInflightRecordBytes(size)` bytes, zeroed when new. The content is not trusted. @throws RangeError for address 0 */
  constructor (address: number, size: number) {
    const buffer = viewMemory(address, packedInflightRecordBytes(size))
    this.#size = size
    this.#bytes = new Uint8Array(buffer)
    this.#halves = new Uint16Array(buffer)
    this.#words = new Uint32Array(buffer)
    this.#cursors = new Float64Array(buffer)
    this.#next = new Uint16Array(size)
    this.#last = new Uint16Array(size)
    this.#entryOf = new Uint16Array(size)
    this.#staged = new Uint16Array(size)
  }

  /**
   * Makes the record agree with the ring, whatever the last process was doing when it ended.
   *
   * @param usedIndex where the ring begins if nothing is known.
   * @returns undefined when the record is a new one, of another ring, or contradicts itself: nothing is known then
   */
  recover (usedIndex: number, isUsed: UsedTest): PackedRecovery | undefined {
    const found = judge(this.#bytes.slice(), this.#size, isUsed)
    if (found === undefined) {
      this.begin(usedIndex)
      return undefined
    }
    this.#next.set(found.next)
    this.#free = this.#filling = found.free
    this.#usedIndex = found.usedIndex
    this.#counter = found.chains.at(-1)?.counter ?? 0
    for (const { entry, last } of found.chains) this.#last[entry] = last
    this.#storeHeads(found.free)
    this.#storeCursors(found.usedIndex)
    for (let entry = found.free; entry < this.#size; entry = this.#next[entry]!) Atomics.store(this.#bytes, toBytes(entry), 0)
    return found
  }

  /** Begins anew: nothing is in flight, and the next used descriptor is written at this index. */
  begin (usedIndex: number): void {
    const halves = this.#halves
    // Until it is whole it has no version: it would be begun once more.
    Atomics.store(halves, HEADER_VERSION, 0)
    this.#bytes.fill(0)
    halves[HEADER_SIZE] = this.#size
    for (let entry = 0; entry < this.#size; entry++) this.#link(entry, entry + 1)
    this.#free = this.#filling = this.#stagedCount = this.#counter = 0
    this.#usedIndex = usedIndex
    this.#storeHeads(0)
    this.#storeCursors(usedIndex)
    Atomics.store(halves, HEADER_VERSION, VERSION)
  }

  #link (entry: number, next: number): void {
    this.#next[entry] = next
    this.#halves[toBytes(entry) / 2 + ENTRY_NEXT] = next
  }

  #storeHeads (old: number): void {
    Atomics.store(this.#words, HEADER_HEADS, this.#free | old << 16)
  }

  #storeCursors (old: number): void {
    const image = this.#image
    image[0] = positionOf(this.#usedIndex)
    image[1] = positionOf(old)
    image[2] = wrapOf(this.#usedIndex) | wrapOf(old) << 8
    this.#cursors[HEADER_CURSORS] = this.#imageNumber[0]!
  }

  /** A descriptor of the chain that is being taken, as it stands in the ring. @returns false when no entry is free */
  describe (low: number, high: number, length: number, idAndFlags: number): boolean {
    const entry = this.#filling
    if (entry === this.#size) return false
    const words = this.#words
    const at = toBytes(entry) / 4
    words[at + ENTRY_ID_AND_FLAGS] = idAndFlags
    words[at + ENTRY_LENGTH] = length
    words[at + ENTRY_ADDRESS] = low
    words[at + ENTRY_ADDRESS + 1] = high
    this.#filled = entry
    this.#filling = this.#next[entry]!
    return true
  }

  /** The chain was taken off the ring. @param slot what the ring calls it. @param count of the descriptors that were described */
  popped (slot: number, count: number): void {
    const entry = this.#free
    const at = toBytes(entry)
    this.#entryOf[slot] = entry
    this.#last[entry] = this.#filled
    this.#halves[at / 2 + ENTRY_LAST] = this.#filled
    this.#halves[at / 2 + ENTRY_COUNT] = count
    this.#counter++
    this.#words[at / 4 + ENTRY_COUNTER] = this.#counter
    this.#words[at / 4 + ENTRY_COUNTER + 1] = this.#counter / 0x100000000
    Atomics.store(this.#bytes, at, 1)
    this.#free = this.#filling
    this.#storeHeads(this.#free)
  }

  /** A chain of `recover` was taken once more. It stays recorded as it was: another process finds the same order. */
  poppedAgain (slot: number, entry: number): void {
    this.#entryOf[slot] = entry
  }

  /** A chain is to be given back with the next publish. */
  staged (slot: number): void {
    this.#staged[this.#stagedCount++] = this.#entryOf[slot]!
  }

  /** The staged chains are about to be shown to the driver. @param usedIndex behind the last one */
  publishing (usedIndex: number): void {
    const oldFree = this.#free
    const oldIndex = this.#usedIndex
    for (let nth = 0; nth < this.#stagedCount; nth++) {
      const entry = this.#staged[nth]!
      this.#link(this.#last[entry]!, this.#free)
      this.#free = entry
    }
    this.#filling = this.#free
    this.#usedIndex = usedIndex
    this.#storeHeads(oldFree)
    this.#storeCursors(oldIndex)
  }

  /** They were shown. */
  published (): void {
    for (let nth = 0; nth < this.#stagedCount; nth++) Atomics.store(this.#bytes, toBytes(this.#staged[nth]!), 0)
    this.#stagedCount = 0
    this.#storeHeads(this.#free)
    this.#storeCursors(this.#usedIndex)
  }
}

function toBytes (entry: number): number {
  return HEADER_BYTES + ENTRY_BYTES * entry
}

interface FoundChain extends RecordedChain {
  readonly last: number
  readonly counter: number
}

interface Found extends PackedRecovery {
  readonly chains: FoundChain[]
  readonly free: number
  readonly next: Uint16Array
}

/** What a record says; undefined where that cannot be. */
function judge (copy: Uint8Array, size: number, isUsed: UsedTest): Found | undefined {
  const halves = new Uint16Array(copy.buffer)
  if (halves[HEADER_VERSION] !== VERSION || halves[HEADER_SIZE] !== size) return undefined
  const [free, oldFree, position, oldPosition] = halves.subarray(2 * HEADER_HEADS, 2 * HEADER_HEADS + 4)
  const [wrap, oldWrap] = copy.subarray(8 * HEADER_CURSORS + 4)
  if (position! >= size || oldPosition! >= size || wrap! > 1 || oldWrap! > 1) return undefined
  const usedIndex = indexOf(position!, wrap!)
  const oldIndex = indexOf(oldPosition!, oldWrap!)
  // A batch was about to be shown. If it was, its first descriptor says so; if not, all is as it was before.
  const isShown = usedIndex !== oldIndex && isUsed(oldIndex)
  const settled = isShown ? { free: free!, usedIndex } : { free: oldFree!, usedIndex: oldIndex }
  const lists = new EntryLists(copy, size)
  if (!lists.takeFree(settled.free)) return undefined
  const chains: FoundChain[] = []
  for (let entry = 0; entry < size; entry++) {
    if (copy[toBytes(entry)] !== 1 || lists.isFree(entry)) continue
    const chain = lists.takeChain(entry)
    if (chain === undefined) return undefined
    chains.push(chain)
  }
  if (!lists.isComplete) return undefined
  chains.sort((one, other) => one.counter - other.counter)
  return { ...settled, chains, next: lists.next }
}

const FREE = 1
const IN_CHAIN = 2

/** The entries of a record, of which each must be in one list: so that no walk is longer than the record. */
class EntryLists {
  readonly next: Uint16Array
  readonly #halves: Uint16Array
  readonly #words: Uint32Array
  readonly #takenBy: Uint8Array
  #left: number

  constructor (copy: Uint8Array, size: number) {
    this.#halves = new Uint16Array(copy.buffer)
    this.#words = new Uint32Array(copy.buffer)
    this.next = Uint16Array.from({ length: size }, (_, entry) => this.#halves[toBytes(entry) / 2 + ENTRY_NEXT]!)
    this.#takenBy = new Uint8Array(size)
    this.#left = size
  }

  get isComplete (): boolean {
    return this.#left === 0
  }

  isFree (entry: number): boolean {
    return this.#takenBy[entry] === FREE
  }

  /** @returns false for a list that loops, or ends elsewhere than it may */
  takeFree (head: number): boolean {
    let entry = head
    while (this.#take(entry, FREE)) entry = this.next[entry]!
    return entry === this.next.length
  }

  takeChain (head: number): FoundChain | undefined {
    const at = toBytes(head)
    const count = this.#halves[at / 2 + ENTRY_COUNT]!
    const last = this.#halves[at / 2 + ENTRY_LAST]!
    if (count < 1 || count > this.#left) return undefined
    const descriptors = new Int32Array(4 * count)
    let entry = head
    let previous = head
    for (let nth = 0; nth < count; nth++) {
      if (!this.#take(entry, IN_CHAIN)) return undefined
      const word = toBytes(entry) / 4
      descriptors[4 * nth] = this.#words[word + ENTRY_ADDRESS]!
      descriptors[4 * nth + 1] = this.#words[word + ENTRY_ADDRESS + 1]!
      descriptors[4 * nth + 2] = this.#words[word + ENTRY_LENGTH]!
      descriptors[4 * nth + 3] = this.#words[word + ENTRY_ID_AND_FLAGS]!
      previous = entry
      entry = this.next[entry]!
    }
    const counter = this.#words[at / 4 + ENTRY_COUNTER + 1]! * 0x100000000 + this.#words[at / 4 + ENTRY_COUNTER]!
    return previous === last ? { entry: head, last, counter, descriptors } : undefined
  }

  #take (entry: number, by: number): boolean {
    if (entry >= this.next.length || this.#takenBy[entry] !== 0) return false
    this.#takenBy[entry] = by
    this.#left--
    return true
  }
}
