import { GuestMemory } from '@node-vmm/hostmem'
import { close } from '@node-vmm/libc'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import type { LitmusGame, LitmusResult } from './support/litmus-player.ts'

// One side stores its index and then looks whether the other wants to be woken; the other stores its wish and then looks
// at the index. If either processor did the look before the store, both could miss each other: a lost wake-up.

const MILLISECONDS = 500
/** How long it goes on for want of rounds, or of one of the outcomes: two threads that never run side by side do not race. */
const MILLISECONDS_MAX = 20_000

async function play (game: Pick<LitmusGame, 'race' | 'eventIdx' | 'packed'>): Promise<LitmusResult> {
  const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x10000 }])
  close(fd)
  const common = { ...game, memory: memory.toData(), shared: new SharedArrayBuffer(0x1000), milliseconds: MILLISECONDS, millisecondsMax: MILLISECONDS_MAX }
  const player = new URL('./support/litmus-player.ts', import.meta.url)
  const workers = (['driver', 'device'] as const).map((role) => new Worker(player, { workerData: { ...common, role } satisfies LitmusGame }))
  try {
    const [driver, device] = await Promise.all(workers.map(async (worker) => (await once(worker, 'message'))[0] as LitmusResult))
    assert.deepEqual(driver, device, 'both saw the same')
    return driver!
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()))
    memory.release()
  }
}

for (const race of ['kick', 'interrupt'] as const) {
  for (const packed of [false, true]) {
    for (const eventIdx of [false, true]) {
      const kind = `${packed ? 'packed' : 'split'} ring with ${eventIdx ? 'event indices' : 'flags'}`
      test(`no ${race} is lost between a store and a look, in a ${kind}`, async () => {
        const { rounds, lost, seen, notified } = await play({ race, eventIdx, packed })
        console.log(`\nnote: ${race}, ${kind}: ${rounds} rounds, ${notified} notified, ${seen} seen, ${lost} lost`)
        assert.equal(lost, 0)
        assert.ok(rounds > 1000, `only ${rounds} rounds`)
        assert.ok(seen > 0 && notified > 0, 'both outcomes were met: there was a race')
      })
    }
  }
}

test.run()
