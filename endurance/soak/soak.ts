import { randomNumbers } from '../../packages/ioq/src/random.ts'
import { cleanUp, temporaryFolder } from '../../test/support/temporary.ts'
import { judge, LONG, SHORT, table } from './judge.ts'
import { type Life, live } from './life.ts'
import { library, program, type Subject } from './subject.ts'

const ROWS = 16
/** Seconds from which on a run is a long one. */
const LONG_SECONDS = 600

/** Watches the program, on a disk, and the library, in memory, at the same time. @throws when one of them does what it must not */
export async function soak (seconds: number, seed: number): Promise<Life[]> {
  const subjects: Subject[] = []
  try {
    subjects.push(await program(temporaryFolder()), await library(temporaryFolder('/dev/shm')))
    const lives = await Promise.all(subjects.map((subject, index) => live(subject, seconds, randomNumbers(seed + index))))
    for (const subject of subjects) await subject.end()
    return lives
  } catch (error) {
    throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
  } finally {
    for (const subject of subjects) await subject.kill()
    await cleanUp()
  }
}

/** What came of a life, and what speaks against it. */
export function report ({ name, seconds, samples, requests, verified, events }: Life): { text: string, problems: string[] } {
  const problems = judge(samples, seconds < LONG_SECONDS ? SHORT : LONG)
  const happened = [...events].map(([event, times]) => `${times} x ${event}`).join(', ')
  const verdict = problems.length === 0 ? `${name} does not grow.` : problems.map((problem) => `${name}: ${problem}`).join('\n')
  return { problems, text: `\n${name}: ${requests} requests, ${verified} reads compared; ${happened}\n${table(samples, ROWS)}\n${verdict}` }
}
