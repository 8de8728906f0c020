// What happens when descriptors run out: in a process of its own, whose limit is low.
import { deepEqual } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Runs a module in a process that may have 64 descriptors. @returns what it printed. @throws where it fails */
export function runWithFewDescriptors (module: URL): string {
  const command = [process.execPath, ...process.execArgv, fileURLToPath(module)].map((argument) => `'${argument}'`).join(' ')
  const { status, signal, stdout, stderr } = spawnSync('sh', ['-c', `ulimit -n 64; exec ${command}`], { encoding: 'utf8', timeout: 60_000 })
  if (status !== 0) throw new Error(`status ${status}, signal ${signal}: ${stderr}`)
  return stdout
}

/** Takes all descriptors that are left, and says which they are. */
export function takeDescriptors (): number[] {
  const taken: number[] = []
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'))
  } catch {
    return taken
  }
}

/**
 * Makes something and gives it back, with no descriptor to spare, with one, and so on up to three: where it cannot be made,
 * no descriptor is lost. What it loads at its first use is to be loaded before.
 *
 * @returns how often it could not
 */
export function leavesNoDescriptor (what: string, make: () => { close (): void }): number {
  let failures = 0
  for (let spare = 0; spare < 4; spare++) {
    const taken = takeDescriptors()
    for (const fd of taken.slice(0, spare)) closeSync(fd)
    try {
      make().close()
    } catch {
      failures++
    }
    const left = takeDescriptors()
    deepEqual(left.sort(), taken.slice(0, spare).sort(), `${what} with ${spare} to spare`)
    for (const fd of [...left, ...taken.slice(spare)]) closeSync(fd)
  }
  return failures
}
