// The other side of `BlockingThread`: performs what is submitted, one after the other, for one engine after the other.
import { close, NativeMemory, write } from '@node-vmm/libc'
import { workerData } from 'node:worker_threads'
import { blockingCall } from './blocking-call.ts'
import { BEGIN, BlockingRing, COMPLETED, COMPLETION_MASK, END, SUBMISSION_MASK, SUBMITTED } from './blocking-ring.ts'

const ring = new BlockingRing(workerData as SharedArrayBuffer)
const one = new NativeMemory(8)
one.setUint64(0, 1)
let completionFd = -1

for (let index = 0; ; index = (index + 1) | 0) {
  // A wake-up may be that of the submission before, seen already.
  while (Atomics.load(ring.control, SUBMITTED) === index) Atomics.wait(ring.control, SUBMITTED, index)
  const entry = ring.submissions[index & SUBMISSION_MASK]!
  if (entry >= 0) perform(entry)
  else if (entry === END) close(completionFd)
  else completionFd = BEGIN - entry
}

function perform (id: number): void {
  ring.result[id] = blockingCall(ring.fd[id]!, ring.method[id]!, ring.offset[id]!, ring.length[id]!)
  const tail = ring.control[COMPLETED]!
  ring.completions[tail & COMPLETION_MASK] = id
  Atomics.store(ring.control, COMPLETED, (tail + 1) | 0)
  write(completionFd, one.address, 8)
}
