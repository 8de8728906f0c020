import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** The package manager, pinned; npx fetches it on a machine that has only npm. */
const PNPM = 'pnpm@12.21.0'

/** The repository's root. */
export const root = fileURLToPath(new URL('..', import.meta.url))

/** Runs pnpm; what it prints goes to standard error, so that a program whose output is piped stays clean. */
export function pnpm (args, cwd = root) {
  execFileSync('npx', ['--yes', PNPM, ...args], { cwd, stdio: ['ignore', 2, 2] })
}
