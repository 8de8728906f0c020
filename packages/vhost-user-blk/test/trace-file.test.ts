import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import { TRACE_RECORD_BYTES, type TraceEvent, type TraceSink } from '@node-vmm/virtio-blk-dataplane'
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { appendFileSync, closeSync, mkdirSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import { serve } from '../src/index.ts'
import { filedLine } from '../src/output.ts'
import { type FiledEvent, readTraceFile, TraceFile } from '../src/trace-file.ts'
import { newImage, newPath } from './support/scratch.ts'

const test = suite('trace file')
const noError = (error: Error): void => assert.fail(error)

async function read (path: string): Promise<FiledEvent[]> {
  const events: FiledEvent[] = []
  for await (const event of readTraceFile(path)) events.push(event)
  return events
}

/** Serves a disk to a driver that writes to it once. */
async function trace (tracer: TraceSink): Promise<void> {
  const socketPath = newPath()
  const server = await serve({ path: newImage(), socketPath, engine: 'sync', tracer })
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, new Uint8Array(4096))
  await driver.close()
  await server.close()
}

const names = (events: readonly FiledEvent[]): TraceEvent['name'][] => events.map(({ event }) => event.name)
const LIFE = [
  'virtio_blk_data_plane_start', 'vring_setup', 'virtio_blk_data_plane_process_request', 'virtio_blk_data_plane_complete_request', 'virtio_blk_data_plane_stop'
]

test('the trace of several disks comes out as it went in, with its time', async () => {
  const path = newPath()
  const file = new TraceFile(path, ['root', 'data'], noError)
  await trace(file.sinkOf(1))
  await trace(file.sinkOf(0))
  await file.close()
  assert.equal(statSync(path).mode & 0o777, 0o600)
  const events = await read(path)
  assert.deepEqual(names(events), [...LIFE, ...LIFE])
  assert.deepEqual(events.map(({ disk }) => disk), [...LIFE.map(() => 'data'), ...LIFE.map(() => 'root')])
  const times = events.map(({ microseconds }) => microseconds)
  assert.ok(times[0]! >= 0 && times.every((time, index) => time >= (times[index - 1] ?? 0)), `${times}`)
  const { unixMilliseconds } = JSON.parse(readFileSync(path, 'latin1').split('\n')[0]!)
  assert.ok(Math.abs(Date.now() - unixMilliseconds) < 60_000)
})

test('a line for people, and one for scripts', () => {
  const event = { event: { name: 'virtio_blk_data_plane_complete_request', queue: 1, head: 2, result: -5 }, disk: 'root', microseconds: 1_500_000.25 } as const
  assert.equal(filedLine(event, false), '1.500000 root virtio_blk_data_plane_complete_request queue=1 head=2 result=-5\n')
  assert.deepEqual(JSON.parse(filedLine(event, true)), {
    disk: 'root', microseconds: 1_500_000.25, name: 'virtio_blk_data_plane_complete_request', queue: 1, head: 2, result: -5
  })
})

test('what a server that was killed leaves is read up to its last whole record', async () => {
  const path = newPath()
  const file = new TraceFile(path, ['root'], noError)
  await trace(file.sinkOf(0))
  await file.close()
  appendFileSync(path, new Uint8Array(TRACE_RECORD_BYTES - 1))
  assert.deepEqual(names(await read(path)), LIFE)
})

test('a trace that is longer than what is read at once', async () => {
  const path = newPath()
  const file = new TraceFile(path, ['root'], noError)
  const records = new Uint8Array(TRACE_RECORD_BYTES * 10_000)
  for (let at = 0; at < records.length; at += TRACE_RECORD_BYTES) new DataView(records.buffer).setUint16(at + 8, 2, true)
  file.sinkOf(0).write(records)
  await file.close()
  assert.equal((await read(path)).filter(({ event }) => event.name === 'virtio_blk_data_plane_stop').length, 10_000)
})

test('what is no trace file is refused', async () => {
  const path = newPath()
  for (const content of ['', 'no newline', '{"format":"another"}\n', 'null\n', '\n\n']) {
    writeFileSync(path, content)
    await assert.rejects(read(path), { code: 'ERR_TRACE_FILE', message: `${path} is no trace of this version: --trace-file makes one.` })
  }
  await assert.rejects(read(newPath()), { code: 'ENOENT' })
})

test('a file that cannot be written is told of once, and the disk is served on', async () => {
  const directory = newPath()
  mkdirSync(directory)
  assert.throws(() => new TraceFile(directory, ['root'], noError), { code: 'EISDIR' })
  const errors: (string | undefined)[] = []
  const file = new TraceFile('/dev/full', ['root'], (error: NodeJS.ErrnoException) => errors.push(error.code))
  await trace(file.sinkOf(0))
  await trace(file.sinkOf(0))
  await file.close()
  assert.deepEqual(errors, ['ENOSPC'])
})

test('storage that does not take the trace has it wait, and then has it left where it is', async () => {
  const pipe = newPath()
  spawnSync('mkfifo', [pipe])
  // Somebody who does not read.
  const fd = openSync(pipe, 'r+')
  const file = new TraceFile(pipe, ['root'], () => {})
  const sink = file.sinkOf(0)
  assert.equal(sink.isFull, false)
  for (let blocks = 0; !sink.isFull && blocks < 100; blocks++) sink.write(new Uint8Array(TRACE_RECORD_BYTES << 15))
  assert.equal(sink.isFull, true)
  // With nobody there who could read what waits is given up.
  closeSync(fd)
  await file.close()
})

test.run()
