import type { Case } from './cases.ts'
import type { LoadSample } from './load.ts'
import type { Machine } from './machine.ts'
import type { ServerKind } from './servers.ts'

/** One server in one case: a sample for each turn, of which a round has one or several; undefined where it failed. */
export interface Measured {
  readonly case: string
  readonly server: string
  readonly side: ServerKind['side']
  readonly samples: (LoadSample | undefined)[]
}

/** A server's start, for each round. */
export interface Start {
  readonly server: string
  readonly setup: string
  readonly disks: number
  /** Milliseconds until it answers. */
  readonly readyAfter: number[]
  /** Of the first thousand reads after the start, one at a time. */
  readonly first: LoadSample[]
  /** Bytes, after all loads of the setup, without the guest's memory. */
  readonly memory: number[]
}

export interface Calls {
  readonly case: string
  readonly server: string
  readonly counter: string
  /** System calls for each request: those that ask for disk I/O, and all. */
  readonly io: number
  readonly all: number
  /** The same by name, the frequent ones. */
  readonly byName: Readonly<Record<string, number>>
}

/** Garbage collections of a server that has been serving for a while. */
export interface Collections {
  readonly case: string
  readonly server: string
  readonly seconds: number
  readonly count: number
}

export interface Results {
  readonly date: string
  readonly machine: Machine
  readonly quick: boolean
  /** Rounds that were done. */
  rounds: number
  readonly milliseconds: number
  readonly cpus: readonly number[]
  readonly imageBytes: number
  seconds: number
  readonly cases: readonly Case[]
  readonly measured: Measured[]
  readonly starts: Start[]
  readonly calls: Calls[]
  readonly collections: Collections[]
  /** What could not be measured, and why. */
  readonly notes: string[]
}

export type Figure = Exclude<keyof LoadSample, 'requests' | 'sessionRequests'>

export function median (values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return NaN
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Half of the distance between the least and the most, as a share of the median. */
export function spread (values: readonly number[]): number {
  return (Math.max(...values) - Math.min(...values)) / 2 / median(values)
}

export function figures ({ samples }: Measured, figure: Figure): number[] {
  return samples.flatMap((sample) => sample === undefined ? [] : [sample[figure]])
}

export function find (results: Results, caseName: string, server: string): Measured | undefined {
  return results.measured.find((one) => one.case === caseName && one.server === server)
}

/** The server of a side that is best in a figure: least time, or most IOPS. */
export function best (results: Results, caseName: string, side: Measured['side'], figure: Figure): Measured | undefined {
  const sign = figure === 'iops' ? -1 : 1
  return results.measured
    .filter((one) => one.case === caseName && one.side === side && figures(one, figure).length > 0)
    .sort((one, other) => sign * (median(figures(one, figure)) - median(figures(other, figure))))[0]
}

/** One server's figure by another's in each turn: what changes from turn to turn counts out. */
export function ratios (one: Measured | undefined, other: Measured | undefined, figure: Figure): number[] {
  if (one === undefined || other === undefined) return []
  return one.samples.flatMap((sample, turn) => {
    const peer = other.samples[turn]
    return sample === undefined || peer === undefined ? [] : [sample[figure] / peer[figure]]
  })
}

/** The median of them; NaN where there is none. */
export function ratio (one: Measured | undefined, other: Measured | undefined, figure: Figure): number {
  return median(ratios(one, other, figure))
}
