import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { Controls, type ControlRequest, type ProgramStatistics, type ProgramStatus } from '../src/control.ts'
import { describe } from '../src/control-client.ts'
import { serve } from '../src/index.ts'
import type { ServedDisk } from '../src/served-disk.ts'
import { newImage, newPath } from './support/scratch.ts'

const test = suite('control')
const served: ServedDisk[] = []
test.after.each(async () => {
  for (const { server } of served.splice(0)) await server.close()
})

async function disk (name: string): Promise<ServedDisk & { socketPath: string }> {
  const socketPath = newPath()
  const options = { path: newImage(), socketPath, queues: 2, engine: 'sync' } as const
  const one = { name, image: options.path, options, server: await serve(options) }
  served.push(one)
  return { ...one, socketPath }
}

function controls (quit = () => {}): (request: ControlRequest) => Promise<unknown> {
  const all = new Controls('1.2.3', served, quit)
  return (request) => all.execute(request)
}

test('status tells what is served, how, and to whom', async () => {
  const { options, socketPath } = await disk('root')
  const execute = controls()
  const idle = await execute({ command: 'status' }) as ProgramStatus
  assert.deepEqual({ ...idle, uptimeSeconds: 0 }, {
    version: '1.2.3',
    pid: process.pid,
    uptimeSeconds: 0,
    disks: [{
      name: 'root', image: options.path, socket: socketPath, capacity: 1 << 20, readOnly: false, writeThrough: false, queues: 2, engine: 'sync',
      state: 'created', connected: false, inFlight: 0
    }]
  })
  assert.equal(describe('status', { ...idle, uptimeSeconds: 61.5 }), `version 1.2.3, process ${process.pid}, for 61 seconds\n` +
    `root: ${options.path} (1048576 bytes, read-write, 2 queues, sync) on ${socketPath}\n  created, nobody is connected, 0 in flight`)
  const driver = await BlockDriver.connect({ socketPath })
  const { disks: [busy] } = await execute({ command: 'status' }) as ProgramStatus
  assert.deepEqual([busy!.state, busy!.connected], ['running', true])
  await driver.close()
})

test('stats are the counters of each queue', async () => {
  const { socketPath } = await disk('root')
  await disk('data')
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, new Uint8Array(4096))
  await driver.close()
  const { disks } = await controls()({ command: 'stats' }) as ProgramStatistics
  assert.deepEqual(disks.map(({ name, queues }) => [name, queues.length, queues[0]!.bytesWritten]), [['root', 2, 4096], ['data', 2, 0]])
  const [head, first] = describe('stats', { disks }).split('\n')
  assert.equal(head!.replace(/ +/g, ' '), 'disk queue requests errors bytes read bytes written kicks interrupts in flight')
  assert.match(first!, /^root +0 +\d+ +0 +\d+ +4096 +\d+ +\d+ +0$/)
})

test('requests are timed from the first stats on', async () => {
  const { socketPath } = await disk('root')
  const execute = controls()
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, new Uint8Array(4096))
  const before = await execute({ command: 'stats' }) as ProgramStatistics
  assert.deepEqual(before.disks[0]!.latency, { count: 0, mean: 0, p50: 0, p99: 0, p999: 0, max: 0, buckets: [] })
  for (let write = 0; write < 3; write++) await driver.write(0, new Uint8Array(4096))
  await driver.close()
  const { disks } = JSON.parse(JSON.stringify(await execute({ command: 'stats' }))) as ProgramStatistics
  const { count, mean, p50, max, buckets } = disks[0]!.latency
  assert.equal(count, 3)
  assert.ok(mean > 0 && mean <= max! && p50! <= max!, `${mean}, ${p50}, ${max}`)
  assert.equal(buckets.reduce((sum, [, requests]) => sum + requests, 0), 3)
  assert.equal(buckets.at(-1)![0], max)
  assert.match(describe('stats', { disks }), /\n\nlatency of +requests +mean +p50 +p99 +p99\.9 +max\nroot +3 +[\d.]+ (µs|ms|s) /)
})

test('resize gives the disk another size, or takes over that of its image', async () => {
  const { server } = await disk('root')
  const execute = controls()
  const grown = await execute({ command: 'resize', bytes: 2 << 20 })
  assert.deepEqual(grown, { disk: 'root', capacity: 2 << 20 })
  assert.equal(describe('resize', grown), 'root has 2097152 bytes')
  assert.equal(server.plane.capacity, 2 << 20)
  assert.deepEqual(await execute({ command: 'resize' }), { disk: 'root', capacity: 2 << 20 })
  await assert.rejects(execute({ command: 'resize', bytes: 1000 }), /512/)
})

test('pause keeps the guest\'s requests waiting until resume', async () => {
  const { socketPath } = await disk('root')
  const execute = controls()
  await assert.rejects(execute({ command: 'pause' }), { code: 'ERR_STATE' })
  const driver = await BlockDriver.connect({ socketPath })
  assert.deepEqual(await execute({ command: 'pause' }), { disk: 'root', state: 'paused' })
  let done = false
  const write = driver.write(0, new Uint8Array(512)).then(() => { done = true })
  assert.equal((await execute({ command: 'stats' }) as ProgramStatistics).disks[0]!.queues[0]!.inFlight, 0)
  assert.equal(done, false)
  const resumed = await execute({ command: 'resume' })
  assert.equal(describe('resume', resumed), 'root is running')
  await write
  await driver.close()
})

test('with several disks, the one to be changed is named', async () => {
  await disk('root')
  const { server } = await disk('data')
  const execute = controls()
  await assert.rejects(execute({ command: 'resize', bytes: 512 }), { code: 'ERR_CONTROL', message: 'which disk? There are root, data.' })
  await assert.rejects(execute({ command: 'resize', disk: 'x' }), { message: 'no disk is called "x": there is root, data.' })
  await execute({ command: 'resize', disk: 'data', bytes: 512 })
  assert.deepEqual(served.map((one) => one.server.plane.capacity), [1 << 20, 512])
  assert.equal(server.plane.capacity, 512)
})

test('quit is answered first', async () => {
  let quit = false
  const answer = await controls(() => { quit = true })({ command: 'quit' })
  assert.deepEqual([answer, quit], [{}, false])
  assert.equal(describe('quit', answer), 'it ends')
  while (!quit) await new Promise(setImmediate)
})

test.run()
