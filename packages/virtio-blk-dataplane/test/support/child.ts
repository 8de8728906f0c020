import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const loader = fileURLToPath(new URL('../../../../tools/ts.mjs', import.meta.url))

/** How a program ended. */
export interface ChildEnd {
  /** Its exit status, or the name of the signal that ended it: SIGKILL after the time limit. */
  readonly status: number | string
  readonly stdout: string
  readonly stderr: string
}

/** Runs a TypeScript file in a process of its own. */
export function runChild (file: URL, args: readonly string[] = [], { limit = 60_000, flags = [] as readonly string[] } = {}): Promise<ChildEnd> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [...flags, '--import', loader, '--conditions=@node-vmm/source', fileURLToPath(file), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'], timeout: limit, killSignal: 'SIGKILL'
    })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (chunk) => { stdout += chunk })
    child.stderr.on('data', (chunk) => { stderr += chunk })
    child.on('close', (status, signal) => {
      resolve({ status: status ?? signal!, stdout, stderr })
    })
  })
}
