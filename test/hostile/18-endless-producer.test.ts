// A guest that makes chains available faster than any device serves them: others have their turn, and it can be stopped.
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { VIRTIO_BLK_S_OK } from '../../packages/virtio-blk/src/index.ts'
import { hostile } from '../support/hostile.ts'
import type { HostileQueue } from '../support/hostile-guest.ts'

const define = hostile()

/** Keeps a ring full, from now on: each call makes every chain available again that was given back. */
function flood (queue: HostileQueue): () => void {
  const tables = Array.from({ length: queue.layout.size }, () => queue.table(queue.goodChain()))
  tables.forEach((table, id) => queue.offer([table], id))
  queue.kick.signal()
  let taken = 0
  return () => {
    for (const { id } of queue.collect().slice(taken)) {
      taken++
      queue.offer([tables[id]!], id)
    }
    queue.kick.signal()
  }
}

define('a ring that is never empty does not keep the other, nor commands, from their turn', async ({ connect }) => {
  const { queues, front } = await connect({ queues: 2 })
  const [endless, other] = queues as [HostileQueue, HostileQueue]
  const refill = flood(endless)
  let stopped = false
  const flooding = (async () => {
    while (!stopped) {
      for (let times = 0; times < 20; times++) refill()
      await new Promise((resolve) => setImmediate(resolve))
    }
  })()
  for (let round = 0; round < 20; round++) assert.equal((await other.getId()).status, VIRTIO_BLK_S_OK)
  const given = endless.collect().length
  assert.ok(given > 16, `${given} chains were given back meanwhile: it was a flood`)
  await front.setVringCall(1, other.call.fd)
  await front.getVringBase(0)
  stopped = true
  await flooding
  assert.deepEqual([endless.error.count, other.error.count], [0, 0])
  assert.equal((await other.getId()).status, VIRTIO_BLK_S_OK)
})

test.run()
