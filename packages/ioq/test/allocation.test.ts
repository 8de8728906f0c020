// The path from queueing to completion allocates nothing per request: counted by the growth of the young generation.
import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { close as closeFd, ftruncate, NativeMemory, O_RDWR, open } from '@node-vmm/libc'
import { type EngineName, IoQueue, REQUEST_BUFFERED, REQUEST_DURABLE } from '@node-vmm/ioq'
import { heapGrowth } from '../../../test/support/heap-growth.ts'
import { availableEngines, scratchFile } from './support.ts'

const test = suite('allocation')
const DEPTH = 64
/** Batches of which one look is at. */
const BATCHES = 100
/** Bytes a request. */
const ENOUGH = 4

for (const name of availableEngines()) {
  if (name === 'sync') continue

  test(`${name} allocates at most 4 bytes a read`, () => {
    const { queue, setSegments, close } = makeQueue(name)
    // Not a hole, of which reads are no batch for all engines.
    setSegments(0, 1)
    queue.offset[0] = 5e9
    queue.write(0, 1)
    finish(queue)
    measure(`${name}, reads`, DEPTH, () => {
      for (let id = 0; id < DEPTH; id++) {
        const count = 1 + (id & 1)
        setSegments(id, count)
        queue.offset[id] = 5e9 + id
        queue.read(id, count)
      }
      finish(queue)
    })
    close()
  })

  test(`${name} allocates at most 4 bytes a write, durable, buffered, or neither`, () => {
    const { queue, setSegments, close } = makeQueue(name, true)
    measure(`${name}, writes with flags`, DEPTH, () => {
      for (let id = 0; id < DEPTH; id++) {
        setSegments(id, 1)
        queue.offset[id] = 5e9 + id * 1024
        queue.flags[id] = id & (REQUEST_DURABLE | REQUEST_BUFFERED)
        queue.write(id, 1)
      }
      finish(queue)
    })
    close()
  })

  test(`${name} allocates at most 4 bytes a discard or write zeroes, written ones included`, () => {
    const { queue, close } = makeQueue(name)
    measure(`${name}, ranges`, 9, () => {
      for (let id = 0; id < 9; id++) {
        queue.offset[id] = 5e9 + id * 4096
        queue.length[id] = 4096
        // tmpfs knows holes, but no zeroed ranges.
        if (id % 3 === 0) queue.discard(id)
        else queue.writeZeroes(id, id % 3 === 1)
      }
      finish(queue)
    })
    close()
  })
}

function makeQueue (engine: EngineName, buffered = false): { queue: IoQueue, setSegments: (id: number, count: number) => void, close: () => void } {
  const file = scratchFile('/dev/shm')
  ftruncate(file.fd, 8 * 2 ** 30)
  const memory = new NativeMemory(4096)
  const low = memory.address >>> 0
  const high = Math.floor(memory.address / 2 ** 32)
  const bufferedFd = buffered ? open(file.path, O_RDWR) : undefined
  let failed = 0
  const queue = new IoQueue({ fd: file.fd, bufferedFd, depth: DEPTH, engine, onComplete: (_, result) => { if (result !== 1024 && result !== 0) failed++ } })
  const { iovecs } = queue
  const setSegments = (id: number, count: number): void => {
    let word = queue.prepare(id, count)
    for (let segment = 0; segment < count; segment++, word += 4) {
      iovecs[word] = low
      iovecs[word + 1] = high
      iovecs[word + 2] = 1024 / count
      iovecs[word + 3] = 0
    }
  }
  const close = (): void => {
    assert.equal(failed, 0)
    queue.close()
    memory.close()
    if (bufferedFd !== undefined) closeFd(bufferedFd)
    file.remove()
  }
  return { queue, setSegments, close }
}

function finish (queue: IoQueue): void {
  queue.submit()
  while (queue.inFlight > 0) {
    queue.reap()
    if (queue.stalled) queue.submit()
  }
}

/** What a batch allocates for each of its `requests`. */
function measure (what: string, requests: number, batch: () => void): void {
  const batches = (): void => { for (let count = 0; count < BATCHES; count++) batch() }
  const bytes = heapGrowth(batches, ENOUGH * BATCHES * requests) / (BATCHES * requests)
  console.log(`\nnote: ${what}: ${bytes.toFixed(2)} bytes a request`)
  assert.ok(bytes <= ENOUGH, `${bytes} bytes a request`)
}

test.run()
