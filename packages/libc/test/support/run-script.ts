import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'

/** Runs a script in a process of its own, for what cannot be undone. @returns what it printed, as JSON */
export function runScript (script: string): any {
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, [...process.execArgv, '--input-type=module', '-e', script],
    { cwd: new URL('../..', import.meta.url), encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL' })
  assert.equal(status, 0, `${signal}: ${stderr}`)
  return JSON.parse(stdout)
}
