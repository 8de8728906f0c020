// Runs a TypeScript file of this repository against the built packages: node tools/run.mjs FILE [argument …]
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const loader = fileURLToPath(new URL('ts.mjs', import.meta.url))
const { status, signal } = spawnSync(process.execPath, ['--import', loader, ...process.argv.slice(2)], { stdio: 'inherit' })
if (signal !== null) process.kill(process.pid, signal)
process.exitCode = status ?? 1
