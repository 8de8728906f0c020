import assert from 'node:assert/strict'
import { type DriverQueue, NOTHING_USED, RING_FULL } from '../../src/driver/index.ts'
import type { PlainDevice, Taken } from './plain-device.ts'

/** A small reproducible generator: `next(n)` is 0 to n - 1. */
export function generator (seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor(state / 0x100000000 * below)
  }
}

export interface TrafficOptions {
  /** Guest address of the chains' segments, of which nothing is read or written. */
  readonly data: number
  readonly segmentsMax: number
  /** The device gives chains back in order, in batches. */
  readonly inOrder: boolean
  readonly rounds: number
}

/**
 * Random chains through a driver's ring and a device: each comes back once, with its own token and length. What kicks
 * and interrupts would do is played exactly, so that a lost one shows as chains that never come back.
 *
 * @returns how many came back
 */
export function traffic (ring: DriverQueue, device: PlainDevice, { data, segmentsMax, inOrder, rounds }: TrafficOptions): number {
  const seed = Number(process.env.SEED ?? 20261)
  const random = generator(seed)
  const expected = new Map<number, { token: number, readable: number[], writable: number[], written: number }>()
  const byToken: number[] = []
  const taken: Taken[] = []
  const order: number[] = []
  let token = 0
  let finished = 0
  let deviceAwake = true
  let driverAwake = true

  const serve = (): void => {
    do {
      for (let chain = device.take(); chain !== undefined; chain = device.take()) {
        const wanted = expected.get(byToken[(chain.address - data) / 16]!)!
        assert.deepEqual(chain.lengths, [...wanted.readable, ...wanted.writable], `seed ${seed}`)
        assert.equal(chain.readable, wanted.readable.length)
        taken.push(chain)
      }
    } while (device.sleep() === 'more')
    deviceAwake = false
  }
  const give = (batch: Taken[]): void => {
    batch.forEach((chain, index) => {
      const wanted = expected.get(byToken[(chain.address - data) / 16]!)!
      const isLast = index + 1 === batch.length
      wanted.written = isLast ? chain.id + 1 : wanted.writable.reduce((sum, length) => sum + length, 0)
    })
    device.give(batch, batch.at(-1)!.id + 1)
  }
  const giveSome = (some: number): void => {
    while (some > 0 && taken.length > 0) {
      const batch = inOrder ? taken.splice(0, 1 + random(3)) : taken.splice(random(taken.length), 1)
      give(batch)
      some -= batch.length
    }
    if (device.wantsInterrupt()) driverAwake = true
  }
  const collect = (): void => {
    do {
      for (let head = ring.pollUsed(); head !== NOTHING_USED; head = ring.pollUsed()) {
        const wanted = expected.get(head)
        assert.ok(wanted !== undefined, `seed ${seed}: ${head} is not in flight`)
        assert.equal(ring.usedToken, wanted.token, `seed ${seed}`)
        assert.equal(ring.usedLength, wanted.written, `seed ${seed}`)
        if (inOrder) assert.equal(head, order.shift(), `seed ${seed}`)
        expected.delete(head)
        finished++
      }
    } while (ring.enableInterrupts() === 'more')
    driverAwake = false
  }

  for (let round = 0; round < rounds; round++) {
    for (let batch = random(4); batch > 0; batch--) {
      const lengths = Array.from({ length: 1 + random(segmentsMax) }, () => 1 + random(100))
      const readable = random(lengths.length + 1)
      const chain = { token: ++token, readable: lengths.slice(0, readable), writable: lengths.slice(readable), written: 0 }
      // The first address tells the device's chain apart, whatever names the device has for it.
      const first = ring.nextHead
      const segments = (all: number[]) => all.map((length) => ({ address: data + first * 16, length }))
      const head = ring.add(segments(chain.readable), segments(chain.writable), token)
      if (head === RING_FULL) break
      assert.equal(head, first)
      byToken[first] = head
      assert.ok(!expected.has(head), `seed ${seed}: ${head} twice`)
      expected.set(head, chain)
      order.push(head)
    }
    ring.publish()
    if (ring.needsKick()) deviceAwake = true
    if (deviceAwake) serve()
    giveSome(random(5))
    if (driverAwake) collect()
    if (random(50) === 0) {
      ring.disableInterrupts()
      collect()
    }
  }
  giveSome(Infinity)
  if (driverAwake) collect()
  assert.equal(expected.size, 0, `seed ${seed}: ${expected.size} chains were lost`)
  assert.equal(ring.inFlight, 0)
  assert.equal(ring.freeDescriptors, ring.size)
  return finished
}
