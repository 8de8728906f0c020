import assert from 'node:assert/strict'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { eventually } from './eventually.ts'

const SAMPLE_MILLISECONDS = 20
const SAME_SAMPLES = 15

/**
 * What a process holds that it could leak: its descriptors, by what they are, and its mappings of files and of kernel
 * objects. Memory of no file is left out: the JavaScript engine takes and gives back of that as it likes.
 */
export function footprint (pid: number): string[] {
  return [...descriptors(pid), ...mappings(pid)].sort()
}

function descriptors (pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return `descriptor of ${readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/:\[\d+\]$/, '')}`
    } catch {
      return 'descriptor just closed'
    }
  })
}

/** Bytes of each file: the kernel joins mappings that happen to meet, so their number says little. */
function mappings (pid: number): string[] {
  const bytes = new Map<string, number>()
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const [, start, end, access, file] = line.match(/^(\w+)-(\w+) (\S+) \S+ \S+ \d+ +([^[ ].*)$/) ?? []
    if (file === undefined) continue
    const what = `mapping ${access} of ${file}`
    bytes.set(what, (bytes.get(what) ?? 0) + Number(`0x${end}`) - Number(`0x${start}`))
  }
  return [...bytes].map(([what, total]) => `${what}: ${total} bytes`)
}

/** What a process holds once that does not change for a while: it may give things back after its last answer. */
export async function settledFootprint (pid: number): Promise<string[]> {
  let last = footprint(pid)
  for (let same = 0; same < SAME_SAMPLES;) {
    await sleep(SAMPLE_MILLISECONDS)
    const now = footprint(pid)
    same = now.join() === last.join() ? same + 1 : 0
    last = now
  }
  return last
}

/** Waits until a process holds what it held before, no more and no less. @throws with the difference */
export async function holdsAgain (pid: number, before: readonly string[]): Promise<void> {
  const isSo = (): boolean => footprint(pid).join() === before.join()
  // What it gives back after an answer, it may be giving back now.
  await eventually('it holds what it held', isSo).catch(() => {
    const now = footprint(pid)
    assert.deepEqual({ more: without(now, before), less: without(before, now) }, { more: [], less: [] })
  })
}

/** The items of a list that another one does not have, as often as it does not. */
function without (items: readonly string[], others: readonly string[]): string[] {
  const left = [...others]
  return items.filter((item) => {
    const index = left.indexOf(item)
    if (index >= 0) left.splice(index, 1)
    return index < 0
  })
}

/** Clock ticks of processor time that all its threads have used. See `proc_pid_stat(5)`. */
export function processorTime (pid: number): number {
  const fields = afterName(pid)
  return Number(fields[11]) + Number(fields[12])
}

/** Its state, `S` for one that sleeps and `T` for one that is stopped. */
export function processState (pid: number): string {
  return afterName(pid)[0]!
}

/** Of `/proc/pid/stat`, what follows the name, which may have spaces of its own. */
function afterName (pid: number): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
}
