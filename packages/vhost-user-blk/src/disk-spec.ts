import { checkSpec, type DiskSpec, parseDisk } from '@node-vmm/disks'
import type { DiskModule } from '@node-vmm/virtio-blk-dataplane'
import { UsageError } from './options.ts'

/**
 * What opens the disk that `--disk` describes: a stack of `@node-vmm/disks`, in one line or as JSON.
 *
 * @throws UsageError, which says where it is wrong
 */
export function parseSpec (spec: string): DiskModule<DiskSpec> {
  try {
    return { module: import.meta.resolve('@node-vmm/disks'), options: spec.startsWith('{') ? checkSpec(JSON.parse(spec)) : parseDisk(spec) }
  } catch (error) {
    throw new UsageError(`--disk: ${(error as Error).message}`)
  }
}

/** @throws UsageError for a disk that a sandbox would take the ground from */
export function checkSandboxed (spec: DiskSpec): void {
  if (spec.type === 'nbd') throw new UsageError('--sandbox leaves no way to connect anew: a disk of NBD would be lost with its first connection.')
  if ('disk' in spec && spec.disk !== undefined) checkSandboxed(spec.disk)
  if ('base' in spec && spec.base !== undefined) checkSandboxed(spec.base)
}
