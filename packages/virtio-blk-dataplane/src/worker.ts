// The entry of a thread that devices share whose disks are images: see `IoThread`.
import { EventNotifier } from '@node-vmm/event-poll'
import { setAffinity } from '@node-vmm/libc'
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { loadEngine } from './engine.ts'
import type { IoThreadData } from './io-thread.ts'
import type { ThreadInit } from './messages.ts'
import { ThreadDevice } from './thread-device.ts'
import { ThreadLoop } from './thread-loop.ts'

const { wakeFd, members, cpus, pollMaxMicroseconds } = workerData as IoThreadData
if (cpus !== undefined) setAffinity(cpus)
const loop = new ThreadLoop(new Int32Array(members), pollMaxMicroseconds)
loop.poll.add(EventNotifier.fromFd(wakeFd), () => {
  for (;;) {
    const received = receiveMessageOnPort(parentPort!) as { message: ThreadInit } | undefined
    if (received === undefined) break
    loop.rest(admit(received.message))
  }
})
await loop.run()

async function admit (init: ThreadInit): Promise<void> {
  const device = new ThreadDevice(init, loop)
  try {
    device.begin(await loadEngine(init.engine))
  } catch (error) {
    device.fail(error)
  }
}
