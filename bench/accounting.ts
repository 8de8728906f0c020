import { readdirSync, readFileSync } from 'node:fs'

/** Of one clock tick in /proc: USER_HZ is 100 on every architecture that this runs on. */
const TICK_SECONDS = 0.01

/**
 * Processor time of all threads of a process so far, in nanoseconds, the kernel's part included: the sum of
 * /proc/PID/task/TID/schedstat, which is exact where /proc/PID/stat counts ticks.
 */
export function processorTime (pid: number): number {
  let sum = 0
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    try {
      sum += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1').split(' ')[0])
    } catch {
      // A thread that ended meanwhile: one of the kernel's helpers, which idle before they go.
    }
  }
  return sum
}

/** Seconds that all processors of this machine were busy so far, and that the host had taken them away. */
export function machineTime (): { busy: number, stolen: number } {
  const line = readFileSync('/proc/stat', 'latin1').split('\n')[0]
  const [user, nice, system, , , irq, softirq, steal] = line.trim().split(/\s+/).slice(1).map((ticks) => Number(ticks) * TICK_SECONDS)
  return { busy: user + nice + system + irq + softirq, stolen: steal }
}
