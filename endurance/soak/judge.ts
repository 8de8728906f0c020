// When a program does not grow.

/** A program while nobody uses it: between two front-ends. */
export interface Sample {
  /** Seconds since the beginning. */
  readonly at: number
  /** Bytes of memory in use, as the kernel counts them. */
  readonly resident: number
  /** Bytes of the main thread's JavaScript heap after a collection; undefined where that cannot be had. */
  readonly heap: number | undefined
  /** Descriptors, and mappings of files, by what they are. */
  readonly footprint: readonly string[]
  /** Of the requests since the last sample, in nanoseconds. */
  readonly p50: number
  readonly p99: number
  readonly requests: number
}

/** The part of the time that is warm-up: the first quarter. */
const QUARTERS = 4
/** How much more memory is no growth: a share, or bytes, whichever is more. */
export interface Tolerance {
  readonly share: number
  readonly bytes: number
}

/** In a long run: the play of the allocators. */
export const LONG: Tolerance = { share: 0.05, bytes: 4 * 2 ** 20 }
/** In a run of less than ten minutes code is still being compiled, and heaps find their size. */
export const SHORT: Tolerance = { share: 0.2, bytes: 16 * 2 ** 20 }
/** Below this many samples a quarter has no median to speak of. */
export const SAMPLES_MIN = 8

/**
 * What speaks against a program: nothing, where after the first quarter its memory does not grow (the median of the
 * last quarter is no more above that of the second one than is tolerated) and every sample has the same descriptors
 * and mappings.
 */
export function judge (samples: readonly Sample[], { share, bytes }: Tolerance): string[] {
  if (samples.length < SAMPLES_MIN) return [`${samples.length} samples are too few: ${SAMPLES_MIN} are needed`]
  const second = quarter(samples, 1)
  const last = quarter(samples, 3)
  const problems: string[] = []
  for (const [what, of] of [['memory', ({ resident }: Sample) => resident], ['the JavaScript heap', ({ heap }: Sample) => heap ?? 0]] as const) {
    const [before, after] = [median(second.map(of)), median(last.map(of))]
    if (after - before > Math.max(bytes, before * share)) problems.push(`${what} grew from ${mebibytes(before)} to ${mebibytes(after)}`)
  }
  const settled = samples.slice(Math.floor(samples.length / QUARTERS))
  const strange = settled.find(({ footprint }) => footprint.join() !== settled[0]!.footprint.join())
  if (strange !== undefined) problems.push(`at ${strange.at.toFixed(0)} s it holds other things than at ${settled[0]!.at.toFixed(0)} s: ${difference(settled[0]!.footprint, strange.footprint)}`)
  return problems
}

/** Samples of a quarter of the time, from 0. */
function quarter (samples: readonly Sample[], index: number): readonly Sample[] {
  const at = (share: number): number => Math.floor(samples.length * share / QUARTERS)
  return samples.slice(at(index), at(index + 1))
}

/** The middle one of some values. */
export function median (values: readonly number[]): number {
  return [...values].sort((one, other) => one - other)[values.length >> 1]!
}

export function mebibytes (bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`
}

function difference (before: readonly string[], after: readonly string[]): string {
  const [more, less] = [without(after, before), without(before, after)]
  return [...more.map((item) => `+ ${item}`), ...less.map((item) => `- ${item}`)].join(', ')
}

/** What is in one list and not, or less often, in the other. */
function without (items: readonly string[], others: readonly string[]): string[] {
  const left = [...others]
  return items.filter((item) => {
    const at = left.indexOf(item)
    if (at >= 0) left.splice(at, 1)
    return at < 0
  })
}

/** The samples as a table of so many rows at most, each the middle of its time. */
export function table (samples: readonly Sample[], rows: number): string {
  const step = Math.ceil(samples.length / rows)
  const lines = ['    time   memory     heap  fds  maps  requests        p50        p99']
  for (let from = 0; from < samples.length; from += step) lines.push(row(samples.slice(from, from + step)))
  return lines.join('\n')
}

function row (samples: readonly Sample[]): string {
  const { at, footprint, heap } = samples.at(-1)!
  const count = (prefix: string): number => footprint.filter((item) => item.startsWith(prefix)).length
  const middle = (of: (sample: Sample) => number): number => median(samples.map(of))
  const cells: readonly (readonly [string, number])[] = [
    [`${at.toFixed(0)} s`, 8], [(middle(({ resident }) => resident) / 2 ** 20).toFixed(1), 9],
    [heap === undefined ? '-' : (middle(({ heap }) => heap!) / 2 ** 20).toFixed(1), 9],
    [`${count('descriptor')}`, 5], [`${count('mapping')}`, 6], [`${samples.reduce((sum, { requests }) => sum + requests, 0)}`, 10],
    [`${(middle(({ p50 }) => p50) / 1000).toFixed(0)} us`, 11], [`${(middle(({ p99 }) => p99) / 1000).toFixed(0)} us`, 11]
  ]
  return cells.map(([text, width]) => text.padStart(width)).join('')
}
