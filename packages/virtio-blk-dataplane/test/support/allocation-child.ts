// Run by allocation.test.ts in a process of its own: prints how many bytes a request costs the data-plane thread.
import { EventPoll } from '@node-vmm/event-poll'
import type { EngineName } from '@node-vmm/ioq'
import { NOTHING_USED } from '@node-vmm/vring/driver'
import { middleOf } from '../../../../test/support/heap-growth.ts'
import { DataPlane, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/index.ts'
import { Guest } from './guest.ts'
import { measuring, REQUESTS_A_SAMPLE } from './measuring-engine.ts'

/** Samples of which the middle one counts. */
const SAMPLES = 9
/** Compiling, which a busy machine lets wait, takes no longer. */
const SAMPLES_MAX = 400

const [path, engine, depth, eventIdx, indirect, watched, enough] = process.argv.slice(2) as [string, EngineName, string, string, string, string, string]
const samples = new SharedArrayBuffer(8 * (1 + SAMPLES_MAX))
const taken = new Float64Array(samples)
const plane = DataPlane.create({
  path,
  engine: measuring(engine, samples, watched === 'wasteful'),
  ...(watched === 'latency' && { latency: true }),
  ...(watched === 'trace' && { tracer: { write () {} } })
})
// Above 4 GiB: such an address is no small integer.
const guest = new Guest({ guestAddress: 5 * 2 ** 30, size: 128, eventIdx: eventIdx === 'true', indirect: indirect === 'true' })
const { ring, memory } = guest
const lastSector = plane.capacity / 512 - 8

// What is sent again and again: reads, writes and flushes, all over the disk.
const headers: number[] = []
const statuses: number[] = []
const data: number[] = []
for (let slot = 0; slot < Number(depth); slot++) {
  const type = slot % 8 === 7 ? VIRTIO_BLK_T_FLUSH : slot % 2 === 0 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT
  headers.push(guest.header(type, slot % 3 === 0 ? lastSector : slot * 8))
  statuses.push(guest.allocate(1))
  data.push(guest.allocate(4096))
}
function add (slot: number): void {
  const type = memory.getUint32(headers[slot]!)
  const segments = type === VIRTIO_BLK_T_FLUSH ? [] : [{ address: data[slot]!, length: 1024 }, { address: data[slot]! + 2048, length: 1024 }]
  const status = { address: statuses[slot]!, length: 1 }
  const header = { address: headers[slot]!, length: 16 }
  if (type === VIRTIO_BLK_T_IN) ring.add([header], [...segments, status], slot)
  else ring.add([header, ...segments], [status], slot)
}

await plane.start([guest.setup])
const poll = new EventPoll()
poll.add(guest.call, () => {})
let failed = 0
let requests = 0
const again: number[] = Array.from({ length: Number(depth) }, (_, slot) => slot)
let bytesPerRequest = NaN
for (let looked = 0; !(bytesPerRequest <= Number(enough)) && looked < SAMPLES_MAX;) {
  for (const slot of again.splice(0)) add(slot)
  ring.publish()
  if (ring.needsKick()) guest.kick.notify()
  do {
    while (ring.pollUsed() > NOTHING_USED) {
      if (memory.getUint8(statuses[ring.usedToken]!) !== VIRTIO_BLK_S_OK) failed++
      requests++
      again.push(ring.usedToken)
    }
    if (again.length > 0 || ring.broken) break
  } while (ring.enableInterrupts() === 'more' || poll.poll(5000) >= 0)
  if (taken[0] === looked) continue
  looked = taken[0]!
  if (looked >= SAMPLES) bytesPerRequest = middleOf([...taken.subarray(1 + looked - SAMPLES, 1 + looked)]) / REQUESTS_A_SAMPLE
}
const { kicks, interrupts } = plane.statistics(0)
console.log(JSON.stringify({ failed, requests, kicks, interrupts, bytesPerRequest }))
process.exit(0)
