import type { Case } from './cases.ts'
import { checkGoals } from './goals.ts'
import { best, figures, find, type Measured, median, ratio, type Results, spread } from './results.ts'
import { AUTO, buildOf } from './servers.ts'

/** A table: its head, and its rows. Columns after the first are numbers. */
export interface Table {
  readonly title: string
  readonly head: readonly string[]
  readonly rows: readonly (readonly string[])[]
  /** Lines below it. */
  readonly notes: readonly string[]
}

/** All results, as tables. */
export function tablesOf (results: Results): Table[] {
  return [goalTable(results), ...results.cases.map((which) => caseTable(results, which)), callTable(results), startTable(results)]
    .filter(({ rows }) => rows.length > 0)
}

/** On what, with what, and how noisy it was. */
export function conditions (results: Results): string[] {
  const { machine, rounds, milliseconds, cpus, imageBytes, seconds, date, notes, measured } = results
  const samples = measured.flatMap((one) => one.samples.flatMap((sample) => sample ?? []))
  const share = (values: number[]): string => `${percent(median(values))} (at worst ${percent(Math.max(...values))})`
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`).join(', ')
  return [
    `${machine.processor}, ${machine.processors} processors${machine.virtual ? ' of a virtual machine' : ''}, ${machine.memoryGib} GiB, Linux ${machine.kernel}`,
    versions,
    `${date}: ${rounds} ${rounds === 1 ? 'round' : 'rounds'} of ${milliseconds / 1000} s a sample, ${Math.round(seconds)} s in all; ` +
      `server on processor ${cpus[0]}, load on ${cpus[1]}; images of ${imageBytes / 2 ** 20} MiB`,
    ...(samples.length === 0 ? [] : [
      `noise: other processes kept ${share(samples.map(({ otherLoad }) => otherLoad))} of one processor busy, ` +
      `the hypervisor took ${share(samples.map(({ stolen }) => stolen))}`
    ]),
    ...notes
  ]
}

function goalTable (results: Results): Table {
  return {
    title: 'Goals',
    head: ['figure', 'goal', 'now', '±', ''],
    rows: checkGoals(results).map(({ what, goal, value, spread, met }) => [what, goal, short(value), percent(spread), met ? 'met' : 'NOT met']),
    notes: []
  }
}

function caseTable (results: Results, which: Case): Table {
  const rows = results.measured.filter((one) => one.case === which.name && figures(one, 'iops').length > 0)
  return {
    title: which.name,
    head: ['server', 'CPU µs', 'kIOPS', '±', 'p50 µs', 'p99', 'p99.9', 'max', 'kicks', 'intr.', 'client µs'],
    rows: rows.map(caseRow),
    notes: [...comparison(results, which), ...builds(results, which), ...failures(results, which)]
  }
}

function caseRow (one: Measured): string[] {
  const middle = (figure: Parameters<typeof figures>[1]): number => median(figures(one, figure))
  const counts = one.side === 'fio' ? ['', '', ''] : [short(middle('kicks')), short(middle('interrupts')), short(middle('loadTime'))]
  return [
    one.server, short(middle('serverTime')), short(middle('iops') / 1000), percent(spread(figures(one, 'iops'))),
    short(middle('p50')), short(middle('p99')), short(middle('p999')), short(middle('max')), ...counts
  ]
}

/** Ours by each peer. */
function comparison (results: Results, { name, backing }: Case): string[] {
  const ours = backing === 'null' ? best(results, name, 'ours', 'serverTime') : find(results, name, AUTO)
  if (ours === undefined) return []
  const parts = (['qsd', 'node', 'fio'] as const).flatMap((side) => {
    const [time, iops] = [best(results, name, side, 'serverTime'), best(results, name, side, 'iops')]
    if (time === undefined || iops === undefined) return []
    return [ratiosTo(ours, time, iops)]
  })
  return parts.length === 0 ? [] : [`${ours.server}: ${parts.join('; ')}`]
}

/** Ours by the same of other checkouts. */
function builds (results: Results, { name }: Case): string[] {
  const measured = results.measured.filter((one) => one.case === name)
  return measured.filter(({ side }) => side === 'build').flatMap((build) => {
    const ours = measured.find(({ side, server }) => side === 'ours' && build.server.startsWith(buildOf(server, '')))
    if (ours === undefined) return []
    return [`${ours.server}: ${ratiosTo(ours, build, build)}`]
  })
}

/** What of the processor time of one peer, and of the IOPS of another or the same, ours has. */
function ratiosTo (ours: Measured, time: Measured, iops: Measured): string {
  const peers = time === iops ? time.server : `${time.server} and ${iops.server}`
  return `${short(ratio(ours, time, 'serverTime'))} of the CPU and ${short(ratio(ours, iops, 'iops'))} of the IOPS of ${peers}`
}

function failures (results: Results, { name }: Case): string[] {
  return results.measured.filter((one) => one.case === name).flatMap((one) => {
    const failed = one.samples.filter((sample) => sample === undefined).length
    const stalls = figures(one, 'stalls').reduce((sum, count) => sum + count, 0)
    return [
      ...(failed > 0 ? [`${one.server}: ${failed} of ${one.samples.length} samples failed`] : []),
      ...(stalls > 0 ? [`${one.server}: nothing came for a second, ${stalls} times, until it was kicked once more`] : [])
    ]
  })
}

function callTable ({ calls }: Results): Table {
  return {
    title: 'System calls per I/O',
    head: ['case, server', 'disk I/O', 'all'],
    rows: calls.map(({ case: name, server, io, all }) => [`${name}, ${server}`, short(io), short(all)]),
    notes: calls.length === 0 ? [] : [`counted with ${calls[0].counter}, in runs of their own`]
  }
}

function startTable ({ starts }: Results): Table {
  const rows = starts.filter(({ readyAfter }) => readyAfter.length > 0).map(({ server, setup, readyAfter, first, memory }) => {
    const latency = (figure: 'p50' | 'p99' | 'max'): string => first.length === 0 ? '' : short(median(first.map((sample) => sample[figure])))
    return [`${server} (${setup})`, short(median(readyAfter)), short(median(memory) / 2 ** 20), latency('p50'), latency('p99'), latency('max')]
  })
  return {
    title: 'Start and memory',
    head: ['server', 'ready after ms', 'MiB', 'first 1,000 reads: p50 µs', 'p99', 'max'],
    rows,
    notes: ['memory is resident at the end, without that of the guest']
  }
}

/** In per cent; nothing where there is no number. */
function percent (share: number): string {
  return Number.isFinite(share) ? `${Math.round(100 * share)} %` : ''
}

/** Three significant digits. */
export function short (value: number): string {
  if (Number.isNaN(value)) return ''
  const size = Math.abs(value)
  if (size >= 100) return Math.round(value).toLocaleString('en')
  return value.toFixed(size >= 10 ? 1 : size >= 0.0995 || size === 0 ? 2 : 3)
}

/** For a terminal. */
export function textTable ({ title, head, rows, notes }: Table): string {
  const widths = head.map((label, column) => Math.max(column === 0 ? 22 : 6, label.length, ...rows.map((row) => row[column].length)))
  const line = (row: readonly string[]): string =>
    '  ' + row.map((cell, column) => column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])).join('  ')
  return [title, line(head), ...rows.map(line), ...notes.map((note) => `  ${note}`)].join('\n')
}

/** For a document. */
export function markdownTable ({ title, head, rows, notes }: Table): string {
  const line = (row: readonly string[]): string => `| ${row.join(' | ')} |`
  return [`### ${title}`, '', line(head), line(head.map((_, column) => column === 0 ? '---' : '---:')), ...rows.map(line), '', ...notes.map((note) => `${note}\n`)].join('\n')
}
