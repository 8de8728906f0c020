import { monotonicTime, NativeMemory } from '@node-vmm/libc'

/** Stores the time, in microseconds: as a result it would be an object. */
export type Clock = (times: Float64Array, at: number) => void

let monotonic: Clock | undefined

/** The clock that nobody sets (CLOCK_MONOTONIC), the same in all threads and programs. It makes no system call. */
export function monotonicClock (): Clock {
  monotonic ??= makeClock()
  return monotonic
}

function makeClock (): Clock {
  const { address, u32 } = new NativeMemory(16)
  return (times, at) => {
    monotonicTime(address)
    times[at] = u32[0]! * 1e6 + u32[2]! / 1e3
  }
}
