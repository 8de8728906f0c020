import type { Disk, OpenDisk } from '@node-vmm/virtio-blk-dataplane'
import { pathToFileURL } from 'node:url'
import { DiskError } from './errors.ts'
import { opened, type OpenedDisk } from './opened-disk.ts'

/** A disk of the user's own in a stack. */
export interface ModuleOptions {
  /** The module, by its path or URL. It exports `openDisk`: see `OpenDisk` of `@node-vmm/virtio-blk-dataplane`. */
  readonly path: string
  /** What `openDisk` is given: text by names of letters, digits and `_`. @default {} */
  readonly options?: Readonly<Record<string, string>>
  /** The disk below, which `openDisk` finds as `disk` in its options; closed after this one. @default none */
  readonly disk?: Disk
}

/**
 * Opens a disk of the user's own: any code.
 *
 * @throws DiskError ERR_DISK_MODULE for a module that cannot be loaded, or is none; what its `openDisk` throws
 */
export async function fromModule ({ path, options = {}, disk: lower }: ModuleOptions): Promise<OpenedDisk> {
  const openDisk = await load(path)
  const disk = await openDisk({ ...options, ...(lower !== undefined && { disk: lower }) })
  if (typeof disk?.read !== 'function') throw new DiskError('ERR_DISK_MODULE', `openDisk of ${path} gave no disk: it has no method read`)
  const close = disk.close?.bind(disk)
  return opened(Object.assign(disk, {
    async close () {
      await close?.()
      await lower?.close?.()
    }
  }))
}

async function load (path: string): Promise<OpenDisk<Record<string, unknown>>> {
  const url = URL.canParse(path) ? path : pathToFileURL(path).href
  let module: { openDisk?: OpenDisk<Record<string, unknown>> }
  try {
    module = await import(url)
  } catch (cause) {
    throw new DiskError('ERR_DISK_MODULE', `the disk module ${path} cannot be loaded: ${(cause as Error).message}`, { cause })
  }
  if (typeof module.openDisk !== 'function') {
    throw new DiskError('ERR_DISK_MODULE', `the disk module ${path} exports no function openDisk: export const openDisk = (options) => ({ capacity, read … })`)
  }
  return module.openDisk
}
