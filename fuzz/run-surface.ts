// Plays one surface, in a process of its own: fuzz.ts sees to it that its end, whatever it is, is told.
import { argv } from 'node:process'
import { campaign } from './campaign.ts'
import { Heartbeat } from './heartbeat.ts'
import type { SurfaceName } from './options.ts'
import { describe, summary } from './report.ts'
import { openSurface } from './surfaces.ts'

/** What this program is told, as JSON in its first argument. */
export interface RunOptions {
  readonly surface: SurfaceName
  readonly seed: number
  readonly first: number
  /** Cases at most; null where only time counts. */
  readonly cases: number | null
  /** null where only the cases count. */
  readonly milliseconds: number | null
  readonly heartbeat: string
}

const PROGRESS_MILLISECONDS = 500

const { surface, seed, first, cases, milliseconds, heartbeat } = JSON.parse(argv[2]!) as RunOptions
const beats = new Heartbeat(heartbeat)
// Files are removed as the process exits.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
let nextProgress = PROGRESS_MILLISECONDS

const result = await campaign(await openSurface(surface), {
  seed,
  first,
  cases: cases ?? Infinity,
  milliseconds: milliseconds ?? Infinity,
  onCase: (number) => beats.beat(number),
  onProgress: showProgress
})
if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
console.log(summary(surface, seed, result))
if (result.failure !== undefined) console.log(describe(surface, seed, result.failure))
beats.close()
// What failed may have left threads and descriptors behind.
process.exit(result.failure === undefined ? 0 : 1)

function showProgress (played: number, elapsed: number): void {
  if (!process.stderr.isTTY || elapsed < nextProgress) return
  nextProgress = elapsed + PROGRESS_MILLISECONDS
  const mebibytes = Math.round(process.memoryUsage.rss() / 2 ** 20)
  process.stderr.write(`\r\x1b[K${surface}: ${played} cases in ${Math.round(elapsed / 1000)} s, ${mebibytes} MiB`)
}
