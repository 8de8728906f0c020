import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { serve } from '../src/index.ts'
import { type MetricsServer, serveMetrics } from '../src/metrics.ts'
import type { ServedDisk } from '../src/served-disk.ts'
import { newImage, newPath } from './support/scratch.ts'

const test = suite('metrics')
const disks: ServedDisk[] = []
const servers: MetricsServer[] = []
test.after.each(async () => {
  for (const server of servers.splice(0)) server.close()
  for (const { server } of disks.splice(0)) await server.close()
})

async function start (): Promise<{ url: string, socketPath: string }> {
  const socketPath = newPath()
  const options = { path: newImage(), socketPath, queues: 2, engine: 'sync', latency: true } as const
  disks.push({ name: 'root', image: options.path, options, server: await serve(options) })
  const server = await serveMetrics(disks, { host: '127.0.0.1', port: 0 })
  servers.push(server)
  return { url: server.url, socketPath }
}

/** The value of each line, by name and labels. */
function values (text: string): Map<string, number> {
  return new Map(text.split('\n').filter((line) => /^\w/.test(line)).map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]))
}

test('Prometheus gets what is counted, as it is at the moment', async () => {
  const { url, socketPath } = await start()
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, new Uint8Array(4096))
  await driver.read(0, 512)
  const response = await fetch(url)
  assert.equal(response.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
  const text = await response.text()
  const now = values(text)
  assert.equal(now.get('node_vmm_written_bytes_total{disk="root",queue="0"}'), 4096)
  assert.equal(now.get('node_vmm_read_bytes_total{disk="root",queue="0"}'), 512)
  assert.equal(now.get('node_vmm_requests_total{disk="root",queue="0"}'), disks[0]!.server.plane.statistics(0).requests)
  assert.equal(now.get('node_vmm_requests_total{disk="root",queue="1"}'), 0)
  assert.equal(now.get('node_vmm_request_errors_total{disk="root",queue="0"}'), 0)
  assert.ok(now.get('node_vmm_kicks_total{disk="root",queue="0"}')! > 0)
  assert.ok(now.has('node_vmm_interrupts_total{disk="root",queue="0"}'))
  assert.equal(now.get('node_vmm_requests_in_flight{disk="root",queue="0"}'), 0)
  assert.equal(now.get('node_vmm_sessions_total{disk="root"}'), 1)
  assert.equal(now.get('node_vmm_sessions{disk="root"}'), 1)
  assert.equal(now.get('node_vmm_disk_size_bytes{disk="root"}'), 1 << 20)
  assert.match(text, /^# TYPE node_vmm_requests_total counter$/m)
  assert.match(text, /^# TYPE node_vmm_requests_in_flight gauge$/m)

  await driver.write(0, new Uint8Array(512))
  const after = values(await (await fetch(`${url}?x=1`)).text())
  assert.equal(after.get('node_vmm_written_bytes_total{disk="root",queue="0"}'), 4608)
  await driver.close()
})

test('how long requests took is a histogram', async () => {
  const { url, socketPath } = await start()
  const driver = await BlockDriver.connect({ socketPath })
  for (let write = 0; write < 5; write++) await driver.write(0, new Uint8Array(4096))
  await driver.close()
  const text = await (await fetch(url)).text()
  assert.match(text, /^# TYPE node_vmm_request_duration_seconds histogram$/m)
  const now = values(text)
  const { requests } = disks[0]!.server.plane.statistics(0)
  assert.equal(now.get('node_vmm_request_duration_seconds_count{disk="root"}'), requests)
  assert.ok(now.get('node_vmm_request_duration_seconds_sum{disk="root"}')! > 0)
  const buckets = [...now].filter(([name]) => name.startsWith('node_vmm_request_duration_seconds_bucket'))
  const bounds = buckets.map(([name]) => /le="([^"]+)"/.exec(name)![1]!)
  assert.deepEqual([bounds[0], bounds[1], bounds.at(-1)], ['0.000001', '0.000002', '+Inf'])
  assert.ok(Number(bounds.at(-2)) > 10)
  buckets.forEach(([, count], index) => assert.ok(count >= (buckets[index - 1]?.[1] ?? 0), 'they are cumulative'))
  assert.equal(buckets.at(-1)![1], requests)
})

test('nothing else is there', async () => {
  const { url } = await start()
  for (const [path, method] of [['/', 'GET'], ['/metrics/', 'GET'], ['/metrics', 'POST'], ['/../metrics/x', 'GET']] as const) {
    assert.equal((await fetch(new URL(path, url), { method })).status, 404, `${method} ${path}`)
  }
  const head = await fetch(url, { method: 'HEAD' })
  assert.deepEqual([head.status, await head.text()], [200, ''])
})

test('a port that is taken is an error', async () => {
  const { url } = await start()
  await assert.rejects(serveMetrics(disks, { host: '127.0.0.1', port: Number(new URL(url).port) }), { code: 'EADDRINUSE' })
})

test.run()
