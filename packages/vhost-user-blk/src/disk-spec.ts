import { checkSpec, parseDisk } from '@node-vmm/disks'
import { parseNbdUri } from '@node-vmm/nbd'
import type { DiskModule } from '@node-vmm/virtio-blk-dataplane'
import { UsageError } from './options.ts'

const NBD_URI = /^nbds?(\+unix)?:\/\//

/**
 * What opens the disk that `--disk` describes: an NBD export's URI, or a stack of `@node-vmm/disks`, in one line or as JSON.
 *
 * @throws UsageError, which says where it is wrong
 */
export function parseSpec (spec: string): DiskModule {
  try {
    if (NBD_URI.test(spec)) {
      parseNbdUri(spec)
      return { module: import.meta.resolve('@node-vmm/nbd'), options: spec }
    }
    return { module: import.meta.resolve('@node-vmm/disks'), options: spec.startsWith('{') ? checkSpec(JSON.parse(spec)) : parseDisk(spec) }
  } catch (error) {
    throw new UsageError(`--disk: ${(error as Error).message}`)
  }
}

/** @throws UsageError for a disk that a sandbox would take the ground from */
export function checkSandboxed (spec: string): void {
  if (NBD_URI.test(spec)) throw new UsageError('--sandbox leaves no way to connect anew: a disk of NBD would be lost with its first connection.')
}
