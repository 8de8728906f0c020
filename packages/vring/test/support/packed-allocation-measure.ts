// Run by allocation.test.ts in a process of its own: prints what chains of a packed ring cost a device that keeps a record
// of them, as JSON.
import { GuestMemory } from '@node-vmm/hostmem'
import { close, NativeMemory } from '@node-vmm/libc'
import { heapGrowth } from '../../../../test/support/heap-growth.ts'
import { layOutPackedRing, RawPackedRing } from '../../src/driver/index.ts'
import { DescriptorChain, PackedInflightRecord, packedInflightRecordBytes, PackedVring, VIRTQ_DESC_F_WRITE } from '../../src/index.ts'

const RING_SIZE = 96
const RING_CHAINS = RING_SIZE / 3
const CHAINS = 200_000
const RING = 0x10000
const HIGH = 0x1_4000_0000

const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x100000 }, { guestAddress: HIGH, size: 0x100000 }])
close(fd)
const layout = layOutPackedRing(RING, RING_SIZE)
const raw = new RawPackedRing(memory, layout)
const record = new NativeMemory(packedInflightRecordBytes(RING_SIZE))
const vring = new PackedVring(memory, layout, { record: new PackedInflightRecord(record.address, RING_SIZE) })
const chain = new DescriptorChain(memory)
const ring = new Int32Array(memory.view(RING, 16 * RING_SIZE))

/** The whole ring, available in one of two laps. */
function lap (first: number): Int32Array {
  for (let id = 0, index = first; id < RING_CHAINS; id++) {
    index = raw.chain([
      { address: HIGH + id * 16, length: 16 },
      { address: 0x30000, length: 4096, flags: VIRTQ_DESC_F_WRITE },
      { address: HIGH + 0x8000, length: 1, flags: VIRTQ_DESC_F_WRITE }
    ], id, index)
  }
  return ring.slice()
}

const laps = [lap(0), lap(0x8000)]
const heads = new Uint16Array(RING_CHAINS)
let laid = 1

// Given back in another order than they came, in two batches.
function serve (chains: number): void {
  for (let served = 0; served < chains; served += RING_CHAINS) {
    ring.set(laps[laid]!)
    laid ^= 1
    let popped = 0
    while (vring.pop(chain) === 'chain') heads[popped++] = chain.head
    if (popped !== RING_CHAINS) throw new Error(`${popped} chains of a ring of ${RING_CHAINS}`)
    while (popped > 0) {
      vring.push(heads[--popped]!, 4097)
      if (popped % 16 === 0) vring.publish()
    }
  }
}

const grown = heapGrowth(() => serve(CHAINS), CHAINS * Number(process.argv[3]))
const started = process.hrtime.bigint()
serve(CHAINS)
const nanoseconds = Number(process.hrtime.bigint() - started)
console.log(JSON.stringify({ fault: vring.fault?.message, bytesPerChain: grown / CHAINS, nanosecondsPerChain: nanoseconds / CHAINS }))
