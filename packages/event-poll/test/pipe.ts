import { spawnSync } from 'node:child_process'
import { constants, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'

let made = 0

/** A pipe: a named one whose name is gone. */
export function pipe (): { readEnd: number, writeEnd: number } {
  const path = `${tmpdir()}/node-vmm-event-poll-${process.pid}-${made++}`
  const { status, stderr } = spawnSync('mkfifo', [path])
  if (status !== 0) throw new Error(`mkfifo: ${stderr}`)
  const readEnd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const writeEnd = openSync(path, constants.O_WRONLY)
  rmSync(path)
  return { readEnd, writeEnd }
}
