// The thread of the test 'a detached queue is driven by another thread, polling and blocking'.
import { getHeapStatistics } from 'node:v8'
import { parentPort, workerData } from 'node:worker_threads'
import { EventPoll } from '@node-vmm/event-poll'
import { Queue, type QueueData, VIRTIO_BLK_T_IN } from '../../src/index.ts'

const DEPTH = 32
const { queue: data, address } = workerData as { queue: QueueData, address: number }
const queue = Queue.attach(data)

function submit (slot: number): void {
  queue.submit(VIRTIO_BLK_T_IN, slot * 8 % 80, address + slot * 4096, 4096, slot)
}

/** Keeps DEPTH reads in flight without ever sleeping. @returns how many were done well */
function byPolling (count: number): number {
  queue.disableInterrupts()
  let good = 0
  let started = 0
  for (; started < DEPTH; started++) submit(started)
  queue.kick()
  while (queue.inFlight > 0) {
    let done = 0
    for (; queue.poll() >= 0; done++) {
      if (queue.status === 0) good++
      if (started < count) {
        submit(queue.token)
        started++
      }
    }
    if (done > 0) queue.kick()
  }
  return good
}

/** The same, asleep until the disk interrupts. */
function byBlocking (count: number): number {
  let good = 0
  const poll = new EventPoll()
  poll.add(queue.callNotifier, () => {
    do {
      while (queue.poll() >= 0) {
        if (queue.status === 0) good++
      }
    } while (queue.enableInterrupts() === 'more')
    if (good < count && queue.inFlight === 0) {
      for (let slot = 0; slot < DEPTH && good + slot < count; slot++) submit(slot)
      queue.kick()
    }
    if (good === count) poll.stop()
  })
  queue.enableInterrupts()
  for (let slot = 0; slot < DEPTH; slot++) submit(slot)
  queue.kick()
  poll.run()
  poll.close()
  return good
}

byPolling(20_000)
const before = getHeapStatistics().used_heap_size
const polled = byPolling(20_000)
const heapBytes = getHeapStatistics().used_heap_size - before
parentPort!.postMessage({ polled, blocked: byBlocking(2000), heapBytes })
