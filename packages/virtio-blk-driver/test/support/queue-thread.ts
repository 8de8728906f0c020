// The thread of the test 'a detached queue is driven by another thread, polling and blocking'.
import { parentPort, workerData } from 'node:worker_threads'
import { EventPoll } from '@node-vmm/event-poll'
import { heapGrowth } from '../../../../test/support/heap-growth.ts'
import { Queue, type QueueData, VIRTIO_BLK_T_IN } from '../../src/index.ts'

/** What the thread is to do. */
export interface QueueWork {
  readonly queue: QueueData
  /** Where its buffers begin. */
  readonly address: number
  /** Requests a round. */
  readonly count: number
  /** Bytes of the heap that a round may take. */
  readonly enough: number
}

/** What it did. */
export interface QueueWorkDone {
  /** Rounds in which all went well, and all rounds. */
  readonly good: number
  readonly rounds: number
  /** Requests done well while it slept in between. */
  readonly blocked: number
  /** Bytes by which the heap grew in a round. */
  readonly grown: number
}

const DEPTH = 32
const { queue: data, address, count, enough } = workerData as QueueWork
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

let [good, rounds] = [0, 0]
const grown = heapGrowth(() => {
  if (byPolling(count) === count) good++
  rounds++
}, enough)
parentPort!.postMessage({ good, rounds, blocked: byBlocking(count), grown } satisfies QueueWorkDone)
