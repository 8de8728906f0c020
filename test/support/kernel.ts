// The guests' kernels and the modules that they need to see a virtio disk.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { downloaded, folderOf, kernelPackage, type Packages } from './debian.ts'
import { path } from './programs.ts'

export interface Kernel {
  readonly file: string
  /** Files, in the order of loading. */
  readonly modules: readonly string[]
}

const cloudPackages: Packages = {
  name: 'linux-image-cloud-amd64',
  choose: (apt) => [kernelPackage(apt, 'linux-image-cloud-amd64')]
}

/** For a virtio disk on a PCI bus. */
export const PCI_DISK = [
  'drivers/virtio/virtio_ring', 'drivers/virtio/virtio', 'drivers/virtio/virtio_pci_modern_dev',
  'drivers/virtio/virtio_pci_legacy_dev', 'drivers/virtio/virtio_pci', 'drivers/block/virtio_blk'
]

/** User-Mode Linux: has virtio and its vhost-user transport built in. */
export function umlKernel (): Kernel {
  return { file: path('linux.uml'), modules: modules('/usr/lib/uml/modules', ['drivers/block/virtio_blk']) }
}

/** Debian's kernel for virtual machines. */
export function cloudKernel (): Kernel {
  return kernelOf(cloudPackages, PCI_DISK)
}

/** Downloads the kernel the first time. */
export const cloudKernelDownload = downloaded(cloudPackages)

/** The kernel of unpacked packages, with modules by their paths and without `.ko`. */
export function kernelOf (packages: Packages, names: readonly string[]): Kernel {
  const folder = folderOf(packages)
  const image = readdirSync(join(folder, 'boot')).find((name) => name.startsWith('vmlinuz-'))
  return { file: join(folder, 'boot', image!), modules: modules(join(folder, 'lib/modules'), names) }
}

function modules (folder: string, names: readonly string[]): string[] {
  const [version] = readdirSync(folder)
  return names.map((name) => join(folder, version!, 'kernel', `${name}.ko`))
}
