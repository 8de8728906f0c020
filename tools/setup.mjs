// Installs the dependencies and builds the packages, on a machine that has only Node and npm.
// What is up to date is left alone, so that calling this before every command costs little.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const PNPM = 'pnpm@12.21.0'
const root = fileURLToPath(new URL('..', import.meta.url))
const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) fail(`node-vmm needs Node 20.19 or later: this is ${process.version}`)
if (process.platform !== 'linux') fail(`node-vmm runs on Linux: this is ${process.platform}`)

if (!installed()) pnpm('install', '--frozen-lockfile')
const stale = packages().filter((dir) => !built(dir))
if (stale.length > 0) pnpm('-r', ...stale.map((dir) => `--filter=./packages/${dir}`), 'run', 'build')

function fail (message) {
  console.error(message)
  process.exit(1)
}

function pnpm (...args) {
  console.error(`> pnpm ${args.join(' ')}`)
  try {
    // To stderr, so that a program whose output is piped stays clean.
    execFileSync('npx', ['--yes', PNPM, ...args], { cwd: root, stdio: ['ignore', 2, 2] })
  } catch (error) {
    fail(`pnpm ${args[0]} failed: ${error.message}`)
  }
}

function packages () {
  return readdirSync(join(root, 'packages'))
}

function installed () {
  const stamp = join(root, 'node_modules', '.modules.yaml')
  if (!existsSync(stamp)) return false
  const manifests = ['pnpm-lock.yaml', 'package.json', ...packages().map((dir) => `packages/${dir}/package.json`)]
  return manifests.every((file) => statSync(join(root, file)).mtimeMs <= statSync(stamp).mtimeMs)
}

function built (dir) {
  const output = join(root, 'packages', dir, 'dist', 'index.d.ts')
  if (!existsSync(output)) return false
  const since = statSync(output).mtimeMs
  const sources = readdirSync(join(root, 'packages', dir, 'src'), { recursive: true, withFileTypes: true })
  return sources.every((entry) => entry.isDirectory() || statSync(join(entry.parentPath ?? entry.path, entry.name)).mtimeMs <= since)
}
