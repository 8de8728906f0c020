import type { BlockDriver } from '@node-vmm/virtio-blk-driver'

/** What a run of requests came to. Latencies in microseconds. */
export interface LoadResult {
  readonly requests: number
  readonly seconds: number
  readonly latency: { readonly p50: number, readonly p99: number, readonly p999: number, readonly max: number }
}

const BLOCK_BYTES = 4096

/** Random 4 KiB requests, `depth` of them in flight, for a while. */
export async function randomLoad (driver: BlockDriver, kind: 'read' | 'write', depth: number, seconds: number): Promise<LoadResult> {
  const buffer = driver.allocate(depth * BLOCK_BYTES)
  const blocks = Math.floor(driver.config.capacity / BLOCK_BYTES)
  const latencies: number[] = []
  const begin = performance.now()
  const end = begin + seconds * 1000

  const one = async (lane: number): Promise<void> => {
    const address = buffer.address + lane * BLOCK_BYTES
    for (let started = performance.now(); started < end;) {
      const offset = Math.floor(Math.random() * blocks) * BLOCK_BYTES
      if (kind === 'read') await driver.readTo(address, offset, BLOCK_BYTES)
      else await driver.writeFrom(address, offset, BLOCK_BYTES)
      const ended = performance.now()
      latencies.push((ended - started) * 1000)
      started = ended
    }
  }
  await Promise.all(Array.from({ length: depth }, (_, lane) => one(lane)))
  buffer.free()

  latencies.sort((one, other) => one - other)
  const percentile = (share: number): number => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))]!
  return {
    requests: latencies.length,
    seconds: (performance.now() - begin) / 1000,
    latency: { p50: percentile(0.5), p99: percentile(0.99), p999: percentile(0.999), max: percentile(1) }
  }
}
