import { tmpdir } from 'node:os'
import { directRefused } from '../../test/support/image.ts'
import { engineRefused } from '../../test/support/server.ts'
import { type Choices, type Plan, planOf } from './plan.ts'
import { type Outcome, run } from './run.ts'

const ENGINES = ['mapped', 'io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync'] as const
/** Runs at once: most of one is the start of its processes. */
const JOBS = 2

/** The choices that this host has. */
export function choices (lie?: Choices['lie']): Choices {
  return {
    engines: ENGINES.filter((engine) => engineRefused(engine) === undefined),
    direct: directRefused(tmpdir()) === undefined,
    lie
  }
}

/** Makes runs of one seed after the other, until `onOutcome` says that it is enough. @throws with the seed of a run that failed by itself */
export async function campaign (seed: number, runs: number, given: Choices, onOutcome: (outcome: Outcome) => 'go on' | 'enough'): Promise<void> {
  let next = 0
  const work = async (): Promise<void> => {
    while (next < runs) {
      const plan = planOf((seed + next++) >>> 0, given)
      if (onOutcome(await runNamed(plan)) === 'enough') next = runs
    }
  }
  await Promise.all(Array.from({ length: JOBS }, work))
}

async function runNamed (plan: Plan): Promise<Outcome> {
  try {
    return await run(plan)
  } catch (error) {
    throw new Error(`the run of seed ${plan.seed} failed: ${(error as Error).message}`, { cause: error })
  }
}

/** What a run was, in a line. */
export function describe ({ seed, how, queues, depth, writeThrough, packed, inOrder, direct, cut }: Plan): string {
  const ring = `${packed ? 'packed' : 'split'}${inOrder ? ' in order' : ''}`
  const end = how === 'power' ? `power cut ${cut.moment}` : 'process killed'
  return `seed ${seed}: ${cut.engine}${direct ? ' with O_DIRECT' : ''}, ${queues} ${ring} queues, ${depth} at once, ${writeThrough ? 'write-through' : 'write-back'}, ${end} after ${cut.requests} requests`
}
