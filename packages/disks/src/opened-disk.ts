import type { Disk } from '@node-vmm/virtio-blk-dataplane'

/**
 * A disk that is open: files, connections and memory are its own. Whoever opened it closes it, once no request is in
 * flight; or what owns it does, the disk above or a data plane.
 */
export interface OpenedDisk extends Disk {
  /** Gives back all that it has, and closes the disks that it owns. Once only. */
  close (): void | Promise<void>
  /** The same as `close()`, for `await using`. */
  [Symbol.asyncDispose] (): Promise<void>
}

/** Makes a disk one for `await using`. */
export function opened (disk: Disk & Pick<OpenedDisk, 'close'>): OpenedDisk {
  return Object.assign(disk, { [Symbol.asyncDispose]: async () => await disk.close() })
}
