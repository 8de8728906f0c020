import { readFileSync } from 'node:fs'

/** Resident memory of a process in bytes, without what it shares: its guest's memory, and an image that is mapped. */
export function residentMemory (pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1')
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)![1])
  return (kib('VmRSS') - kib('RssShmem')) * 1024
}
