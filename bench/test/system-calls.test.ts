import { deepEqual, equal } from 'node:assert/strict'
import { test } from 'uvu'
import { allCalls, ioCalls, parsePerf, parseStrace } from '../system-calls.ts'

test('counts of perf', () => {
  const calls = parsePerf(`# started on Mon Nov 23 06:17:43 2026

190,,raw_syscalls:sys_enter,2003310224,100.00,,
32,,syscalls:sys_enter_io_submit,2003306144,100.00,,
0,,syscalls:sys_enter_preadv,2003306144,100.00,,
<not counted>,,syscalls:sys_enter_read,0,100.00,,
`)
  deepEqual(calls, { all: 190, io_submit: 32 })
  equal(ioCalls(calls), 32)
  equal(allCalls(calls), 190)
})

test('counts of strace', () => {
  const calls = parseStrace(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 62.11    0.048811          12      3922           io_uring_enter
 37.89    0.029781           3      7845        12 read
------ ----------- ----------- --------- --------- ----------------
100.00    0.078592           6     11767        12 total
`)
  deepEqual(calls, { io_uring_enter: 3922, read: 7845, all: 11767 })
  equal(ioCalls(calls), 3922)
  equal(allCalls(calls), 11767)
})

test.run()
