// A 32-bit PC's software: Debian's kernel with the modules for a virtio disk with ext4, busybox, SeaBIOS.
import { join } from 'node:path'
import { downloaded, folderOf, kernelPackage, type Packages } from './debian.ts'
import { type Kernel, kernelOf, PCI_DISK } from './kernel.ts'

export interface PcFiles {
  readonly kernel: Kernel
  readonly bios: string
  readonly vgaBios: string
  /** Static. */
  readonly busybox: string
}

const packages: Packages = {
  name: 'linux-image-686',
  architecture: 'i386',
  choose: (apt) => [kernelPackage(apt, 'linux-image-686'), 'busybox-static', 'seabios']
}

const EXT4 = ['crypto/crc32c_generic', 'lib/crc16', 'fs/mbcache', 'fs/jbd2/jbd2', 'fs/ext4/ext4']

/** Downloads them the first time. */
export const pcDownload = downloaded(packages)

export function pcFiles (): PcFiles {
  const folder = folderOf(packages)
  return {
    kernel: kernelOf(packages, [...PCI_DISK, ...EXT4]),
    bios: join(folder, 'usr/share/seabios/bios.bin'),
    vgaBios: join(folder, 'usr/share/seabios/vgabios-stdvga.bin'),
    busybox: join(folder, 'bin/busybox')
  }
}
