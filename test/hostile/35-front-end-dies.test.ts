import assert from 'node:assert/strict'
import { closeSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import type { FrontEnd, InflightInit } from '../../packages/vhost-user/src/index.ts'
import { footprint, holdsAgain } from '../support/footprint.ts'
import { hostile } from '../support/hostile.ts'
import { HostileGuest } from '../support/hostile-guest.ts'
import { Load } from '../support/hostile-load.ts'
import { directRefused } from '../support/image.ts'

const define = hostile({ direct: directRefused() === undefined })

define('a front-end dies with requests in flight: they are drained, its memory is let go, the next one is served', async ({ connect, frozen, program }) => {
  const idle = footprint(program.pid)
  for (let round = 0; round < 3; round++) {
    const guest = await connect({ size: 64, queues: 2 })
    await frozen(() => {
      for (const queue of guest.queues) {
        new Load(queue).offerAll()
        queue.kick.signal()
      }
      // Its memory goes with it: nobody but the server keeps it from then on.
      guest.front.close()
    })
    await holdsAgain(program.pid, idle)
  }
})

define('a front-end dies between any two messages of its set-up', async ({ open }) => {
  for (let count = 0; count < 9; count++) {
    const guest = await open({ queues: 2 })
    const steps = [
      () => guest.front.setMemTable(guest.regions),
      () => guest.queues[0]!.configure(),
      () => guest.front.setVringEnable(0, true),
      () => guest.front.getInflightFd(2, 16).then((inflight) => takeInflight(guest.front, inflight)),
      () => guest.front.setLogBase({ fd: guest.memoryFd, size: 0x40000 }).catch(() => {}),
      () => guest.queues[1]!.configure(),
      () => guest.front.setVringEnable(1, true),
      () => guest.front.setBackendReqFd(() => {})
    ]
    for (const step of steps.slice(0, count)) await step()
    // The next one is on its way, unanswered.
    const next = steps[count]?.().catch(() => {})
    guest.front.close()
    await next
  }
})

async function takeInflight (front: FrontEnd, inflight: InflightInit | undefined): Promise<void> {
  if (inflight === undefined) return
  await front.setInflightFd(inflight)
  closeSync(inflight.fd)
}

/** Bytes of a process's address space. */
function addressSpace (pid: number): number {
  return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[0]) * 4096
}

define('front-ends come and go: the memory that each one\'s ring takes is given back', async ({ socket, layout, program }) => {
  const visit = async (): Promise<void> => {
    const guest = await HostileGuest.open(socket, { layout, size: 1024 })
    try {
      await guest.start()
      assert.equal((await guest.queue.flush()).written, 1)
    } finally {
      guest.close()
    }
  }
  await visit()
  const before = addressSpace(program.pid)
  const visits = 8
  for (let count = 0; count < visits; count++) await visit()
  // The buffers' addresses alone, of 1024 requests of up to 1024 buffers, are 16 MiB.
  const grown = addressSpace(program.pid) - before
  assert.ok(grown < visits * (8 << 20), `${grown} bytes for ${visits} visits`)
})

test.run()
