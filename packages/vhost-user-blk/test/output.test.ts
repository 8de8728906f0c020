import { LatencyHistogram } from '@node-vmm/virtio-blk-dataplane'
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { Output } from '../src/output.ts'
import type { DiskRates } from '../src/rates.ts'

/** 100 requests: 98 of 10 µs, one of 1.5 ms, one beyond all. */
const latency = new LatencyHistogram(new Float64Array(LatencyHistogram.bounds.length), 12345)
for (const [bound, count] of [[10, 98], [1536, 1], [Infinity, 1]] as const) latency.counts[LatencyHistogram.bounds.indexOf(bound)] = count

const busy: DiskRates = {
  name: 'root', requestsPerSecond: 12345.6, bytesReadPerSecond: 50_000_000, bytesWrittenPerSecond: 1023, inFlight: 32, kicksPerRequest: 0.125, interruptsPerRequest: 0.5, errors: 1, latency
}
const idle: DiskRates = {
  name: 'data', requestsPerSecond: 0, bytesReadPerSecond: 0, bytesWrittenPerSecond: 0, inFlight: 0, kicksPerRequest: 0, interruptsPerRequest: 0, errors: 0, latency: new LatencyHistogram()
}
const disks = [busy, idle]

function capture (json: boolean, terminal: { isTTY?: boolean, rows?: number, columns?: number } = {}): { output: Output, printed: { out: string, err: string } } {
  const printed = { out: '', err: '' }
  const output = new Output(json, { ...terminal, write (text) { printed.out += text } }, { write (text) { printed.err += text } })
  return { output, printed }
}

test('statistics are a line for each disk where no terminal is', () => {
  const { output, printed } = capture(false)
  output.statistics({ seconds: 1, disks })
  assert.equal(printed.out,
    'root: 12346 IOPS, 47.7 MiB/s read, 1023 B/s written, 32 in flight, 0.13 kicks and 0.50 interrupts a request, 1 errors, ' +
    'latency p50 10 µs, p99 1.54 ms, p99.9 > 31 s, max > 31 s\n' +
    'data: 0 IOPS, 0 B/s read, 0 B/s written, 0 in flight, 0.00 kicks and 0.00 interrupts a request, 0 errors\n')
})

test('on a terminal they are a table that stays in its place, and makes room for the log', () => {
  const { output, printed } = capture(false, { isTTY: true, rows: 24, columns: 80 })
  output.statistics({ seconds: 1, disks })
  const table = 'disk   IOPS        read   written  in flight  kicks/IO  interrupts/IO  errors\n' +
    'root  12346  47.7 MiB/s  1023 B/s         32      0.13           0.50       1\n' +
    'data      0       0 B/s     0 B/s          0      0.00           0.00       0\n' +
    '\n' +
    'latency    p50      p99   p99.9     max  1µs       1ms       1s   \n' +
    'root     10 µs  1.54 ms  > 31 s  > 31 s     █      ▁             ▁\n' +
    'data      0 µs     0 µs    0 µs    0 µs                           \n'
  assert.equal(printed.out, table)
  output.statistics({ seconds: 1, disks })
  assert.equal(printed.out, `${table}\x1b[7A\x1b[J${table}`)
  output.log('a front-end connected')
  assert.equal(printed.out, `${table}\x1b[7A\x1b[J${table}\x1b[7A\x1b[J`)
  assert.equal(printed.err, 'vhost-user-blk: a front-end connected\n')
  output.log('the session ended')
  assert.equal(printed.out, `${table}\x1b[7A\x1b[J${table}\x1b[7A\x1b[J`)
})

test('the table is no larger than the terminal', () => {
  const { output, printed } = capture(false, { isTTY: true, rows: 3, columns: 10 })
  output.statistics({ seconds: 1, disks })
  assert.equal(printed.out, 'disk   IOP\nroot  1234\n')
  output.statistics({ seconds: 1, disks })
  assert.ok(printed.out.includes('\x1b[2A'))
})

test('for scripts everything is a line of JSON, on a terminal as well', () => {
  const { output, printed } = capture(true, { isTTY: true })
  output.statistics({ seconds: 1, disks })
  output.log('two\nlines')
  output.trace({ name: 'data_plane_kick', queue: 1 } as never, 12.5)
  assert.deepEqual(JSON.parse(printed.out), {
    event: 'stats',
    seconds: 1,
    disks: [
      { ...busy, latency: { count: 100, mean: 123.45, p50: 10, p99: 1536, p999: null, max: null } },
      { ...idle, latency: { count: 0, mean: 0, p50: 0, p99: 0, p999: 0, max: 0 } }
    ]
  })
  assert.deepEqual(printed.err.trim().split('\n').map((line) => JSON.parse(line)), [
    { event: 'log', message: 'two\nlines' }, { event: 'trace', microseconds: 12.5, name: 'data_plane_kick', queue: 1 }
  ])
})

test.run()
