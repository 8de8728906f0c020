import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { LatencyHistogram } from '@node-vmm/virtio-blk-dataplane'
import { Counter, Gauge, type Histogram, Registry } from 'prom-client'
import { countersOf, type DiskCounters } from './control.ts'
import type { ServedDisk } from './served-disk.ts'

/** Where metrics are to be had. */
export interface MetricsAddress {
  readonly host: string
  /** 0 takes one that is free. */
  readonly port: number
}

/** What serves the metrics. */
export interface MetricsServer {
  /** Of the metrics themselves. */
  readonly url: string
  /** Ends all connections. */
  close (): void
}

/** Connections that may be open at once: a scraper has one. */
const CONNECTIONS_MAX = 16
/** Milliseconds that a request has to arrive. */
const REQUEST_MS = 5000

type QueueCounters = DiskCounters['queues'][number]

/** Upper bounds in microseconds: a power of two each, for every one is another series. */
const BOUNDS = LatencyHistogram.bounds.filter((bound) => bound < Infinity && Number.isInteger(Math.log2(bound)) && bound >= 1)

const COUNTERS: readonly (readonly [name: string, help: string, key: keyof QueueCounters])[] = [
  ['requests', 'Requests completed, whatever their status.', 'requests'],
  ['request_errors', 'Requests completed with another status than OK.', 'errors'],
  ['read_bytes', 'Bytes that the guest has read.', 'bytesRead'],
  ['written_bytes', 'Bytes that the guest has written.', 'bytesWritten'],
  ['kicks', 'Kicks of the guest that woke the data plane.', 'kicks'],
  ['interrupts', 'Interrupts sent to the guest.', 'interrupts']
]

/**
 * Serves the metrics of disks to Prometheus, over HTTP.
 *
 * @throws Error of Node's where it cannot listen there
 */
export async function serveMetrics (disks: readonly ServedDisk[], { host, port }: MetricsAddress): Promise<MetricsServer> {
  const registry = registryOf(disks)
  const server = createServer({ requestTimeout: REQUEST_MS, headersTimeout: REQUEST_MS, connectionsCheckingInterval: REQUEST_MS }, (request, response) => {
    void answer(registry, request, response)
  })
  server.maxConnections = CONNECTIONS_MAX
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, host, resolve))
  // Where a connection cannot be taken: the next scrape comes anyway.
  server.on('error', () => {})
  const { address, family, port: actual } = server.address() as AddressInfo
  return {
    url: `http://${family === 'IPv6' ? `[${address}]` : address}:${actual}/metrics`,
    close: () => {
      server.close()
      server.closeAllConnections()
    }
  }
}

async function answer (registry: Registry, { method, url }: IncomingMessage, response: ServerResponse): Promise<void> {
  if ((method !== 'GET' && method !== 'HEAD') || url?.split('?')[0] !== '/metrics') {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('Not found: GET /metrics\n')
    return
  }
  response.writeHead(200, { 'content-type': registry.contentType }).end(await registry.metrics())
}

/** The metrics of disks: read as they are whenever somebody asks. */
export function registryOf (disks: readonly ServedDisk[]): Registry {
  const registers = [new Registry()]
  for (const [name, help, key] of COUNTERS) {
    new Counter({
      name: `node_vmm_${name}_total`,
      help,
      labelNames: ['disk', 'queue'],
      registers,
      collect () {
        this.reset()
        eachQueue(disks, (labels, counters) => this.inc(labels, counters[key]))
      }
    })
  }
  new Gauge({
    name: 'node_vmm_requests_in_flight',
    help: 'Requests taken from the guest and not completed yet.',
    labelNames: ['disk', 'queue'],
    registers,
    collect () { eachQueue(disks, (labels, { inFlight }) => this.set(labels, inFlight)) }
  })
  new Counter({
    name: 'node_vmm_sessions_total',
    help: 'Front-ends that have connected.',
    labelNames: ['disk'],
    registers,
    collect () {
      this.reset()
      for (const { name, server } of disks) this.inc({ disk: name }, server.sessions)
    }
  })
  new Gauge({
    name: 'node_vmm_sessions',
    help: 'Front-ends that are connected: 0 or 1.',
    labelNames: ['disk'],
    registers,
    collect () { for (const { name, server } of disks) this.set({ disk: name }, server.listener.session === undefined ? 0 : 1) }
  })
  new Gauge({
    name: 'node_vmm_disk_size_bytes',
    help: 'The size of the disk.',
    labelNames: ['disk'],
    registers,
    collect () { for (const { name, server } of disks) this.set({ disk: name }, server.plane.capacity) }
  })
  registers[0]!.registerMetric(latencyMetric(disks))
  return registers[0]!
}

// prom-client's own histograms count what they are told of, one by one; the registry asks for no more than this.
function latencyMetric (disks: readonly ServedDisk[]): Histogram {
  const name = 'node_vmm_request_duration_seconds'
  const metric = {
    name,
    help: 'How long requests took, from when they were taken from the guest to when it was shown their end.',
    type: 'histogram',
    aggregator: 'sum',
    get: async () => ({ ...metric, values: countersOf(disks).flatMap((disk) => latencyValues(name, disk)) })
  }
  return metric as unknown as Histogram
}

function latencyValues (metric: string, { name: disk, latency }: DiskCounters): { metricName: string, labels: object, value: number }[] {
  const atMost = (bound: number): number => latency.counts.reduce((sum, count, bucket) => LatencyHistogram.bounds[bucket]! <= bound ? sum + count : sum, 0)
  return [
    ...BOUNDS.map((bound) => ({ metricName: `${metric}_bucket`, labels: { le: bound / 1e6, disk }, value: atMost(bound) })),
    { metricName: `${metric}_bucket`, labels: { le: '+Inf', disk }, value: latency.count },
    { metricName: `${metric}_sum`, labels: { disk }, value: latency.sum / 1e6 },
    { metricName: `${metric}_count`, labels: { disk }, value: latency.count }
  ]
}

function eachQueue (disks: readonly ServedDisk[], take: (labels: { disk: string, queue: string }, counters: QueueCounters) => void): void {
  for (const { name, queues } of countersOf(disks)) {
    for (const [queue, counters] of queues.entries()) take({ disk: name, queue: String(queue) }, counters)
  }
}
