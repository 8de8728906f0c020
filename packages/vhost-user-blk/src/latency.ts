import { LatencyHistogram } from '@node-vmm/virtio-blk-dataplane'

/** How long requests took, in microseconds: shares of them at most so long, and the longest. All 0 for no requests; null is more than 31 s. */
export interface LatencySummary {
  /** Requests that were measured. */
  readonly count: number
  readonly mean: number
  readonly p50: number | null
  readonly p99: number | null
  readonly p999: number | null
  readonly max: number | null
}

/** What JSON has of a histogram: it has no number for what is longer than all buckets. */
export function summarize (latency: LatencyHistogram): LatencySummary {
  const { count, sum } = latency
  const atMost = (share: number): number | null => finite(latency.percentile(share))
  return { count, mean: count === 0 ? 0 : sum / count, p50: atMost(0.5), p99: atMost(0.99), p999: atMost(0.999), max: atMost(1) }
}

/** The buckets that are not empty: their upper bounds in microseconds (null beyond all), and requests. */
export function bucketsOf ({ counts }: LatencyHistogram): [bound: number | null, count: number][] {
  const { bounds } = LatencyHistogram
  return Array.from(counts, (count, bucket): [number | null, number] => [finite(bounds[bucket]!), count]).filter(([, count]) => count > 0)
}

function finite (microseconds: number): number | null {
  return microseconds === Infinity ? null : microseconds
}

const UNITS = ['µs', 'ms', 's'] as const

/** A duration in microseconds, for people. */
export function duration (microseconds: number | null): string {
  if (microseconds === null) return '> 31 s'
  const power = microseconds < 1000 ? 0 : microseconds < 1e6 ? 1 : 2
  return `${Number((microseconds / 1000 ** power).toPrecision(3))} ${UNITS[power]}`
}

const BARS = ' ▁▂▃▄▅▆▇█'
/** Doublings of a microsecond: the first has what took less, too. */
const DOUBLINGS = 25

/** What stands above `bars`. */
export const BARS_HEAD = '1µs       1ms       1s'.padEnd(DOUBLINGS)

/** A histogram in one line: a bar for each doubling, the highest for the most requests, and none for none. */
export function bars ({ counts }: LatencyHistogram): string {
  const sums = new Array<number>(DOUBLINGS).fill(0)
  for (const [bucket, count] of counts.entries()) sums[doublingOf(bucket)]! += count
  const most = Math.max(...sums)
  return sums.map((sum) => BARS[most === 0 ? 0 : Math.ceil(sum / most * (BARS.length - 1))]).join('')
}

function doublingOf (bucket: number): number {
  const below = LatencyHistogram.bounds[bucket - 1] ?? 0
  return Math.floor(Math.log2(Math.max(1, below)))
}
