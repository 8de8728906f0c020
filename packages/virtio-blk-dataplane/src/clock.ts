import { monotonicTime, NativeMemory, threadTime } from '@node-vmm/libc'

/** Stores the time, in microseconds: as a result it would be an object. */
export type Clock = (times: Float64Array, at: number) => void

let monotonic: Clock | undefined

/** The clock that nobody sets (CLOCK_MONOTONIC), the same in all threads and programs. It makes no system call. */
export function monotonicClock (): Clock {
  monotonic ??= makeClock(monotonicTime)
  return monotonic
}

/** How long the calling thread has been on a processor (CLOCK_THREAD_CPUTIME_ID): a system call. */
export function threadClock (): Clock {
  return makeClock(threadTime)
}

function makeClock (look: (address: number) => void): Clock {
  const { address, u32 } = new NativeMemory(16)
  return (times, at) => {
    look(address)
    times[at] = u32[0]! * 1e6 + u32[2]! / 1e3
  }
}
