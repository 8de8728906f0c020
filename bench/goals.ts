import { cases, type Case } from './cases.ts'
import { best, type Figure, figures, find, type Measured, median, ratios, type Results, spread } from './results.ts'
import { AUTO, QSD_SLEEPING, SLEEPING } from './servers.ts'

/** Something that this project wants to be true, and whether it is. */
export interface Goal {
  readonly what: string
  /** The limit, as text. */
  readonly goal: string
  readonly value: number
  /** Of the values that this is the median of; NaN where there is one alone. */
  readonly spread: number
  readonly met: boolean
}

/** The goals that these results can tell about. */
export function checkGoals (results: Results): Goal[] {
  const goals: Goal[] = []
  const atMost = (what: string, limit: number, values: readonly number[]): void => add(what, `≤ ${limit}`, values, (value) => value <= limit)
  const atLeast = (what: string, limit: number, values: readonly number[]): void => add(what, `≥ ${limit}`, values, (value) => value >= limit)
  const add = (what: string, goal: string, values: readonly number[], isMet: (value: number) => boolean): void => {
    const value = median(values)
    if (!Number.isNaN(value)) goals.push({ what, goal, value, spread: values.length > 1 ? spread(values) : NaN, met: isMet(value) })
  }

  for (const which of cases.filter(({ growth }) => !growth)) {
    const { name, backing, depth, kind, queues, polls, pattern } = which
    const ours = oursIn(results, which)
    const against = (figure: Figure, side: Measured['side'] = 'qsd'): number[] => ratios(ours, best(results, name, side, figure), figure)
    const single = queues === 1 && !polls && pattern === 'random'
    const qsd = 'of qemu-storage-daemon'

    if (backing === 'tmpfs' && single && depth >= 8) {
      atMost(`${name}: server CPU per I/O ${qsd}`, depth >= 32 ? 0.6 : 0.85, against('serverTime'))
      atLeast(`${name}: IOPS ${qsd}`, 1.3, against('iops'))
    }
    if (backing === 'tmpfs' && single && depth === 32 && kind === 'read') {
      atMost(`${name}: p99.9 ${qsd}`, 1, against('p999'))
      atLeast(`${name}: IOPS of a plain Node server`, 5, against('iops', 'node'))
      if (ours !== undefined) {
        atMost(`${name}: kicks per I/O`, 0.05, figures(ours, 'kicks'))
        atMost(`${name}: interrupts per I/O`, 0.05, figures(ours, 'interrupts'))
      }
    }
    if (backing === 'tmpfs' && single && depth === 1) {
      atMost(`${name}: p50 without polling ${qsd}`, 1, ratios(find(results, name, SLEEPING), best(results, name, 'qsd', 'p50'), 'p50'))
      atMost(`${name}: p50 ${qsd} without polling`, 0.6, ratios(find(results, name, AUTO), find(results, name, QSD_SLEEPING), 'p50'))
    }
    if (backing === 'null') atMost(`${name}: server CPU per I/O of null-co`, 0.55, against('serverTime'))
    if (backing === 'disk' && pattern === 'random') {
      if (depth >= 32) atMost(`${name}: server CPU per I/O ${qsd}`, 0.65, against('serverTime'))
      atLeast(`${name}: IOPS ${qsd}`, 1, against('iops'))
      atLeast(`${name}: IOPS of fio`, 0.95, against('iops', 'fio'))
    }
  }
  for (const { case: name, server, io } of results.calls) {
    if (server === AUTO) atMost(`${name}: I/O system calls per I/O`, 0.1, [io])
  }
  for (const { case: name, server, seconds, count } of results.collections) {
    if (server === AUTO) atMost(`${name}: garbage collections in ${seconds} s`, 0, [count])
  }
  addGrowth(results, atMost)
  return goals
}

function addGrowth (results: Results, atMost: (what: string, limit: number, values: readonly number[]) => void): void {
  const [base, ...grown] = cases.filter(({ growth }) => growth)
  const one = find(results, base.name, AUTO)
  for (const { name } of grown) atMost(`${name}: server CPU per I/O of one each`, 1.15, ratios(find(results, name, AUTO), one, 'serverTime'))

  const mib = (bytes: number): number => bytes / 2 ** 20
  const start = results.starts.find(({ server, disks }) => server === AUTO && disks === 1)
  if (start === undefined) return
  atMost('milliseconds from the start until it serves', 300, start.readyAfter)
  atMost('MiB of memory with one disk', 110, start.memory.map(mib))
  const many = results.starts.find(({ server, disks }) => server === AUTO && disks > 1)
  if (many !== undefined) atMost('MiB of memory for each further disk', 15, [mib(median(many.memory) - median(start.memory)) / (many.disks - 1)])
}

function oursIn (results: Results, { name, backing }: Case): Measured | undefined {
  return backing === 'null' ? best(results, name, 'ours', 'serverTime') : find(results, name, AUTO)
}
