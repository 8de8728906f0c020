// The other side of `BlockingThread`: performs what is submitted, one after the other.
import { close, NativeMemory, write } from '@node-vmm/libc'
import { workerData } from 'node:worker_threads'
import { blockingCall } from './blocking-call.ts'
import { BlockingRing, COMPLETED, END, SUBMITTED } from './blocking-ring.ts'
import type { BlockingWorkerData } from './blocking-thread.ts'

const { ring: buffer, completionFd } = workerData as BlockingWorkerData
const ring = new BlockingRing(buffer)
const one = new NativeMemory(8)
one.setUint64(0, 1)

for (let index = 0; ; index = (index + 1) | 0) {
  // A wake-up may be that of the submission before, seen already.
  while (Atomics.load(ring.control, SUBMITTED) === index) Atomics.wait(ring.control, SUBMITTED, index)
  const id = ring.submissions[index & ring.mask]!
  if (id === END) break
  perform(id)
}
close(completionFd)
one.close()

function perform (id: number): void {
  ring.result[id] = blockingCall(ring.fd[id]!, ring.method[id]!, ring.offset[id]!, ring.length[id]!)
  const tail = ring.control[COMPLETED]!
  ring.completions[tail & ring.mask] = id
  Atomics.store(ring.control, COMPLETED, (tail + 1) | 0)
  write(completionFd, one.address, 8)
}
