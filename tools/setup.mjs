// Installs the dependencies and builds the packages, on a machine that has only Node and npm.
// What is up to date is left alone, so that calling this before every command costs little.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pnpm, root } from './pnpm.mjs'

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) fail(`node-vmm needs Node 20.19 or later: this is ${process.version}`)
if (process.platform !== 'linux') fail(`node-vmm runs on Linux: this is ${process.platform}`)

if (!installed()) step('install', '--frozen-lockfile')
const stale = packages().filter((dir) => !built(dir))
// Declarations are made from the built ones of the packages below: pnpm builds these first. And what uses a package may have
// its constants, as numbers.
if (stale.length > 0) step('-r', ...stale.map((dir) => `--filter=...{packages/${dir}}`), 'run', 'build')

function fail (message) {
  console.error(message)
  process.exit(1)
}

function step (...args) {
  console.error(`> pnpm ${args.join(' ')}`)
  try {
    pnpm(args)
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
  const manifests = ['pnpm-lock.yaml', 'package.json', ...packages().map((dir) => `packages/${dir}/package.json`), 'pnpm-workspace.yaml']
  return manifests.every((file) => statSync(join(root, file)).mtimeMs <= statSync(stamp).mtimeMs)
}

function built (dir) {
  const output = join(root, 'packages', dir, 'dist', 'index.d.ts')
  if (!existsSync(output)) return false
  const since = statSync(output).mtimeMs
  const sources = readdirSync(join(root, 'packages', dir, 'src'), { recursive: true, withFileTypes: true })
  return sources.every((entry) => entry.isDirectory() || statSync(join(entry.parentPath ?? entry.path, entry.name)).mtimeMs <= since)
}
