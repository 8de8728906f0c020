// Run by sync.test.ts in several threads: hammers a mutex and a condition variable.
import { workerData } from 'node:worker_threads'
import { Condition, Mutex } from '../../src/sync.ts'

/** Words of the shared memory. */
export const MUTEX = 0
export const CONDITION = 1
export const COUNT = 2
export const INSIDE = 3
export const FILL = 4
export const TAKEN = 5
export const WORDS = 8

/** What a thread does. */
export interface Job {
  readonly buffer: SharedArrayBuffer
  readonly kind: 'count' | 'produce' | 'consume'
  readonly rounds: number
}

/** The most that producers put in before consumers take it: small, so that both sides wait often. */
const ROOM = 3

const { buffer, kind, rounds } = (workerData ?? {}) as Job
if (kind !== undefined) run()

function run (): void {
  const words = new Int32Array(buffer)
  const mutex = new Mutex(words, MUTEX)
  const condition = new Condition(words, CONDITION)
  for (let round = 0; round < rounds; round++) {
    mutex.lock()
    if (kind === 'count') countAlone(words)
    else transfer(words, mutex, condition)
    mutex.unlock()
  }
}

// Plain reads and writes: a second thread inside would be seen, and would lose updates.
function countAlone (words: Int32Array): void {
  if (words[INSIDE] !== 0) throw new Error('two threads hold the mutex')
  words[INSIDE] = 1
  words[COUNT]!++
  words[INSIDE] = 0
}

function transfer (words: Int32Array, mutex: Mutex, condition: Condition): void {
  const wanted = (): boolean => kind === 'produce' ? words[FILL]! < ROOM : words[FILL]! > 0
  while (!wanted()) condition.wait(mutex, Infinity)
  words[FILL]! += kind === 'produce' ? 1 : -1
  if (kind === 'consume') words[TAKEN]!++
  condition.broadcast()
}
