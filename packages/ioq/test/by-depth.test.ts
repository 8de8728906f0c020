import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { close, errno, eventfd, NativeMemory, O_DIRECT, read } from '@node-vmm/libc'
import {
  ByDepthEngine, type CompletionSink, type Engine, IoQueue, openEngine, REQUEST_BUFFERED, REQUEST_DURABLE, type RequestTable
} from '@node-vmm/ioq'
import { scratchFile } from './support.ts'

const test = suite('ByDepthEngine')

/** Does nothing, and says so with what it is told to. */
class Fake implements Engine {
  readonly depth = 64
  readonly completionFd: number
  systemCalls = 0
  closed = false
  /** What was wanted of its announcements. */
  readonly announced: boolean[] = []
  /** What it was given and has not completed. */
  readonly ids: number[] = []
  /** Of the next submission. */
  refuses: number | undefined
  /** Of all completions; undefined: they move all that was asked for. */
  result: number | undefined
  readonly name: string
  #table: RequestTable | undefined

  constructor (name: string, completionFd: number) {
    this.name = name
    this.completionFd = completionFd
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    this.systemCalls++
    this.#table = table
    const refuses = this.refuses
    this.refuses = undefined
    if (refuses !== undefined) return refuses
    this.ids.push(...ids.subarray(from, from + count))
    return count
  }

  announce (wanted: boolean): boolean {
    this.announced.push(wanted)
    return wanted && this.hasCompletions()
  }

  hasCompletions (): boolean {
    return this.ids.length > 0
  }

