import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import { Worker } from 'node:worker_threads'
import { getAffinity, getTimerSlack, monotonicTime, NativeMemory, setAffinity, setTimerSlack, threadId, threadTime } from '@node-vmm/libc'

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

test('tells the time, and how long the thread has worked', () => {
  const memory = new NativeMemory(16)
  const look = (tell: (address: number) => void): number => {
    tell(memory.address)
    return memory.getUint64(0) * 1e3 + memory.getUint64(8) / 1e6
  }
  const began = performance.now()
  const [time, work] = [look(monotonicTime), look(threadTime)]
  assert.ok(work > 0 && work < 1e3 * process.uptime())
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
  assert.ok(look(threadTime) - work < 40, 'asleep it does not work')
  while (look(threadTime) - work < 5);
  assert.ok(look(monotonicTime) - time >= 55)
  assert.ok(look(monotonicTime) - time <= performance.now() - began + 1)
  memory.close()
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
