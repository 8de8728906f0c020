import { NativeMemory } from '@node-vmm/libc'
import { deepEqual, equal } from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'uvu'
import { Worker } from 'node:worker_threads'
import { DirtyLog, dirtyLogBytes } from '../src/index.ts'

/** Runs a body with the log of guest memory that ends at an address. */
function withLog (end: number, body: (log: DirtyLog, pages: () => number[]) => void): void {
  const memory = new NativeMemory(dirtyLogBytes(end))
  const pages = (): number[] => Array.from({ length: memory.length * 8 }, (_, page) => page)
    .filter((page) => (memory.u8[page >>> 3]! & 1 << (page & 7)) !== 0)
  try {
    body(new DirtyLog(memory.address, dirtyLogBytes(end)), pages)
  } finally {
    memory.close()
  }
}

test('a log has a bit for each page', () => {
  deepEqual([1, 4096, 4097, 8 * 4096, 8 * 4096 + 1, 2 ** 36].map(dirtyLogBytes), [1, 1, 1, 1, 2, 2 ** 21])
})

test('every page that a range touches is marked, and no other', () => withLog(64 * 4096, (log, pages) => {
  log.mark(4096, 1)
  log.mark(3 * 4096 - 1, 2)
  log.mark(20 * 4096, 3 * 4096)
  log.mark(40 * 4096, 0)
  deepEqual(pages(), [1, 2, 3, 20, 21, 22])
}))

test('pages beyond the log are left out', () => withLog(8 * 4096, (log, pages) => {
  log.mark(7 * 4096, 2 ** 40)
  deepEqual(pages(), [7])
}))

test('threads that mark bits of one byte lose none', async () => {
  const memory = new NativeMemory(4096)
  const script = new URL('support/dirty-log-worker.ts', import.meta.url)
  const workers = [0, 1].map((first) => new Worker(script, { workerData: { first, address: memory.address, bytes: memory.length } }))
  const statuses = await Promise.all(workers.map(async (worker) => (await once(worker, 'exit'))[0]))
  deepEqual(statuses, [0, 0])
  equal(memory.u8.every((byte) => byte === 0xff), true)
  memory.close()
})

test.run()