  reap (sink: CompletionSink): void {
    assert.ok(!this.closed)
    while (this.ids.length > 0 && !this.closed) {
      const id = this.ids.shift()!
      sink(id, this.result ?? this.#table!.remaining[id]!)
    }
  }

  close (): void {
    this.closed = true
  }
}

let fd: number
let deep: Fake
let shallow: Fake
let queue: IoQueue
let results: [id: number, result: number][]
let onComplete: (id: number, result: number) => void

test.before.each(() => {
  fd = eventfd()
  deep = new Fake('deep', fd)
  shallow = new Fake('shallow', fd)
  results = []
  onComplete = (id, result) => { results.push([id, result]) }
  queue = new IoQueue({ fd, depth: 64, engine: new ByDepthEngine(deep, shallow), onComplete: (id, result) => onComplete(id, result) })
})
test.after.each(() => {
  queue.close()
  close(fd)
})

function queueWrites (count: number, flags = 0): void {
  for (let id = 0; id < count; id++) {
    queue.flags[id] = flags
    queue.writev(id, [{ address: 4096, length: 512 }], id * 512)
  }
}

/** @returns how many of so many writes each engine has got */
function write (count: number, flags = 0): { deep: number, shallow: number } {
  queueWrites(count, flags)
  queue.submit()
  const given = { deep: deep.ids.length, shallow: shallow.ids.length }
  assert.equal(queue.hasCompletions, true)
  while (queue.inFlight > 0) queue.reap()
  return given
}

function calm (): void {
  for (let submissions = 0; submissions < 8; submissions++) write(1)
}

test('few at a time, for some time, are the shallow engine\'s, and the deep one has what is more', () => {
  for (let submissions = 0; submissions < 8; submissions++) assert.deepEqual(write(8), { deep: 8, shallow: 0 })
  assert.deepEqual(write(8), { deep: 0, shallow: 8 })
  assert.deepEqual(write(1), { deep: 0, shallow: 1 })
  assert.deepEqual(write(9), { deep: 9, shallow: 0 })
  assert.deepEqual(write(1), { deep: 1, shallow: 0 })
  calm()
  assert.deepEqual(write(1), { deep: 0, shallow: 1 })
  assert.equal(queue.engine, 'deep+shallow')
  assert.equal(queue.systemCalls, deep.systemCalls + shallow.systemCalls)
})

test('requests in flight count, with whichever engine they are', () => {
  calm()
  results = []
  queueWrites(6)
  queue.submit()
  for (let id = 6; id < 10; id++) queue.readv(id, [{ address: 4096, length: 512 }], 0)
  queue.submit()
  assert.deepEqual([deep.ids.length, shallow.ids.length], [4, 6])
  while (queue.inFlight > 0) queue.reap()
  assert.deepEqual(results.map(([id]) => id).sort((a, b) => a - b), Array.from({ length: 10 }, (_, id) => id))
})

test('what is no plain transfer is the deep engine\'s, with all that is submitted with it', () => {
  calm()
  assert.deepEqual(write(2, REQUEST_DURABLE), { deep: 2, shallow: 0 })
  assert.deepEqual(write(2, REQUEST_BUFFERED), { deep: 2, shallow: 0 })
  queueWrites(2)
  queue.flush(2)
  queue.submit()
  assert.deepEqual([deep.ids, shallow.ids], [[0, 1, 2], []])
  while (queue.inFlight > 0) queue.reap()
  queue.length[0] = 512
  queue.discard(0)
  queue.submit()
  assert.deepEqual([deep.ids, shallow.ids], [[0], []])
  deep.result = 0
  queue.reap()
  deep.result = undefined
  assert.deepEqual(write(2), { deep: 0, shallow: 2 })
})

for (const [code, again] of [['EAGAIN', true], ['EOPNOTSUPP', false]] as const) {
  test(`what the shallow engine could not do without waiting is the deep one's, and so are others ${again ? 'for some time' : 'for ever'}: ${code}`, () => {
    calm()
    results = []
    shallow.result = -errno[code]
    queueWrites(3)
    queue.submit()
    assert.deepEqual(shallow.ids, [0, 1, 2])
    // Queued again, and submitted, by the reap that finds it.
    queue.reap()
    assert.deepEqual([deep.ids, shallow.ids, results], [[0, 1, 2], [], []])
    queue.reap()
    assert.deepEqual(results, [[0, 512], [1, 512], [2, 512]])

    shallow.result = undefined
    assert.deepEqual(write(1), { deep: 1, shallow: 0 })
    calm()
    assert.deepEqual(write(1), again ? { deep: 0, shallow: 1 } : { deep: 1, shallow: 0 })
  })

  test(`what the shallow engine does not take is offered to the deep one at once: ${code}`, () => {
    calm()
    shallow.refuses = -errno[code]
    assert.deepEqual(write(3), { deep: 3, shallow: 0 })
    calm()
    assert.deepEqual(write(1), again ? { deep: 0, shallow: 1 } : { deep: 1, shallow: 0 })
  })
}

test('word of completions is the deep engine\'s to withhold', () => {
  queue.disableNotification()
  calm()
  queueWrites(1)
  queue.submit()
  assert.deepEqual(shallow.ids, [0])
  assert.equal(queue.enableNotification(), 'empty')
  queue.disableNotification()
  for (let id = 1; id < 10; id++) queue.readv(id, [{ address: 4096, length: 512 }], 0)
  queue.submit()
  assert.equal(queue.enableNotification(), 'more')
  assert.deepEqual([deep.announced, shallow.announced], [[false, true, false, true], []])
})

test('an error of a submission is the deep engine\'s word', () => {
  calm()
  results = []
  shallow.refuses = -errno.EFAULT
  deep.refuses = -errno.EINVAL
  assert.deepEqual(write(2), { deep: 1, shallow: 0 })
  assert.deepEqual(results, [[0, -errno.EINVAL], [1, 512]])
})

test('a queue that is closed by a callback looks at neither engine again', () => {
  calm()
  onComplete = () => { queue.close() }
  write(1)
  assert.deepEqual([deep.closed, shallow.closed], [true, true])
})

test('both engines announce by one eventfd, and take turns without losing anything', () => {
  const file = scratchFile(tmpdir(), O_DIRECT)
  const memory = new NativeMemory(64 * 4096)
  const word = new NativeMemory(8)
  const done: number[] = []
  const real = new IoQueue({
    fd: file.fd, depth: 64, engine: 'io_uring+linux-aio', onComplete: (id, result) => { done.push(result === 4096 ? id : result) }
  })
  assert.equal(real.engine, 'io_uring+linux-aio')
  const transfer = (kind: 'readv' | 'writev', count: number): void => {
    done.length = 0
    for (let id = 0; id < count; id++) real[kind](id, [{ address: memory.address + id * 4096, length: 4096 }], id * 4096)
    real.submit()
    // Whoever sleeps until it is announced is woken until all is complete.
    while (real.inFlight > 0) if (read(real.completionFd, word.address, 8) === 8) real.reap()
    assert.deepEqual(done.sort((a, b) => a - b), Array.from({ length: count }, (_, id) => id))
  }
  for (let round = 0; round < 3; round++) {
    for (let id = 0; id < 64; id++) memory.u8.fill(64 * round + id, id * 4096, (id + 1) * 4096)
    transfer('writev', 64)
    for (let submissions = 0; submissions < 20; submissions++) transfer('writev', 1)
    transfer('writev', 8)
    memory.u8.fill(0)
    transfer('readv', 8)
    for (let id = 0; id < 8; id++) assert.equal(memory.u8[id * 4096 + 4095], 64 * round + id)
    transfer('readv', 64)
    for (let id = 0; id < 64; id++) assert.equal(memory.u8[id * 4096], (64 * round + id) & 0xff)
  }
  real.close()
  for (const each of [memory, word]) each.close()
  file.remove()
})

test('auto takes it with O_DIRECT', () => {
  const file = scratchFile(tmpdir(), O_DIRECT)
  const { engine, rejected } = openEngine('auto', { fd: file.fd, depth: 1024 })
  assert.deepEqual([engine.name, rejected], ['io_uring+linux-aio', []])
  const named = openEngine('no-io_uring', { fd: file.fd, depth: 16 })
  assert.equal(named.engine.name, 'linux-aio')
  for (const opened of [engine, named.engine]) opened.close()
  file.remove()
})

test.run()
