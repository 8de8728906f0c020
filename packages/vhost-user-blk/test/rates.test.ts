import { LatencyHistogram } from '@node-vmm/virtio-blk-dataplane'
import assert from 'node:assert/strict'
import { test } from 'uvu'
import type { DiskCounters } from '../src/control.ts'
import { RateMeter } from '../src/rates.ts'

type Queue = DiskCounters['queues'][number]
const queue = (counters: Partial<Queue>): Queue => ({ requests: 0, errors: 0, bytesRead: 0, bytesWritten: 0, kicks: 0, interrupts: 0, inFlight: 0, ...counters })
const nothing = new LatencyHistogram()
const latency = (bucket: number, count: number): LatencyHistogram => new LatencyHistogram(nothing.counts.map((_, at) => at === bucket ? count : 0), 10 * count)

test('what queues did between two looks, by disk', () => {
  let time = 1000
  let counters: DiskCounters[] = [
    { name: 'root', queues: [queue({ requests: 10, errors: 1, bytesRead: 5120 }), queue({})], latency: latency(20, 10) },
    { name: 'data', queues: [queue({})], latency: nothing }
  ]
  const meter = new RateMeter(() => counters, () => time)
  time = 3000
  counters = [
    {
      name: 'root',
      queues: [
        queue({ requests: 30, errors: 2, bytesRead: 9216, kicks: 2, interrupts: 5, inFlight: 3 }),
        queue({ requests: 20, bytesWritten: 8192, kicks: 6, interrupts: 5, inFlight: 1 })
      ],
      latency: latency(20, 10).plus(latency(30, 20))
    },
    { name: 'data', queues: [queue({ kicks: 1 })], latency: nothing }
  ]
  assert.deepEqual(meter.sample(), {
    seconds: 2,
    disks: [
      { name: 'root', requestsPerSecond: 20, bytesReadPerSecond: 2048, bytesWrittenPerSecond: 4096, inFlight: 4, kicksPerRequest: 0.2, interruptsPerRequest: 0.25, errors: 2, latency: latency(30, 20) },
      { name: 'data', requestsPerSecond: 0, bytesReadPerSecond: 0, bytesWrittenPerSecond: 0, inFlight: 0, kicksPerRequest: 0, interruptsPerRequest: 0, errors: 0, latency: nothing }
    ]
  })
  time = 3500
  assert.equal(meter.sample().disks[0]!.requestsPerSecond, 0)
})

test.run()
