import assert from 'node:assert/strict'
import { test } from 'uvu'
import type { ProgramStatistics } from '../src/control.ts'
import { RateMeter } from '../src/rates.ts'

type Queue = ProgramStatistics['disks'][number]['queues'][number]
const queue = (counters: Partial<Queue>): Queue => ({ requests: 0, errors: 0, bytesRead: 0, bytesWritten: 0, kicks: 0, interrupts: 0, inFlight: 0, ...counters })

test('what queues did between two looks, by disk', () => {
  let time = 1000
  let statistics: ProgramStatistics = { disks: [{ name: 'root', queues: [queue({ requests: 10, errors: 1, bytesRead: 5120 }), queue({})] }, { name: 'data', queues: [queue({})] }] }
  const meter = new RateMeter(() => statistics, () => time)
  time = 3000
  statistics = {
    disks: [
      {
        name: 'root',
        queues: [
          queue({ requests: 30, errors: 2, bytesRead: 9216, kicks: 2, interrupts: 5, inFlight: 3 }),
          queue({ requests: 20, bytesWritten: 8192, kicks: 6, interrupts: 5, inFlight: 1 })
        ]
      },
      { name: 'data', queues: [queue({ kicks: 1 })] }
    ]
  }
  assert.deepEqual(meter.sample(), {
    seconds: 2,
    disks: [
      { name: 'root', requestsPerSecond: 20, bytesReadPerSecond: 2048, bytesWrittenPerSecond: 4096, inFlight: 4, kicksPerRequest: 0.2, interruptsPerRequest: 0.25, errors: 2 },
      { name: 'data', requestsPerSecond: 0, bytesReadPerSecond: 0, bytesWrittenPerSecond: 0, inFlight: 0, kicksPerRequest: 0, interruptsPerRequest: 0, errors: 0 }
    ]
  })
  time = 3500
  assert.equal(meter.sample().disks[0]!.requestsPerSecond, 0)
})

test.run()
