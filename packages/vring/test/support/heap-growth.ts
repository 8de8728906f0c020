import { getHeapStatistics } from 'node:v8'

const ROUNDS = 8

/**
 * Bytes by which the heap grows in one round of some work, in the steady state: what the runtime allocates while it is
 * still compiling the work is in a few rounds, what the work allocates is in all of them, so the middle one tells.
 */
export function heapGrowth (work: () => void): number {
  work()
  const grown: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const before = getHeapStatistics().used_heap_size
    work()
    const growth = getHeapStatistics().used_heap_size - before
    // A collection in between hides what was allocated.
    if (growth >= 0) grown.push(growth)
  }
  if (grown.length === 0) throw new Error('every round had a collection')
  return grown.sort((one, other) => one - other)[grown.length >> 1]!
}
