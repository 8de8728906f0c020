// The guests' kernels and the modules that they need to see a virtio disk.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Need, path, programs } from './programs.ts'

export interface Kernel {
  readonly file: string
  /** Files, in the order of loading. */
  readonly modules: readonly string[]
}

/** Kept from one test run to the next; git ignores it. */
export const cache = fileURLToPath(new URL('../../.cache', import.meta.url))

const PACKAGE = 'linux-image-cloud-amd64'
const unpacked = join(cache, PACKAGE)

/** User-Mode Linux: has virtio and its vhost-user transport built in. */
export function umlKernel (): Kernel {
  return { file: path('linux.uml'), modules: modules('/usr/lib/uml/modules', ['block/virtio_blk']) }
}

/** Debian's kernel for virtual machines. */
export function cloudKernel (): Kernel {
  const image = readdirSync(join(unpacked, 'boot')).find((name) => name.startsWith('vmlinuz-'))
  return {
    file: join(unpacked, 'boot', image!),
    modules: modules(join(unpacked, 'lib/modules'), [
      'virtio/virtio_ring', 'virtio/virtio', 'virtio/virtio_pci_modern_dev', 'virtio/virtio_pci_legacy_dev',
      'virtio/virtio_pci', 'block/virtio_blk'
    ])
  }
}

/** Downloads the kernel the first time. */
export const cloudKernelDownload: Need = () => {
  if (existsSync(unpacked)) return undefined
  const missing = programs('apt-get', 'dpkg')()
  if (missing !== undefined) return missing
  try {
    download()
  } catch (error) {
    return `${PACKAGE} cannot be downloaded (try apt-get update): ${(error as Error).message.trim()}`
  }
  return undefined
}

function modules (folder: string, names: string[]): string[] {
  const [version] = readdirSync(folder)
  return names.map((name) => join(folder, version!, 'kernel/drivers', `${name}.ko`))
}

function download (): void {
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, 'download-'))
  const run = (program: string, ...args: string[]): string => execFileSync(program, args, {
    cwd: folder, encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' }, stdio: ['ignore', 'pipe', 'pipe'], timeout: 300_000
  })
  try {
    // The package is an empty one that depends on the kernel of the day.
    const image = run('apt-cache', 'depends', PACKAGE).match(/Depends: (linux-image-\S+)/)
    if (image === null) throw new Error(`${PACKAGE} depends on no kernel`)
    run('apt-get', 'download', image[1]!)
    run('dpkg', '-x', readdirSync(folder)[0]!, 'root')
    renameSync(join(folder, 'root'), unpacked)
  } finally {
    rmSync(folder, { recursive: true })
  }
}
