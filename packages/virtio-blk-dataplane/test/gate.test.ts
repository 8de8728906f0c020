import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import { DataPlaneError, DrainTimeoutError } from '../src/errors.ts'
import { Gate } from '../src/gate.ts'
import type { GateJob } from './support/gate-worker.ts'

/** A gate for 3 queues, with how often it was opened. */
function makeGate (): { gate: Gate, opened: () => number } {
  let opened = 0
  const gate = Gate.create(3, () => { opened++ })
  return { gate, opened: () => opened }
}

function thread (gate: Gate, kind: GateJob['kind']): { worker: Worker, flags: Int32Array } {
  const flags = new Int32Array(new SharedArrayBuffer(16))
  const workerData: GateJob = { state: gate.state, kind, flags: flags.buffer as unknown as SharedArrayBuffer }
  return { worker: new Worker(new URL('./support/gate-worker.ts', import.meta.url), { workerData }), flags }
}

const pending = async (promise: Promise<unknown>): Promise<boolean> => {
  const soon = new Promise((resolve) => setTimeout(resolve, 20, 'pending'))
  return await Promise.race([promise, soon]) === 'pending'
}

test('requests are counted by queue, from the end of their batch to their completion', () => {
  const { gate } = makeGate()
  assert.equal(gate.enter(), true)
  assert.deepEqual(gate.inFlight, [0, 0, 0])
  gate.leave(2, 5)
  assert.deepEqual(gate.inFlight, [0, 0, 5])
  gate.enter()
  gate.leave(0, 1)
  gate.complete(2, 4)
  assert.deepEqual(gate.inFlight, [1, 0, 1])
  gate.complete(2, 1)
  gate.complete(0, 1)
  assert.deepEqual(gate.inFlight, [0, 0, 0])
})

test('a hold keeps batches out until the last is taken back, which wakes the thread', () => {
  const { gate, opened } = makeGate()
  gate.hold()
  gate.hold()
  assert.equal(gate.enter(), false)
  gate.letGo()
  assert.equal(gate.enter(), false)
  assert.equal(opened(), 0)
  gate.letGo()
  assert.equal(opened(), 1)
  assert.equal(gate.enter(), true)
})

test('a drain with nothing in flight ends, and takes its hold back', async () => {
  const { gate, opened } = makeGate()
  await gate.drain()
  gate.drainSync({ timeout: 0 })
  assert.equal(opened(), 2)
  assert.equal(gate.enter(), true)
})

test('a drain waits for the batch that is being taken in, and for its requests', async () => {
  const { gate } = makeGate()
  gate.enter()
  const drained = gate.drain()
  assert.ok(await pending(drained))
  gate.leave(1, 2)
  assert.ok(await pending(drained))
  assert.equal(gate.enter(), false)
  gate.complete(1, 1)
  assert.ok(await pending(drained))
  gate.complete(1, 1)
  await drained
  assert.equal(gate.enter(), true)
})

test('a batch that finished at once ends a drain too', async () => {
  const { gate } = makeGate()
  gate.enter()
  const drained = gate.drain()
  gate.leave(0, 0)
  await drained
})

test('several drains at once end together', async () => {
  const { gate, opened } = makeGate()
  gate.enter()
  gate.leave(0, 1)
  const drains = [gate.drain(), gate.drain(), gate.drain({ timeout: 60_000 })]
  await pending(drains[0]!)
  gate.complete(0, 1)
  await Promise.all(drains)
  assert.equal(opened(), 1)
})

test('a drain that is out of time says what is in flight, and takes its hold back', async () => {
  const { gate, opened } = makeGate()
  gate.enter()
  gate.leave(0, 2)
  gate.enter()
  gate.leave(2, 1)
  const check = (error: unknown): boolean => error instanceof DrainTimeoutError && error instanceof DataPlaneError &&
    error.code === 'ERR_TIMEOUT' && error.name === 'DrainTimeoutError' && /after 20 ms .*2 on queue 0, 1 on queue 2/.test(error.message)
  await assert.rejects(gate.drain({ timeout: 20 }), check)
  await assert.rejects(gate.drain({ timeout: 20 }), { inFlight: [2, 0, 1] })
  assert.throws(() => gate.drainSync({ timeout: 20 }), check)
  assert.equal(opened(), 3)
  assert.equal(gate.enter(), true)
  gate.leave(0, 0)
  gate.complete(0, 2)
  gate.complete(2, 1)
  await gate.drain({ timeout: 0 })
})

test('out of time while a batch is taken in, the error says that', async () => {
  const { gate } = makeGate()
  gate.enter()
  await assert.rejects(gate.drain({ timeout: 10 }), /a batch being taken in/)
})

test('an abort ends a drain with the signal\'s reason', async () => {
  const { gate, opened } = makeGate()
  gate.enter()
  const abort = new AbortController()
  const drained = gate.drain({ signal: abort.signal })
  assert.ok(await pending(drained))
  abort.abort(new Error('enough'))
  await assert.rejects(drained, /enough/)
  await assert.rejects(gate.drain({ signal: AbortSignal.abort(new Error('before')) }), /before/)
  assert.equal(opened(), 2)
})

test('a gate that was abandoned lets drains fail instead of waiting for ever', async () => {
  const { gate } = makeGate()
  gate.enter()
  const drained = gate.drain()
  assert.ok(await pending(drained))
  gate.abandon()
  await assert.rejects(drained, { code: 'ERR_THREAD' })
  await assert.rejects(gate.drain(), { code: 'ERR_THREAD' })
  assert.throws(() => gate.drainSync(), { code: 'ERR_THREAD' })
})

test('drains meet no batch half taken in, however busy the other thread', async () => {
  const { gate } = makeGate()
  const { worker, flags } = thread(gate, 'serve')
  while (Atomics.load(flags, 2) === 0) await pending(Promise.resolve())
  for (let drains = 0; drains < 300; drains++) {
    gate.hold()
    if (drains % 2 === 0) await gate.settle({ timeout: 60_000 })
    else gate.drainSync({ timeout: 60_000 })
    const batches = Atomics.load(flags, 2)
    assert.deepEqual(gate.inFlight, [0, 0, 0])
    for (let look = 0; look < 50; look++) assert.equal(Atomics.load(flags, 1), 0)
    assert.equal(Atomics.load(flags, 2), batches)
    gate.letGo()
    while (Atomics.load(flags, 2) === batches);
  }
  Atomics.store(flags, 0, 1)
  await once(worker, 'exit')
})

test('another thread drains, and opens by its own means', async () => {
  const { gate, opened } = makeGate()
  gate.enter()
  gate.leave(0, 1)
  const { worker } = thread(gate, 'drain')
  const messages: string[] = []
  worker.on('message', (message) => messages.push(message))
  while (messages.length === 0) await pending(new Promise(() => {}))
  while (gate.enter()) {
    gate.leave(0, 0)
    await pending(new Promise(() => {}))
  }
  assert.deepEqual(messages, ['draining'])
  gate.complete(0, 1)
  await once(worker, 'exit')
  assert.deepEqual(messages, ['draining', 'opened', 'drained'])
  assert.equal(opened(), 0)
  assert.equal(gate.enter(), true)
})

test.run()
