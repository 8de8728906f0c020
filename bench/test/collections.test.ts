import { equal } from 'node:assert/strict'
import { test } from 'uvu'
import { countScavenges } from '../collections.ts'

test('collections for want of room are counted, of all threads; what an idle one does is not', () => {
  equal(countScavenges(''), 0)
  equal(countScavenges(`ready: disk.img
[24585:0x23d35070]       71 ms: Scavenge 4.2 (4.5) -> 3.8 (5.5) MB, 2.61 / 0.01 ms  (average mu = 1.000, current mu = 1.000) task; 
[24585:0x23d35070]      101 ms: Scavenge 4.6 (5.7) -> 4.3 (6.2) MB, 2.13 / 0.01 ms  (average mu = 1.000, current mu = 1.000) allocation failure; 
[24585:0x7fe820000f30]     3708 ms: Scavenge 10.5 (14.7) -> 6.6 (14.7) MB, 0.52 / 0.00 ms  (average mu = 1.000, current mu = 1.000) allocation failure; 
[24585:0x23d35070]     8187 ms: Mark-Compact (reduce) 7.2 (10.0) -> 5.5 (7.2) MB, 6.53 / 0.17 ms  (+ 0.1 ms in 1 steps since start of marking) finalize incremental marking via task; GC in old space requested
`), 2)
})

test.run()
