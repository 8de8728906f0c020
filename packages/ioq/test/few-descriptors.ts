import { ok } from 'node:assert/strict'
import { IoUringEngine, LinuxAioEngine, SyncEngine } from '@node-vmm/ioq'
import { leavesNoDescriptor } from '../../../test/support/few-descriptors.ts'

new SyncEngine({ fd: 0, depth: 4 }).close()
for (const make of [IoUringEngine, LinuxAioEngine, SyncEngine]) {
  ok(leavesNoDescriptor(make.name, () => new make({ fd: 0, depth: 4 })) > 0)
}
