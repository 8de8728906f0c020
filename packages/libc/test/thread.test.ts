import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import { Worker } from 'node:worker_threads'
import { getAffinity, getTimerSlack, setAffinity, setTimerSlack, threadId } from '@node-vmm/libc'

const test = suite('thread')

test('the main thread has the id of the process', () => {
  assert.equal(threadId(), process.pid)
})

test('pins the calling thread only', () => {
  const before = getAffinity()
  assert.ok(before.length > 0)
  try {
    setAffinity([before.at(-1)!])
    assert.deepEqual(getAffinity(), [before.at(-1)])
    assert.match(readFileSync('/proc/thread-self/status', 'utf8'), new RegExp(`Cpus_allowed_list:\\s+${before.at(-1)}\n`))
  } finally {
    setAffinity(before)
  }
  assert.deepEqual(getAffinity(), before)
})

test('processors that do not exist are refused', () => {
  assert.throws(() => setAffinity([1023]), { code: 'EINVAL', syscall: 'sched_setaffinity' })
  for (const cpu of [-1, 1024, 1.5]) assert.throws(() => setAffinity([cpu]), { name: 'RangeError', message: /no processor has number/ })
  assert.throws(() => setAffinity([]), { code: 'EINVAL' })
})

test('sets how late the kernel may end the waits of the calling thread', () => {
  const before = getTimerSlack()
  setTimerSlack(1)
  assert.equal(getTimerSlack(), 1)
  setTimerSlack(0)
  assert.equal(getTimerSlack(), before)
})

test('a worker has an id, errors and memory of its own', async () => {
  const worker = new Worker(new URL('./thread-worker.ts', import.meta.url))
  const message = await new Promise<{ id: number, code: string }>((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  assert.notEqual(message.id, threadId())
  assert.equal(message.code, 'ENOENT')
})

test.run()
