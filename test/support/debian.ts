// Files of Debian packages: downloaded and unpacked below the cache, which takes no root and installs nothing.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Need, programs } from './programs.ts'

/** Kept from one test run to the next; git ignores it. */
export const cache = fileURLToPath(new URL('../../.cache', import.meta.url))

/** Runs one of apt's programs. @returns what it prints */
export type Apt = (program: 'apt-cache' | 'apt-get', ...args: string[]) => string

export interface Packages {
  /** Of the folder below the cache that has their files. */
  readonly name: string
  /** Names the packages. */
  choose (apt: Apt): string[]
  /** Debian's name of another architecture than this machine's. @default this machine's */
  readonly architecture?: string
}

/** The folder with the packages' files, once they are downloaded. */
export function folderOf ({ name }: Packages): string {
  return join(cache, name)
}

/** Downloads the packages the first time. */
export function downloaded (packages: Packages): Need {
  return () => {
    if (existsSync(folderOf(packages))) return undefined
    const missing = programs('apt-get', 'dpkg')()
    if (missing !== undefined) return missing
    try {
      download(packages)
    } catch (error) {
      return `${packages.name} cannot be downloaded (try apt-get update): ${(error as Error).message.trim()}`
    }
    return undefined
  }
}

/** The kernel of the day, whose name has its version in it: an empty package depends on it. */
export function kernelPackage (apt: Apt, name: string): string {
  const found = apt('apt-cache', 'depends', name).match(/Depends: (linux-image-\S+)/)
  if (found === null) throw new Error(`${name} depends on no kernel`)
  return found[1]!
}

function download (packages: Packages): void {
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, 'download-'))
  try {
    const archives = join(folder, 'archives')
    mkdirSync(archives)
    const run = (program: string, ...args: string[]): string => execFileSync(program, args, {
      cwd: archives, encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' }, stdio: ['ignore', 'pipe', 'pipe'], timeout: 300_000
    })
    const { architecture } = packages
    const apt: Apt = architecture === undefined ? run : foreign(run, architecture, join(folder, 'apt'))
    apt('apt-get', 'download', ...packages.choose(apt))
    for (const archive of readdirSync(archives)) run('dpkg', '-x', archive, join(folder, 'root'))
    renameSync(join(folder, 'root'), folderOf(packages))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** apt with lists of another architecture's packages, in a folder of their own: the machine's stay as they are. */
function foreign (run: (program: string, ...args: string[]) => string, architecture: string, folder: string): Apt {
  for (const name of ['lists/partial', 'archives/partial']) mkdirSync(join(folder, name), { recursive: true })
  const options = [
    `APT::Architecture=${architecture}`, `APT::Architectures=${architecture}`, `Dir::State::Lists=${folder}/lists`,
    `Dir::Cache=${folder}`, 'Dir::State::Status=/dev/null', 'APT::Sandbox::User='
  ].flatMap((option) => ['-o', option])
  const apt: Apt = (program, ...args) => run(program, ...options, ...args)
  try {
    apt('apt-get', 'update', '-qq')
  } catch {
    // One list of several may be missing, and the packages in another: what cannot be found is said then.
  }
  return apt
}
