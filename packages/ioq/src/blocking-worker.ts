// The other side of `BlockingThread`: performs what is submitted, one after the other, for one engine after the other.
import { close, NativeMemory, write } from '@node-vmm/libc'
import { receiveMessageOnPort, workerData } from 'node:worker_threads'
import { blockingCall } from './blocking-call.ts'
import { BlockingRing, COMPLETED, END, SUBMITTED } from './blocking-ring.ts'
import type { BlockingJob, BlockingWorkerData } from './blocking-thread.ts'

const { port, sent: sentBuffer } = workerData as BlockingWorkerData
const sent = new Int32Array(sentBuffer)
const one = new NativeMemory(8)
one.setUint64(0, 1)

for (;;) {
  // Before the look: a message that comes after it has changed the word by then.
  const seen = Atomics.load(sent, 0)
  const received = receiveMessageOnPort(port) as { message: BlockingJob } | undefined
  if (received !== undefined) workFor(received.message)
  else Atomics.wait(sent, 0, seen)
}

function workFor ({ ring: buffer, completionFd }: BlockingJob): void {
  const ring = new BlockingRing(buffer)
  for (let index = 0; ; index = (index + 1) | 0) {
    // A wake-up may be that of the submission before, seen already.
    while (Atomics.load(ring.control, SUBMITTED) === index) Atomics.wait(ring.control, SUBMITTED, index)
    const id = ring.submissions[index & ring.mask]!
    if (id === END) break
    perform(ring, id, completionFd)
  }
  close(completionFd)
}

function perform (ring: BlockingRing, id: number, completionFd: number): void {
  ring.result[id] = blockingCall(ring.fd[id]!, ring.method[id]!, ring.offset[id]!, ring.length[id]!)
  const tail = ring.control[COMPLETED]!
  ring.completions[tail & ring.mask] = id
  Atomics.store(ring.control, COMPLETED, (tail + 1) | 0)
  write(completionFd, one.address, 8)
}
