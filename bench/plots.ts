import type { Case } from './cases.ts'
import { type BarPlot, drawBars } from './plot.ts'
import { type Figure, figures, find, median, type Results } from './results.ts'

interface Wanted {
  readonly file: string
  readonly title: string
  readonly unit: string
  readonly figure: Figure
  /** What one unit of the plot is. */
  readonly scale: number
  readonly of: (which: Case) => boolean
  readonly label: (which: Case) => string
}

const isPlain = ({ queues, disks, polls, hugePages, pattern, growth }: Case): boolean =>
  queues === 1 && disks === 1 && !polls && !hugePages && pattern === 'random' && !growth
const byDepth = ({ depth, kind, polls }: Case): string => `${kind === 'write' ? 'write, ' : ''}depth ${depth}${polls ? ', polling' : ''}`
const cpu = { unit: 'server CPU, µs per I/O (less is better)', figure: 'serverTime', scale: 1, label: byDepth } as const
const iops = { unit: 'thousand I/Os per second', figure: 'iops', scale: 1000, label: byDepth } as const
// At depth 1 everybody sleeps and wakes: its bars would dwarf the others. What counts there is latency.
const tmpfs = { of: (which: Case): boolean => which.backing === 'tmpfs' && isPlain(which) && which.depth > 1 }
const disk = { of: (which: Case): boolean => which.backing === 'disk' && isPlain(which) && which.depth > 1 }

const wanted: readonly Wanted[] = [
  { file: 'tmpfs-cpu.svg', title: '4 KiB on tmpfs', ...cpu, ...tmpfs },
  { file: 'tmpfs-iops.svg', title: '4 KiB on tmpfs', ...iops, ...tmpfs },
  { file: 'tmpfs-p999.svg', title: '4 KiB on tmpfs', unit: 'p99.9 latency, µs', figure: 'p999', scale: 1, label: byDepth, ...tmpfs },
  {
    file: 'latency.svg',
    title: '4 KiB, one at a time',
    unit: 'p50 latency, µs (less is better)',
    figure: 'p50',
    scale: 1,
    of: (which) => which.depth === 1 && isPlain(which),
    label: ({ backing }) => backing
  },
  { file: 'disk-cpu.svg', title: '4 KiB on a disk, O_DIRECT', ...cpu, ...disk },
  { file: 'disk-iops.svg', title: '4 KiB on a disk, O_DIRECT', ...iops, ...disk },
  { file: 'null-cpu.svg', title: '4 KiB on a disk that does nothing', ...cpu, of: ({ backing }) => backing === 'null' }
]

/** The plots that these results have something for: file names, titles and SVG. */
export function plotsOf (results: Results): { file: string, title: string, svg: string }[] {
  return wanted.flatMap(({ file, title, unit, figure, scale, of, label }) => {
    const cases = results.cases.filter((which) => of(which) && results.measured.some((one) => one.case === which.name))
    const servers = [...new Set(results.measured.filter((one) => cases.some(({ name }) => name === one.case)).map((one) => one.server))]
    const series = servers.map((name) => ({
      name,
      values: cases.map((which) => {
        const one = find(results, which.name, name)
        return one === undefined ? NaN : median(figures(one, figure)) / scale
      })
    }))
    const plot: BarPlot = { title, unit, labels: cases.map(label), series }
    return cases.length === 0 ? [] : [{ file, title: `${title}: ${unit}`, svg: drawBars(plot) }]
  })
}
