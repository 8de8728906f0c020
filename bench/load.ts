// The load generator: a process of its own, on a processor of its own, told by messages what to do. It is the same for
// all servers of a run, and stays, so that its code is equally warm for each of them.
import { machineTime, processorTime } from './accounting.ts'
import { Guest, type GuestOptions } from './guest.ts'
import { LoadLoop, type LoadOptions } from './load-loop.ts'

/** Requests that warm a queue up, and the time that this may take. */
const WARM_REQUESTS = 5000
const WARM_MILLISECONDS_MAX = 1500

/** What to do. */
export interface LoadJob extends GuestOptions, LoadOptions {
  /** The server's process: its processor time is read just before and just after. */
  readonly pid: number
  readonly warmUpMilliseconds: number
  readonly milliseconds: number
  /** Count the first requests of the connection instead, as many as this, without a warm-up. @default 0 */
  readonly firstRequests?: number
}

/** What came of it. Times in microseconds, the rest for each request. */
export interface LoadSample {
  readonly requests: number
  readonly iops: number
  /** Of all threads of the server, by request. */
  readonly serverTime: number
  /** Of the load generator, by request. */
  readonly loadTime: number
  readonly p50: number
  readonly p99: number
  readonly p999: number
  readonly max: number
  readonly kicks: number
  readonly interrupts: number
  /** Times that the server did nothing until it was kicked once more. */
  readonly stalls: number
  /** Processors that others kept busy meanwhile: 0.5 is half of one. */
  readonly otherLoad: number
  /** Processors that the hypervisor gave to others meanwhile. */
  readonly stolen: number
  /** Requests of the whole session, warm-up included. */
  readonly sessionRequests: number
}

export type LoadAnswer = { readonly sample: LoadSample } | { readonly error: string }

process.on('message', async (job: LoadJob) => {
  let answer: LoadAnswer
  try {
    answer = { sample: await measure(job) }
  } catch (error) {
    answer = { error: (error as Error).message }
  }
  process.send!(answer)
})
// Whoever has started this process is gone.
process.on('disconnect', () => process.exit())

async function measure (job: LoadJob): Promise<LoadSample> {
  const guest = await Guest.connect(job)
  const loop = new LoadLoop(guest, job)
  try {
    const { firstRequests = 0 } = job
    if (firstRequests > 0) return measured(loop, job, () => loop.run(Infinity, { requests: firstRequests }), 0)
    const before = warmUp(loop, job, guest.queues.length)
    return measured(loop, job, () => loop.run(job.milliseconds), before)
  } finally {
    await guest.close()
    loop.close()
  }
}

/** For a time, and until every queue has had enough for its code to be compiled. @returns requests done */
function warmUp (loop: LoadLoop, { warmUpMilliseconds }: LoadJob, queues: number): number {
  loop.run(warmUpMilliseconds, { checks: true })
  check(loop)
  const { done } = loop.counts
  const missing = queues * WARM_REQUESTS - done
  if (missing <= 0) return done
  loop.run(WARM_MILLISECONDS_MAX, { requests: missing })
  return done + loop.counts.done
}

function measured (loop: LoadLoop, { pid }: LoadJob, run: () => void, before: number): LoadSample {
  const machine = machineTime()
  const begin = performance.now()
  const load = process.cpuUsage()
  const server = processorTime(pid)
  run()
  const serverTime = (processorTime(pid) - server) / 1000
  const { user, system } = process.cpuUsage(load)
  const machineAfter = machineTime()
  const wholeSeconds = (performance.now() - begin) / 1000
  check(loop)

  const { latencies, counts: { done, milliseconds, kicks, interrupts, stalls } } = loop
  const seconds = milliseconds / 1000
  return {
    requests: done,
    iops: done / seconds,
    serverTime: serverTime / done,
    loadTime: (user + system) / done,
    p50: latencies.percentile(0.5) / 1000,
    p99: latencies.percentile(0.99) / 1000,
    p999: latencies.percentile(0.999) / 1000,
    max: latencies.max / 1000,
    kicks: kicks / done,
    interrupts: interrupts / done,
    stalls,
    otherLoad: Math.max(0, machineAfter.busy - machine.busy - (serverTime + user + system) / 1e6) / wholeSeconds,
    stolen: (machineAfter.stolen - machine.stolen) / wholeSeconds,
    sessionRequests: before + done
  }
}

function check ({ counts: { errors, mismatches } }: LoadLoop): void {
  if (errors > 0) throw new Error(`${errors} requests failed`)
  if (mismatches > 0) throw new Error(`${mismatches} reads gave something else than the image has`)
}
