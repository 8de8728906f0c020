// Run by allocation.test.ts in a process of its own: prints what one kind of chain costs the device, as JSON.
import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import { heapGrowth } from '../../../../test/support/heap-growth.ts'
import { layOutRing, RawRing } from '../../src/driver/index.ts'
import {
  DescriptorChain, SplitVring, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE
} from '../../src/index.ts'

const RING_SIZE = 128
const CHAINS = 200_000
const LOW = 0x10000
const HIGH = 0x1_4000_0000
const REGION_BYTES = 0x100000

const kind = process.argv[2]!
const { memory, fd } = GuestMemory.allocate([
  { guestAddress: 0, size: REGION_BYTES },
  { guestAddress: HIGH, size: REGION_BYTES },
  // Adjacent to the one before: what straddles the border is one descriptor and two segments.
  { guestAddress: HIGH + REGION_BYTES, size: REGION_BYTES }
])
close(fd)
const layout = layOutRing(LOW, RING_SIZE)
const raw = new RawRing(memory, layout)
const vring = new SplitVring(memory, { ...layout, features: 1n << BigInt(VIRTIO_F_INDIRECT_DESC) | 1n << BigInt(VIRTIO_F_EVENT_IDX) })
const chain = new DescriptorChain(memory)

const request = {
  low: [
    { address: 0x20000, length: 16 },
    { address: 0x30000, length: 4096, flags: VIRTQ_DESC_F_WRITE },
    { address: 0x20100, length: 1, flags: VIRTQ_DESC_F_WRITE }
  ],
  high: [
    { address: HIGH + 0x100, length: 16 },
    { address: HIGH + REGION_BYTES - 512, length: 4096, flags: VIRTQ_DESC_F_WRITE },
    { address: 0x20100, length: 1, flags: VIRTQ_DESC_F_WRITE }
  ]
}
const heads: number[] = []
for (let head = 0; head < 32; head++) {
  if (kind === 'direct') heads.push(raw.chain(request[head % 2 === 0 ? 'low' : 'high'], head * 3))
  else {
    const table = (head % 2 === 0 ? 0x40000 : HIGH + 0x40000) + head * 256
    raw.chain(request[head % 3 === 0 ? 'low' : 'high'], 0, table)
    raw.descriptor(head, { address: table, length: 48, flags: VIRTQ_DESC_F_INDIRECT })
    heads.push(head)
  }
}
for (let slot = 0; slot < RING_SIZE; slot++) raw.availableEntry(slot, heads[slot % heads.length]!)

const availableIndex = new Uint16Array(memory.view(layout.availableAddress, 4))
// What a device does, and the driver's part in the least that it can be: the same chains, again and again.

function serve (chains: number): void {
  for (let served = 0; served < chains; served += heads.length) {
    Atomics.store(availableIndex, 1, (availableIndex[1]! + heads.length) & 0xffff)
    vring.disableNotification()
    while (vring.pop(chain) === 'chain') {
      vring.push(chain.head, chain.writableBytes)
    }
    if (vring.enableNotification() === 'more') throw new Error('nobody else adds chains')
    vring.publish()
    vring.shouldNotify()
  }
}

const grown = heapGrowth(() => serve(CHAINS), CHAINS * Number(process.argv[3]))
const started = process.hrtime.bigint()
serve(CHAINS)
const nanoseconds = Number(process.hrtime.bigint() - started)
console.log(JSON.stringify({
  fault: vring.fault?.message, bytesPerChain: grown / CHAINS, nanosecondsPerChain: nanoseconds / CHAINS
}))
