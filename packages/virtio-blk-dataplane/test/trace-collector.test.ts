import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { DataPlane, decodeTrace, TRACE_RECORD_BYTES, type TraceEvent, type TraceSink } from '../src/index.ts'
import { TraceCollector } from '../src/trace-collector.ts'
import { TraceWriter } from '../src/trace-ring.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { Guest } from './support/guest.ts'
import { Scratch } from './support/image.ts'

const test = suite('trace collector')
const scratch = new Scratch()
const ends: (() => unknown)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})
test.after(() => scratch.remove())

const now = new Float64Array(1)

/** A sink that keeps the events, by what is said of them in short. */
function kept (): TraceSink & { isFull: boolean, seen: string[] } {
  const seen: string[] = []
  const short = (event: TraceEvent): string => 'result' in event ? `${event.result}` : 'events' in event ? `${event.events} lost` : event.name
  return { isFull: false, seen, write: (records) => { seen.push(...decodeTrace(records).map(({ event }) => short(event))) } }
}

function collecting (sink: TraceSink): { collector: TraceCollector, writers: TraceWriter[] } {
  const collector = new TraceCollector(sink)
  ends.push(() => collector.end())
  return { collector, writers: [0, 1].map((thread) => new TraceWriter(collector.ringOf(thread)!)) }
}

function complete (writer: TraceWriter, result: number): void {
  writer.completeRequest(now, 0, 0, result)
}

test('what threads write is delivered by itself', async () => {
  const sink = kept()
  const { writers } = collecting(sink)
  complete(writers[0]!, 1)
  await eventually('it is there', () => sink.seen.length === 1)
  complete(writers[1]!, 2)
  await eventually('the other is, too', () => sink.seen.length === 2)
})

test('a full sink is left alone until it is not, but given the last', async () => {
  const sink = kept()
  const { collector, writers } = collecting(sink)
  sink.isFull = true
  complete(writers[0]!, 1)
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setTimeout(resolve, 10))
  assert.deepEqual(sink.seen, [])
  sink.isFull = false
  await eventually('it is there', () => sink.seen.length === 1)
  sink.isFull = true
  for (let index = 0; index < 40_000; index++) complete(writers[0]!, 2)
  collector.end()
  assert.deepEqual([sink.seen.length, sink.seen.at(-1)], [1 + 32_768 + 1, `${40_000 - 32_768} lost`])
})

test('each thread keeps its ring; nobody has one where nobody wants the trace', () => {
  const { collector } = collecting(kept())
  assert.equal(collector.ringOf(0), collector.ringOf(0))
  assert.notEqual(collector.ringOf(0), collector.ringOf(1))
  assert.equal(new TraceCollector(undefined).ringOf(0), undefined)
})

test('a thread that was given up may write on: nothing of that is delivered', () => {
  const sink = kept()
  const { collector, writers } = collecting(sink)
  complete(writers[0]!, 1)
  collector.abandon(0)
  complete(writers[0]!, 2)
  assert.notEqual(collector.ringOf(0), undefined)
  collector.end()
  assert.deepEqual(sink.seen, ['1'])
})

async function start (tracer: TraceSink): Promise<{ plane: DataPlane, guest: Guest }> {
  const plane = DataPlane.create({ path: scratch.image('traced.img', 64), tracer, queues: 2, threads: 2 })
  const guest = new Guest()
  ends.push(() => guest.close(), () => plane.close())
  await plane.startQueue(1, guest.setup)
  return { plane, guest }
}

test('a data plane delivers records of its threads in bulk, at once where that is asked for', async () => {
  const sink = kept()
  let bytes = 0
  const counting: TraceSink = {
    write (records) {
      bytes += records.length
      sink.write(records)
    }
  }
  const { plane, guest } = await start(counting)
  await guest.read(0, 1024)
  plane.collectTrace()
  assert.deepEqual(sink.seen, ['virtio_blk_data_plane_start', 'vring_setup', 'virtio_blk_data_plane_process_request', '1024'])
  assert.equal(bytes, 4 * TRACE_RECORD_BYTES)
  await plane.stop()
  assert.equal(sink.seen.at(-1), 'virtio_blk_data_plane_stop')
})

test('one tracer takes over from another: none has an event of the other', async () => {
  const [first, second] = [kept(), kept()]
  const { plane, guest } = await start(first)
  await guest.read(0, 512)
  await plane.setTracer(second)
  await guest.read(0, 1024)
  await plane.setTracer(undefined)
  await guest.read(0, 2048)
  assert.deepEqual(first.seen.slice(-1), ['512'])
  assert.deepEqual(second.seen, ['virtio_blk_data_plane_process_request', '1024'])
})

test('a request was complete after it was taken off the ring, by the time of the trace', async () => {
  const times = new Map<string, number>()
  const { plane, guest } = await start({ write: (records) => { for (const { event, microseconds } of decodeTrace(records)) times.set(event.name, microseconds) } })
  const before = Number(process.hrtime.bigint()) / 1e3
  await guest.read(0, 512)
  const after = Number(process.hrtime.bigint()) / 1e3
  await plane.stop()
  const [taken, done] = [times.get('virtio_blk_data_plane_process_request')!, times.get('virtio_blk_data_plane_complete_request')!]
  assert.ok(before <= taken + 1 && taken < done && done <= after + 1, `${before} ${taken} ${done} ${after}`)
})

test.run()
