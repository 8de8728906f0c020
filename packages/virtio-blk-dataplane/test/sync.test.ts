import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import { Condition, Mutex } from '../src/sync.ts'
import { runChild } from './support/child.ts'
import { CONDITION, COUNT, FILL, type Job, MUTEX, TAKEN, WORDS } from './support/sync-worker.ts'

/** Milliseconds in which even a slow machine is done. */
const LIMIT = 60_000

/** Runs a job in each of several threads until all ended, within the time limit. */
async function threads (jobs: readonly Omit<Job, 'buffer'>[]): Promise<Int32Array> {
  const buffer = new SharedArrayBuffer(4 * WORDS)
  const workers = jobs.map((job) => new Worker(new URL('./support/sync-worker.ts', import.meta.url), { workerData: { ...job, buffer } }))
  let timer: NodeJS.Timeout
  const late = new Promise<never>((_, reject) => { timer = setTimeout(() => reject(new Error('a thread waits for ever')), LIMIT) })
  const ended = Promise.all(workers.map((worker) => new Promise<void>((resolve, reject) => {
    worker.once('error', reject)
    worker.once('exit', (status) => status === 0 ? resolve() : reject(new Error(`exit ${status}`)))
  })))
  await Promise.race([ended, late]).finally(() => {
    clearTimeout(timer)
    for (const worker of workers) worker.terminate()
  })
  return new Int32Array(buffer)
}

/** A mutex and a condition variable of this thread's own. */
function pair (): { words: Int32Array, mutex: Mutex, condition: Condition } {
  const words = new Int32Array(new SharedArrayBuffer(4 * WORDS))
  return { words, mutex: new Mutex(words, MUTEX), condition: new Condition(words, CONDITION) }
}

test('a mutex lets one of four threads in at a time: no update is lost', async () => {
  const rounds = 100_000
  const words = await threads(Array.from({ length: 4 }, () => ({ kind: 'count', rounds })))
  assert.equal(words[COUNT], 4 * rounds)
  assert.equal(words[MUTEX], 0)
})

test('no wake-up is lost between two producers and two consumers', async () => {
  const rounds = 5000
  const words = await threads((['produce', 'produce', 'consume', 'consume'] as const).map((kind) => ({ kind, rounds })))
  assert.equal(words[TAKEN], 2 * rounds)
  assert.equal(words[FILL], 0)
  assert.equal(words[MUTEX], 0)
})

test('unlock wakes nobody when nobody waits, and leaves the word free', () => {
  const { words, mutex } = pair()
  mutex.lock()
  assert.equal(words[MUTEX], 1)
  mutex.unlock()
  assert.equal(words[MUTEX], 0)
})

test('a broadcast does something where somebody waits, once, and nothing where nobody does', () => {
  const { words, mutex, condition } = pair()
  mutex.lock()
  condition.broadcast()
  assert.equal(words[CONDITION], 0)
  void condition.waitAsync(1)
  void condition.waitAsync(1)
  const waitedFor = words[CONDITION]!
  condition.broadcast()
  const woken = words[CONDITION]!
  assert.notEqual(woken, waitedFor)
  condition.broadcast()
  assert.equal(words[CONDITION], woken)
  mutex.unlock()
})

test('a wait gives the mutex up, ends after its time, and holds the mutex again', () => {
  const { words, mutex, condition } = pair()
  mutex.lock()
  const started = performance.now()
  condition.wait(mutex, 30)
  assert.ok(performance.now() - started >= 25)
  assert.notEqual(words[MUTEX], 0)
  mutex.unlock()
})

test('a broadcast ends all waits of one thread: none of them holds the mutex while another one wants it', async () => {
  const { words, mutex, condition } = pair()
  const waits: Promise<void>[] = []
  for (let count = 0; count < 3; count++) {
    mutex.lock()
    waits.push(condition.waitAsync(Infinity))
    mutex.unlock()
  }
  await new Promise((resolve) => setTimeout(resolve, 10))
  mutex.lock()
  condition.broadcast()
  mutex.unlock()
  await Promise.all(waits)
  assert.equal(words[MUTEX], 0)
})

test('waitAsync ends after its time, and when the signal aborts', async () => {
  const { condition } = pair()
  const started = performance.now()
  await condition.waitAsync(30)
  assert.ok(performance.now() - started >= 25)
  const abort = new AbortController()
  setTimeout(() => abort.abort(), 20)
  await condition.waitAsync(Infinity, abort.signal)
  await condition.waitAsync(Infinity, abort.signal)
})

test('a signal that outlives many waits keeps nothing of them', async () => {
  const { condition } = pair()
  const { signal } = new AbortController()
  for (let wait = 0; wait < 20; wait++) await condition.waitAsync(1, signal)
  assert.equal(getEventListeners(signal, 'abort').length, 0)
})

test('waitAsync keeps the process alive', async () => {
  const { status, stdout, stderr } = await runChild(new URL('./support/wait-async-child.ts', import.meta.url))
  assert.equal(stdout, 'woken\n', stderr)
  assert.equal(status, 0)
})

test.run()
