// The path from queueing to completion allocates nothing per request: counted by the growth of the young generation.
import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { getHeapSpaceStatistics } from 'node:v8'
import { ftruncate, NativeMemory } from '@node-vmm/libc'
import { IoQueue, openEngine } from '@node-vmm/ioq'
import { scratchFile } from './support.ts'

const test = suite('allocation')
const DEPTH = 64

for (const name of ['io_uring', 'linux-aio'] as const) {
  try {
    openEngine(name, { fd: 0, depth: 1 }).engine.close()
  } catch (error) {
    console.log(`skipped: ${(error as Error).message}`)
    continue
  }
  test(`${name} allocates less than 4 bytes a request`, () => {
    const file = scratchFile('/dev/shm')
    ftruncate(file.fd, 8 * 2 ** 30)
    const memory = new NativeMemory(4096)
    const low = memory.address >>> 0
    const high = Math.floor(memory.address / 2 ** 32)
    let failed = 0
    const queue = new IoQueue({ fd: file.fd, depth: DEPTH, engine: name, onComplete: (_, result) => { if (result !== 1024) failed++ } })
    const { iovecs, offset } = queue
    const batch = (): void => {
      for (let id = 0; id < DEPTH; id++) {
        const count = 1 + (id & 1)
        let word = queue.prepare(id, count)
        for (let segment = 0; segment < count; segment++, word += 4) {
          iovecs[word] = low
          iovecs[word + 1] = high
          iovecs[word + 2] = 1024 / count
          iovecs[word + 3] = 0
        }
        offset[id] = 5e9 + id
        queue.read(id, count)
      }
      queue.submit()
      while (queue.inFlight > 0) queue.reap()
    }
    for (let round = 0; round < 2000; round++) batch()
    const samples: number[] = []
    for (let sample = 0; sample < 15; sample++) {
      const before = youngBytes()
      for (let round = 0; round < 100; round++) batch()
      samples.push((youngBytes() - before) / (100 * DEPTH))
    }
    assert.equal(failed, 0)
    // A collection makes a sample too small, other work of the process too large: the middle one counts.
    const middle = samples.filter((bytes) => bytes >= 0).sort((one, other) => one - other)[7]!
    console.log(`\nnote: ${name} allocates ${middle.toFixed(2)} bytes a request`)
    assert.ok(middle < 4, `${middle} bytes a request`)
    queue.close()
    memory.close()
    file.remove()
  })
}

function youngBytes (): number {
  return getHeapSpaceStatistics().find((space) => space.space_name === 'new_space')!.space_used_size
}

test.run()
