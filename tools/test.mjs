// Runs every test file in a process of its own, with a time limit: a hung worker or a native crash takes down
// one file, not the run. As many run at the same time as there are processors, the slow ones first.
// usage: node tools/test.mjs [--fast] [--jobs=N] [path prefix …]
//   --fast leaves out what boots guests, drives browsers or installs packages.
// Where CI is set, a file that fails is run once more at the end, alone: what then passes counts as passed, and is told as flaky.
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values: { fast, jobs }, positionals } = parseArgs({
  options: { fast: { type: 'boolean', default: false }, jobs: { type: 'string', default: String(availableParallelism()) } },
  allowPositionals: true
})
const only = positionals.map((path) => relative(root, join(process.cwd(), path)))
/** Slow ones, and how long each file may take. */
const limitSeconds = { 'test/guests': 900, 'test/packaging': 600, 'test/site': 240, 'examples': 300 }
const isSlow = (file) => Object.keys(limitSeconds).some((prefix) => file.startsWith(prefix))

const files = ['packages', 'examples', 'bench', 'endurance', 'fuzz', 'test']
  .flatMap((dir) => readdirSync(join(root, dir), { recursive: true }).map((name) => join(dir, name)))
  .filter((file) => file.endsWith('.test.ts') && !file.includes('node_modules'))
  .filter((file) => only.length === 0 || only.some((prefix) => file.startsWith(prefix)))
  .filter((file) => !fast || !isSlow(file))
  .sort((one, other) => isSlow(other) - isSlow(one) || (one < other ? -1 : 1))

const sum = { passed: 0, failed: 0, skipped: 0 }
if (only.length === 0) await typecheck()
const again = []
const waiting = files.values()
await Promise.all(Array.from({ length: Number(jobs) }, async () => {
  for (const file of waiting) {
    const ran = await runFile(file)
    if (ran.result.failed > 0 && process.env.CI) {
      console.log(`again ${ran.title}: failed, and is run once more at the end`)
      again.push(ran)
    } else {
      report(ran)
    }
  }
}))
const flaky = []
for (const first of again) {
  const second = await runFile(first.file)
  if (second.result.failed === 0) flaky.push(first.file)
  console.log(`${second.result.failed === 0 ? 'FLAKY' : 'FAIL'} ${first.title}: the first time\n${indented(first.output)}`)
  report(second)
}
for (const file of flaky) console.log(`note: passed only when run again: ${file}`)
if (files.length === 0) {
  console.log('no test file found')
  sum.failed++
}
console.log(`\n${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`)
process.exit(sum.failed === 0 ? 0 : 1)

async function typecheck () {
  const { status, output } = await run(['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json'], 300)
  report({ title: 'type check', result: { passed: Number(status === 0), failed: Number(status !== 0), skipped: 0 }, output })
}

async function runFile (file) {
  const limit = Object.entries(limitSeconds).find(([prefix]) => file.startsWith(prefix))?.[1] ?? 240
  const started = Date.now()
  const { status, output, timedOut } = await run(
    ['--import', join(root, 'tools/ts.mjs'), '--conditions=@node-vmm/source', file], limit)
  const count = (label) => Number(output.match(new RegExp(`^  ${label}: +(\\d+)`, 'm'))?.[1] ?? 0)
  const result = { passed: count('Passed'), skipped: count('Skipped'), failed: 0 }
  result.failed = count('Total') - result.passed
  let why = ''
  if (timedOut) why = `no end after ${limit} s`
  else if (status !== 0 && result.failed === 0) why = `exit status ${status}`
  else if (result.passed + result.failed + result.skipped === 0) why = 'no test ran'
  if (why !== '') result.failed = Math.max(result.failed, 1)
  return { file, title: `${file} (${((Date.now() - started) / 1000).toFixed(1)} s)${why && ': ' + why}`, result, output }
}

function report ({ title, result, output }) {
  for (const key in sum) sum[key] += result[key]
  const skipped = result.skipped > 0 ? `, ${result.skipped} skipped` : ''
  console.log(`${result.failed === 0 ? 'ok  ' : 'FAIL'} ${title}: ${result.passed} passed${skipped}`)
  if (result.failed > 0) console.log(indented(output))
  else for (const line of output.match(/^(skipped|note): .*/gm) ?? []) console.log(`     ${line}`)
}

function indented (text) {
  return text.replace(/^/gm, '     ')
}

function run (args, limitSeconds) {
  return new Promise((resolve) => {
    // A process group of its own: what a test leaves behind when it is killed goes with it.
    const child = spawn(process.execPath, args, {
      cwd: root, detached: true, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: '0' }
    })
    let output = ''
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      process.kill(-child.pid, 'SIGKILL')
    }, limitSeconds * 1000)
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8')
      stream.on('data', (chunk) => { output += chunk })
    }
    child.on('close', (status, signal) => {
      clearTimeout(timer)
      resolve({ status: status ?? signal, output, timedOut })
    })
  })
}
