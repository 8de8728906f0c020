// npm run fuzz: plays each surface in a process of its own, and tells how that ended: one that hangs, or that a signal
// killed, names its case too.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { HeartbeatFile } from './heartbeat.ts'
import { HELP, type Options, parseOptions, type SurfaceName } from './options.ts'
import { replayLine } from './report.ts'
import type { RunOptions } from './run-surface.ts'

/** A case that takes longer hangs. */
const HANG_MILLISECONDS = 60_000
const LOOK_MILLISECONDS = 1000

const options = readOptions()
if (options === undefined) {
  console.log(HELP)
} else {
  for (const surface of options.surfaces) {
    if (!await play(surface, options)) process.exitCode = 1
  }
}

function readOptions (): Options | undefined {
  try {
    return parseOptions(process.argv.slice(2))
  } catch (error) {
    console.error(`${(error as Error).message}\nnpm run fuzz -- --help lists the options`)
    process.exit(1)
  }
}

/** @returns whether nothing was found */
async function play (surface: SurfaceName, { seed, seconds, first, cases }: Options): Promise<boolean> {
  const heartbeat = new HeartbeatFile()
  const init: RunOptions = { surface, seed, first, cases: finite(cases), milliseconds: finite(seconds * 1000), heartbeat: heartbeat.path }
  const program = fileURLToPath(new URL('./run-surface.ts', import.meta.url))
  const child = spawn(process.execPath, [...process.execArgv, program, JSON.stringify(init)], { stdio: 'inherit' })
  // What ends this program ends the campaign first.
  const end = (signal: NodeJS.Signals): void => { child.kill(signal) }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, end)
  let last = { beats: -1, at: 0 }
  let hangs = false
  const timer = setInterval(() => {
    const { beats } = heartbeat.read()
    if (beats !== last.beats) last = { beats, at: performance.now() }
    hangs = performance.now() - last.at > HANG_MILLISECONDS
    if (hangs) child.kill('SIGKILL')
  }, LOOK_MILLISECONDS)
  const [status, signal] = await once(child, 'exit') as [number | null, NodeJS.Signals | null]
  clearInterval(timer)
  for (const each of ['SIGINT', 'SIGTERM'] as const) process.off(each, end)
  const { number } = heartbeat.read()
  heartbeat.remove()
  if (signal !== null) {
    console.log(`${surface}: seed ${seed}, case ${number} ${hangs ? `did not end within ${HANG_MILLISECONDS / 1000} s` : `ended the process by ${signal}`}\n` +
      `again: ${replayLine(surface, seed, number)}`)
  }
  return status === 0
}

function finite (value: number): number | null {
  return Number.isFinite(value) ? value : null
}
