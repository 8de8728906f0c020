import { native } from './library.ts'

const exitC = native('void _exit(int status)')

/**
 * Ends the process at once: no handler runs, nothing is flushed, no thread is waited for, not even one inside a system
 * call, for which `process.exit()` waits. See `_exit(2)`.
 *
 * @param status 0 to 255: what `wait(2)` tells the parent.
 */
export function exitNow (status: number): never {
  exitC()(status)
  throw new Error('_exit returned')
}
