// The path from kick to interrupt allocates nothing per request: counted by the growth of the thread's young generation.
import assert from 'node:assert/strict'
import { truncateSync } from 'node:fs'
import { suite } from 'uvu'
import { runChild } from './support/child.ts'
import { Scratch } from './support/image.ts'

const test = suite('allocation')
// In memory: what a flush of a real disk takes is of no interest here.
const scratch = new Scratch('/dev/shm')
process.on('exit', () => scratch.remove())
// What is read first has data: a read of a hole is a system call of its own.
const path = scratch.file('large.img', 256 * 512)
truncateSync(path, 8 * 2 ** 30)

// The smallest object has 12 bytes: fewer a request are a few a batch, and batches are as small as 4 requests.
const runs: readonly (readonly [engine: string, depth: number, eventIdx: boolean, indirect: boolean, watched: '' | 'latency' | 'trace', limit: number])[] = [
  ['io_uring', 32, true, false, '', 8],
  ['io_uring', 32, true, false, 'latency', 8],
  ['io_uring', 32, true, false, 'trace', 8],
  ['io_uring', 32, false, true, '', 8],
  ['io_uring', 1, true, true, '', 8],
  ['linux-aio', 32, true, true, '', 8],
  ['io_uring+linux-aio', 8, true, false, '', 8],
  ['mapped', 32, true, false, '', 8],
  ['mapped', 32, false, true, 'latency', 8],
  ['mapped', 1, true, true, '', 8],
  // Arguments of system calls above 2^31, such as addresses, are objects: two a request.
  ['sync', 32, true, false, '', 40]
]
interface Measured {
  readonly failed: number
  /** Null where it could not be measured. */
  readonly bytesPerRequest: number | null
}
/** A young generation with room for a few samples: nothing is collected in most of them. */
const flags = ['--min-semi-space-size=64', '--max-semi-space-size=64']

async function measure (...args: unknown[]): Promise<Measured> {
  const { stdout, stderr } = await runChild(new URL('./support/allocation-child.ts', import.meta.url), [path, ...args].map(String), { limit: 100_000, flags })
  assert.notEqual(stdout, '', stderr)
  return JSON.parse(stdout)
}

for (const [engine, depth, eventIdx, indirect, watched, limit] of runs) {
  const title = `${engine}, ${depth} at once, ${eventIdx ? 'with' : 'without'} EVENT_IDX, ${indirect ? 'indirect' : 'direct'} chains${watched === '' ? '' : `, with its ${watched}`}`
  test(`${title}: the thread allocates at most ${limit} bytes a request`, async () => {
    const { failed, bytesPerRequest } = await measure(engine, depth, eventIdx, indirect, watched, limit)
    console.log(`note: ${title}: ${bytesPerRequest?.toFixed(2)} bytes a request`)
    assert.equal(failed, 0)
    assert.ok(bytesPerRequest !== null && bytesPerRequest <= limit, `${bytesPerRequest} bytes a request`)
  })
}

test('the measure sees an object a request', async () => {
  const { bytesPerRequest } = await measure('io_uring', 32, true, false, 'wasteful', Infinity)
  assert.ok(bytesPerRequest !== null && bytesPerRequest > 40, `${bytesPerRequest} bytes a request`)
})

test.run()
