import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Running } from '../test/support/processes.ts'

const EVENTS = '/sys/kernel/tracing/events/syscalls'
/** System calls that ask for disk I/O, or for its completions. */
const IO_CALLS = new Set([
  'io_uring_enter', 'io_submit', 'io_getevents', 'io_pgetevents', 'process_vm_readv', 'process_vm_writev',
  'pread64', 'pwrite64', 'preadv', 'pwritev', 'preadv2', 'pwritev2', 'fdatasync'
])
const OTHER_CALLS = ['epoll_wait', 'epoll_pwait', 'epoll_pwait2', 'ppoll', 'poll', 'read', 'write', 'futex', 'sched_yield']
const ATTACH_MILLISECONDS = 400

/** System calls of a process while something ran, by name; only those that were made. */
export type SystemCalls = Readonly<Record<string, number>>

/** How this machine can count system calls; undefined when it cannot. */
export function findCounter (): 'perf' | 'strace' | undefined {
  const probe = (program: string, args: string[]): boolean => spawnSync(program, args, { stdio: 'ignore', timeout: 10_000 }).status === 0
  if (probe('perf', ['stat', '-e', 'syscalls:sys_enter_read', 'true'])) return 'perf'
  return probe('strace', ['-c', '-o', '/dev/null', 'true']) ? 'strace' : undefined
}

/** Counts the system calls of all threads of a process while something runs. `perf` hardly slows it down, `strace` does. */
export async function countSystemCalls (counter: 'perf' | 'strace', pid: number, run: () => Promise<void>): Promise<SystemCalls> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-calls-'))
  const output = join(folder, 'counts')
  const args = counter === 'perf'
    ? ['stat', '-x', ',', '-o', output, ...tracepoints().flatMap((event) => ['-e', event]), '-p', String(pid)]
    : ['-f', '-c', '-o', output, '-p', String(pid)]
  const program = new Running(counter, counter, args)
  try {
    await sleep(ATTACH_MILLISECONDS)
    await run()
    program.signal('SIGINT')
    await program.ended(10)
    const text = readFileSync(output, 'utf8')
    return counter === 'perf' ? parsePerf(text) : parseStrace(text)
  } finally {
    await program.kill()
    rmSync(folder, { recursive: true })
  }
}

/** Those that ask for disk I/O. */
export function ioCalls (calls: SystemCalls): number {
  return Object.entries(calls).reduce((sum, [name, count]) => IO_CALLS.has(name) ? sum + count : sum, 0)
}

export function allCalls (calls: SystemCalls): number {
  return calls.all ?? Object.values(calls).reduce((sum, count) => sum + count, 0)
}

function tracepoints (): string[] {
  const known = new Set(readdirSync(EVENTS))
  const named = [...IO_CALLS, ...OTHER_CALLS].map((name) => `sys_enter_${name}`).filter((name) => known.has(name))
  return ['raw_syscalls:sys_enter', ...named.map((name) => `syscalls:${name}`)]
}

/** Lines of `perf stat -x,`: count, unit, event, and more. */
export function parsePerf (text: string): SystemCalls {
  const calls: Record<string, number> = {}
  for (const line of text.split('\n')) {
    const [count, , event] = line.split(',')
    const name = event === 'raw_syscalls:sys_enter' ? 'all' : event?.match(/^syscalls:sys_enter_(.*)$/)?.[1]
    if (name !== undefined && Number(count) > 0) calls[name] = Number(count)
  }
  return calls
}

/** Lines of `strace -c`: share of time, seconds, microseconds a call, calls, errors if any, name. */
export function parseStrace (text: string): SystemCalls {
  const calls: Record<string, number> = {}
  for (const [, count, name] of text.matchAll(/^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$/gm)) {
    calls[name === 'total' ? 'all' : name] = Number(count)
  }
  return calls
}
