import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { test } from 'uvu'
import { ram } from '../src/ram.ts'
import { throttle } from '../src/throttle.ts'
import { checkAgainstModel, signal } from './support/model.ts'

/** Time that passes when it is told to. */
class TestClock {
  #now = 1000
  readonly #timers: { readonly due: number, readonly call: () => void }[] = []

  now (): number {
    return this.#now
  }

  after (milliseconds: number, call: () => void): void {
    this.#timers.push({ due: this.#now + milliseconds, call })
  }

  async pass (milliseconds: number): Promise<void> {
    const end = this.#now + milliseconds
    for (;;) {
      await new Promise(setImmediate)
      const [next] = this.#timers.sort((one, other) => one.due - other.due)
      if (next === undefined || next.due > end) break
      this.#timers.shift()
      this.#now = next.due
      next.call()
    }
    this.#now = end
  }

  get timers (): number {
    return this.#timers.length
  }
}

function throttled (limits: Omit<Parameters<typeof throttle>[0], 'disk' | 'clock'>) {
  const clock = new TestClock()
  const disk = throttle({ disk: ram({ capacity: 1 << 20 }), clock, ...limits })
  /** When what was done, in milliseconds from the start. */
  const done: [string, number][] = []
  async function start (name: string, work: void | Promise<void>): Promise<void> {
    await work
    done.push([name, clock.now() - 1000])
  }
  return { clock, disk, done, start }
}

test('requests are let through at their rate, in the order in which they came', async () => {
  const { clock, disk, done, start } = throttled({ ops: 2 })
  for (const name of ['a', 'b', 'c', 'd', 'e']) start(name, disk.read(0, [new Uint8Array(512)], signal))
  await clock.pass(3000)
  deepEqual(done, [['a', 0], ['b', 0], ['c', 500], ['d', 1000], ['e', 1500]])
  equal(clock.timers, 0, 'an idle throttle has no timer')
})

test('what needs no waiting is not made a promise', () => {
  const { disk } = throttled({ ops: 2 })
  equal(disk.read(0, [new Uint8Array(512)], signal), undefined)
})

test('bytes count for reads and writes, and a small request does not overtake a large one', async () => {
  const { clock, disk, done, start } = throttled({ bytes: { size: 1024, refillTime: 1000 } })
  start('1024', disk.write!(0, [new Uint8Array(1000), new Uint8Array(24)], signal))
  start('2048', disk.read(0, [new Uint8Array(2048)], signal))
  start('512', disk.read(0, [new Uint8Array(512)], signal))
  start('flush', disk.flush!(signal))
  start('discard', disk.discard!(0, 1 << 20, signal))
  await clock.pass(10_000)
  // The large one waits for a full bucket and owes another: the small one waits for that, and its own.
  deepEqual(done, [['1024', 0], ['2048', 1000], ['512', 2500], ['flush', 2500], ['discard', 2500]])
})

test('both limits hold, and the burst is for the beginning', async () => {
  const { clock, disk, done, start } = throttled({ ops: { size: 1, refillTime: 100, oneTimeBurst: 2 }, bytes: 5120 })
  for (let index = 0; index < 5; index++) start(String(index), disk.read(0, [new Uint8Array(2560)], signal))
  await clock.pass(5000)
  deepEqual(done, [['0', 0], ['1', 0], ['2', 500], ['3', 1000], ['4', 1500]])
})

test('who gives up does not hold up those behind', async () => {
  const { clock, disk, done, start } = throttled({ bytes: 1024 })
  const controller = new AbortController()
  start('1024', disk.read(0, [new Uint8Array(1024)], signal))
  const givesUp = disk.read(0, [new Uint8Array(4096)], controller.signal)
  start('512', disk.read(0, [new Uint8Array(512)], signal))
  controller.abort(new Error('stopped'))
  await rejects(Promise.resolve(givesUp), /stopped/)
  await clock.pass(5000)
  equal(done.length, 2)
  ok(done[1]![1] <= 1000)
  await disk.read(0, [new Uint8Array(1024)], signal)
  await rejects(Promise.resolve(disk.read(0, [new Uint8Array(4096)], controller.signal)), /stopped/)
})

test('what is read and written is what the disk below has, with the process\'s own clock', async () => {
  const disk = throttle({ disk: ram({ capacity: 64 << 10 }), ops: { size: 20, refillTime: 5 }, bytes: { size: 1 << 20, refillTime: 10 } })
  await checkAgainstModel(disk, Buffer.alloc(64 << 10), 1, 30)
})

test.run()
