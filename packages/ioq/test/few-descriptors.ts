import { ok } from 'node:assert/strict'
import { ByDepthEngine, IoQueue, IoUringEngine, LinuxAioEngine, MappedEngine, SyncEngine } from '@node-vmm/ioq'
import { memfdCreate } from '@node-vmm/libc'
import { leavesNoDescriptor } from '../../../test/support/few-descriptors.ts'

new SyncEngine({ fd: 0, depth: 4 }).close()
const fd = memfdCreate('few-descriptors')
ok(leavesNoDescriptor('MappedEngine', () => new MappedEngine({ fd, depth: 4 })) > 0)
for (const make of [IoUringEngine, LinuxAioEngine, SyncEngine]) {
  ok(leavesNoDescriptor(make.name, () => new make({ fd: 0, depth: 4 })) > 0)
}
ok(leavesNoDescriptor('ByDepthEngine', () => ByDepthEngine.open({ fd: 0, depth: 4 })) > 0)
ok(leavesNoDescriptor('IoQueue', () => new IoQueue({ fd: 0, depth: 4, engine: 'io_uring', onComplete: () => {} })) > 0)
