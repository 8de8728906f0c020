// The entry of a thread that has a disk of the user's own, which a module opens.
import { setAffinity } from '@node-vmm/libc'
import { workerData } from 'node:worker_threads'
import type { DiskThreadData } from './disk-thread.ts'
import { OwnDisk } from './own-disk.ts'
import { ThreadDevice } from './thread-device.ts'
import { ThreadLoop } from './thread-loop.ts'

const { init, cpus } = workerData as DiskThreadData
if (cpus !== undefined) setAffinity(cpus)
const loop = new ThreadLoop()
new ThreadDevice(init, loop).begin(OwnDisk.from(init.diskModule!))
await loop.serve()
// What the disk has left open, a socket or a timer, would keep this thread.
process.exit()
