import assert from 'node:assert/strict'
import { test } from 'uvu'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { decodeTrace, EVENT, FIRST, HEAD, LOST, markTrace, QUEUE, RECORD_HALVES, RECORD_NUMBERS, SECOND, type TraceEvent } from '../src/trace.ts'
import { allocateTraceRing, TraceReader, TraceWriter } from '../src/trace-ring.ts'
import { BEGIN, DONE } from './support/trace-worker.ts'

const now = new Float64Array([123.5])

function make (records = 8): { writer: TraceWriter, reader: TraceReader, complete: (result: number) => void } {
  const state = allocateTraceRing(records)
  const writer = new TraceWriter(state)
  return { writer, reader: new TraceReader(state), complete: (result) => writer.completeRequest(now, 0, 0, result) }
}

function events (reader: TraceReader): TraceEvent[] {
  return decodeTrace(reader.take() ?? new Uint8Array(0)).map(({ event }) => event)
}

/** What came, by the results of the requests, and by how many are missing where some are. */
function results (reader: TraceReader): (number | string)[] {
  return events(reader).map((event) => 'result' in event ? event.result : 'events' in event ? `${event.events} lost` : event.name)
}

test('each event comes out as it went in, with its time', () => {
  const { writer, reader } = make()
  assert.equal(reader.take(), undefined)
  writer.start(256)
  writer.vringSetup(255, 2 ** 52, 2 ** 40 + 1, 0, 65535)
  writer.processRequest(now, 255, 32767, 1024, 0)
  writer.completeRequest(now, 0, 1, -5)
  writer.completeRequest(now, 0, 2, 2 ** 33)
  writer.stop()
  const records = decodeTrace(reader.take()!)
  assert.deepEqual(records.map(({ event }) => event), [
    { name: 'virtio_blk_data_plane_start', queues: 256 },
    { name: 'vring_setup', queue: 255, descriptorAddress: 2 ** 52, availableAddress: 2 ** 40 + 1, usedAddress: 0, index: 65535 },
    { name: 'virtio_blk_data_plane_process_request', queue: 255, readable: 1024, writable: 0, head: 32767 },
    { name: 'virtio_blk_data_plane_complete_request', queue: 0, head: 1, result: -5 },
    { name: 'virtio_blk_data_plane_complete_request', queue: 0, head: 2, result: 2 ** 33 },
    { name: 'virtio_blk_data_plane_stop' }
  ])
  assert.deepEqual(records.slice(2, 5).map(({ microseconds }) => microseconds), [123.5, 123.5, 123.5])
  const [start, ...rest] = records.map(({ microseconds }) => microseconds)
  assert.ok(Math.abs(Number(process.hrtime.bigint()) / 1e3 - start!) < 60e6, `${start} µs`)
  assert.ok(rest.at(-1)! >= start!)
  assert.equal(reader.take(), undefined)
})

test('records are whole and in order around the end of the ring', () => {
  const { reader, complete } = make(8)
  for (let round = 0; round < 20; round++) {
    for (let index = 0; index < 5; index++) complete(round * 5 + index)
    assert.deepEqual(results(reader), [0, 1, 2, 3, 4].map((index) => round * 5 + index))
  }
})

test('where there is no room events are counted, and the next that is written says so, at its place', () => {
  const { writer, reader, complete } = make(8)
  for (let index = 0; index < 11; index++) complete(index)
  assert.deepEqual(results(reader), [0, 1, 2, 3, 4, 5, 6, 7])
  complete(11)
  assert.deepEqual(results(reader), ['3 lost', 11])
  for (let index = 12; index < 23; index++) complete(index)
  assert.deepEqual(results(reader), [12, 13, 14, 15, 16, 17, 18, 19])
  writer.settle()
  writer.settle()
  assert.deepEqual(results(reader), ['3 lost'])
})

test('a writer goes on where the last one was, also in what it missed', () => {
  const { reader, complete } = make(4)
  for (let index = 0; index < 6; index++) complete(index)
  const writer = new TraceWriter(reader.state)
  writer.completeRequest(now, 0, 0, 6)
  assert.deepEqual(results(reader), [0, 1, 2, 3])
  writer.completeRequest(now, 0, 0, 7)
  assert.deepEqual(results(reader), ['3 lost', 7])
})

test('the counts of records go around at 2^32', () => {
  const { reader } = make(8)
  new Int32Array(reader.state).fill(-4, 0, 1).fill(-4, 16, 17)
  const writer = new TraceWriter(reader.state)
  for (let index = 0; index < 9; index++) writer.completeRequest(now, 0, 0, index)
  assert.deepEqual(results(reader), [0, 1, 2, 3, 4, 5, 6, 7])
  writer.completeRequest(now, 0, 0, 9)
  assert.deepEqual(results(reader), ['1 lost', 9])
})

test('a mark stays with its records, and what another version may have written is left out', () => {
  const { reader, complete } = make()
  complete(1)
  complete(2)
  const records = reader.take()!
  markTrace(records, 65535)
  assert.deepEqual(decodeTrace(records).map(({ source, event }) => [source, 'result' in event && event.result]), [[65535, 1], [65535, 2]])
  new DataView(records.buffer).setUint16(8, 999, true)
  assert.equal(decodeTrace(records).length, 1)
  // Half a record, as a program that was killed leaves it.
  assert.equal(decodeTrace(records.subarray(0, 79)).length, 0)
})

test('a thread writes as fast as it can: what another one reads is whole and in order, and all that is missing is told', async () => {
  const total = 2_000_000
  const state = allocateTraceRing(1024)
  const phase = new Int32Array(new SharedArrayBuffer(4))
  const writer = new Worker(new URL('./support/trace-worker.ts', import.meta.url), { workerData: { state, total, phase } })
  const ended = new Promise((resolve, reject) => writer.once('exit', resolve).once('error', reject))
  await Promise.race([ended, once(writer, 'message')])
  const reader = new TraceReader(state)
  let next = 0
  let taken = 0
  let wrong = 0
  // Every field of a record is made of its number: one of two records, or of an older one, would be seen.
  const take = (): void => {
    const records = reader.take()
    if (records === undefined) return
    const [numbers, halves] = [new Float64Array(records.buffer), new Uint16Array(records.buffer)]
    for (let record = 0; record < numbers.length / RECORD_NUMBERS; record++) {
      const [number, half] = [record * RECORD_NUMBERS, record * RECORD_HALVES]
      if (halves[half + EVENT] === LOST) {
        next += numbers[number + FIRST]!
        continue
      }
      const isWhole = numbers[number + FIRST] === next && numbers[number + SECOND] === -next
      if (!isWhole || halves[half + QUEUE] !== next % 251 || halves[half + HEAD] !== next % 32749) wrong++
      next++
      taken++
    }
  }
  // Both at once: neither waits for the other.
  Atomics.store(phase, 0, BEGIN)
  Atomics.notify(phase, 0)
  while (Atomics.load(phase, 0) !== DONE) take()
  await ended
  take()
  new TraceWriter(state).settle()
  take()
  assert.deepEqual([wrong, next], [0, total])
  assert.ok(taken > 0)
})

test.run()
