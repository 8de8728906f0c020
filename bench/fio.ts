import { Running } from '../test/support/processes.ts'
import { machineTime } from './accounting.ts'
import type { Case } from './cases.ts'
import type { LoadSample } from './load.ts'
import { pinned } from './processes.ts'

interface Direction {
  readonly total_ios: number
  readonly iops: number
  readonly lat_ns: { readonly max: number, readonly percentile?: Readonly<Record<string, number>> }
}

interface Job {
  readonly error: number
  readonly read: Direction
  readonly write: Direction
  readonly usr_cpu: number
  readonly sys_cpu: number
  readonly job_runtime: number
}

/** Has fio make the same load on the file itself, batched in the same way: there is nothing to be faster than. */
export async function runFio (which: Case, image: string, warmUpMilliseconds: number, milliseconds: number, cpu: number): Promise<LoadSample> {
  const { kind, pattern, blockBytes, depth, backing } = which
  const before = machineTime()
  const begin = performance.now()
  const program = pinned(cpu, () => new Running('fio', 'fio', [
    '--output-format=json', '--name=bench', `--filename=${image}`, '--ioengine=libaio', `--direct=${Number(backing === 'disk')}`,
    `--rw=${pattern === 'random' ? 'rand' : ''}${kind}`, `--bs=${blockBytes}`, `--iodepth=${depth}`, `--iodepth_batch_submit=${depth}`,
    '--iodepth_batch_complete_min=1', `--iodepth_batch_complete_max=${depth}`, '--time_based', `--runtime=${milliseconds}ms`,
    `--ramp_time=${warmUpMilliseconds}ms`, '--norandommap', '--randrepeat=0', '--invalidate=0', '--lat_percentiles=1', '--clat_percentiles=0'
  ]))
  const { status } = await program.ended((warmUpMilliseconds + milliseconds) / 1000 + 10)
  const after = machineTime()
  const elapsed = (performance.now() - begin) / 1000
  const json = program.output.slice(program.output.indexOf('{'))
  if (status !== 0) throw program.failure('failed')
  const job = (JSON.parse(json) as { jobs: Job[] }).jobs[0]
  if (job.error !== 0) throw program.failure('failed')

  const { total_ios: requests, iops, lat_ns: { max, percentile = {} } } = job[kind]
  const percentileOf = (share: string): number => (percentile[share] ?? NaN) / 1000
  const runtime = job.job_runtime / 1000
  const time = (job.usr_cpu + job.sys_cpu) / 100 * runtime * 1e6
  return {
    requests,
    iops,
    serverTime: time / requests,
    loadTime: 0,
    p50: percentileOf('50.000000'),
    p99: percentileOf('99.000000'),
    p999: percentileOf('99.900000'),
    max: max / 1000,
    kicks: 0,
    interrupts: 0,
    stalls: 0,
    // Its own start and end count as others: an upper limit.
    otherLoad: Math.max(0, after.busy - before.busy - time / 1e6 * (1 + warmUpMilliseconds / 1000 / runtime)) / elapsed,
    stolen: (after.stolen - before.stolen) / elapsed,
    sessionRequests: requests
  }
}
