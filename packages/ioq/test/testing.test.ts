import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { errno } from '@node-vmm/libc'
import { openEngine } from '@node-vmm/ioq'
import { FaultyEngine, type FaultPlan, type FaultRule } from '@node-vmm/ioq/testing'
import { availableEngines, Harness, scratchFile } from './support.ts'

for (const name of availableEngines()) {
  const test = suite(`FaultyEngine on ${name}`)
  let file: ReturnType<typeof scratchFile>
  test.before.each(() => { file = scratchFile('/dev/shm') })
  test.after.each(() => file.remove())

  const withRules = (...rules: FaultRule[]): Harness => new Harness(name, file.fd, { plan: { rules, seed: 1 } })

  test('again: the queue stalls, keeps the request in order, and the next submit brings it', () => {
    const harness = withRules({ operation: 'write', at: 2, fault: { kind: 'again' } })
    const { queue, memory } = harness
    for (let id = 0; id < 5; id++) queue.writev(id, [{ address: memory.address, length: 512 }], id * 512)
    queue.submit()
    assert.equal(queue.stalled, true)
    assert.equal(queue.submissions, 2)
    assert.equal(queue.inFlight, 5)
    queue.submit()
    assert.equal(queue.stalled, false)
    assert.equal(queue.submissions, 5)
    harness.finish()
    assert.equal(harness.results.size, 5)
    assert.equal(harness.faulty!.made.again, 1)
    harness.close()
  })

  test('short: the kernel moves half, and the queue the rest', () => {
    const harness = withRules({ at: 0, fault: { kind: 'short' } }, { at: 1, fault: { kind: 'short' } })
    harness.memory.u8.fill(9, 0, 3000)
    assert.equal(harness.transfer('writev', [[0, 100], [100, 2000], [2100, 900]], 0), 3000)
    assert.equal(harness.queue.submissions, 3)
    assert.equal(harness.faulty!.made.short, 2)
    assert.equal(harness.transfer('readv', [[4096, 3000]], 0), 3000)
    assert.ok(harness.memory.u8.subarray(4096, 7096).every((byte) => byte === 9))
    harness.close()
  })

  test('late by time: not before', () => {
    const harness = withRules({ operation: 'flush', fault: { kind: 'late', milliseconds: 30 } })
    const started = performance.now()
    assert.equal(harness.flush(), 0)
    const took = performance.now() - started
    assert.ok(took >= 30, `${took} ms`)
    harness.close()
  })

  test('late by reaps', () => {
    const harness = withRules({ at: 0, fault: { kind: 'late', reaps: 5 } })
    harness.queue.readv(0, [{ address: harness.memory.address, length: 512 }], 0)
    harness.queue.submit()
    let reaps = 1
    while (harness.queue.reap() === 0) reaps++
    assert.ok(reaps >= 5, `${reaps} reaps`)
    harness.close()
  })

  test('late until it is let go', () => {
    const until = new Int32Array(new SharedArrayBuffer(4))
    const harness = withRules({ at: 0, fault: { kind: 'late', until } })
    harness.queue.flush(0)
    harness.queue.flush(1)
    harness.queue.submit()
    while (harness.queue.completions < 1) harness.queue.reap()
    for (let reaps = 0; reaps < 20; reaps++) harness.queue.reap()
    assert.deepEqual([...harness.results], [[1, 0]])
    Atomics.store(until, 0, 1)
    harness.finish()
    assert.deepEqual([...harness.results], [[1, 0], [0, 0]])
    harness.close()
  })

  test('reorder: all come, in another order', () => {
    const order: number[] = []
    const ids = Array.from({ length: 32 }, (_, id) => id)
    const engine = new FaultyEngine(openEngine(name, { fd: file.fd, depth: 64 }).engine, { seed: 5, rules: [{ fault: { kind: 'reorder' } }] })
    const harness = new Harness(name, file.fd, { engine, onComplete: (id) => { order.push(id) } })
    // Where the kernel ends one after the other, each is alone at a reap, and stays where it is.
    do {
      order.length = 0
      for (const id of ids) harness.queue.flush(id)
      harness.finish()
      assert.deepEqual([...order].sort((one, other) => one - other), ids)
    } while (String(order) === String(ids))
    harness.close()
  })

  test('error: the request is not done', () => {
    const harness = withRules({ operation: 'write', at: 1, fault: { kind: 'error', code: 'EIO' } })
    harness.memory.u8.fill(1, 0, 512)
    harness.memory.u8.fill(2, 512, 1024)
    assert.equal(harness.transfer('writev', [[0, 512]], 0), 512)
    assert.equal(harness.transfer('writev', [[512, 512]], 0), -errno.EIO)
    assert.equal(harness.transfer('readv', [[1024, 512]], 0), 512)
    assert.ok(harness.memory.u8.subarray(1024, 1536).every((byte) => byte === 1))
    harness.close()
  })

  test('discards and write zeroes go wrong by rules of their own', () => {
    const harness = withRules(
      { operation: 'discard', at: 1, fault: { kind: 'error', code: 'EIO' } },
      { operation: 'writeZeroes', at: 0, fault: { kind: 'late', reaps: 3 } },
      { operation: 'discard', at: 2, fault: { kind: 'short' } }
    )
    harness.memory.u8.fill(9, 0, 4096)
    assert.equal(harness.transfer('writev', [[0, 4096]], 0), 4096)
    assert.equal(harness.discard(0, 512), 0)
    assert.equal(harness.discard(512, 512), -errno.EIO)
    assert.equal(harness.discard(1024, 512), 0, 'nothing to shorten')
    assert.equal(harness.writeZeroes(2048, 512, true), 0)
    assert.deepEqual(harness.faulty!.made, { again: 0, short: 0, late: 1, reorder: 0, error: 1, never: 0 })
    assert.equal(harness.transfer('readv', [[4096, 4096]], 0), 4096)
    const sectors = Array.from({ length: 8 }, (_, sector) => harness.memory.u8[4096 + sector * 512])
    assert.deepEqual(sectors, [0, 9, 0, 9, 0, 9, 9, 9])
    harness.close()
  })

  test('never: it stays in flight', () => {
    const harness = withRules({ operation: 'flush', at: 0, fault: { kind: 'never' } })
    harness.queue.flush(0)
    harness.queue.flush(1)
    harness.queue.submit()
    while (harness.queue.completions < 1) harness.queue.reap()
    for (let reaps = 0; reaps < 100; reaps++) harness.queue.reap()
    assert.deepEqual([...harness.results], [[1, 0]])
    assert.equal(harness.queue.inFlight, 1)
    assert.equal(harness.queue.close({ timeout: 0 }), 1)
    harness.memory.close()
  })

  test('a plan is plain data, and its seed repeats it', () => {
    const plan: FaultPlan = { rules: [{ fault: { kind: 'error', code: 'EIO' }, probability: 0.5 }] }
    const run = (given: FaultPlan): { failed: string, seed: number } => {
      const harness = new Harness(name, file.fd, { plan: structuredClone(given) })
      for (let id = 0; id < 64; id++) harness.queue.flush(id)
      harness.finish()
      const { seed } = harness.faulty!
      assert.equal(harness.queue.engine, `faulty ${name} (seed ${seed})`)
      harness.close()
      return { failed: [...harness.results].filter(([, result]) => result !== 0).map(([id]) => id).sort().join(), seed }
    }
    const first = run(plan)
    const count = first.failed.split(',').length
    assert.ok(count > 10 && count < 54, `${count} of 64 failed`)
    assert.equal(run({ ...plan, seed: first.seed }).failed, first.failed)
    assert.notEqual(run({ ...plan, seed: first.seed + 1 }).failed, first.failed)
  })

  test.run()
}
