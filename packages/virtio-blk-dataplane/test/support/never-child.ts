// Run by drain.test.ts: on queue 1 reads never complete. A data plane with these cannot be stopped, but the process can.
import assert from 'node:assert/strict'
import { DataPlane, DrainTimeoutError, VIRTIO_BLK_T_IN } from '../../src/index.ts'
import { eventually } from '../../../../test/support/eventually.ts'
import { faulty } from './faulty-engine.ts'
import { Guest } from './guest.ts'

const plane = DataPlane.create({
  path: process.argv[2]!, queues: 2, engine: faulty({ rules: [{ operation: 'read', fault: { kind: 'never' } }] })
})
const [other, guest] = [new Guest(), new Guest()]
await plane.start([other.setup, guest.setup])
for (let sector = 0; sector < 3; sector++) guest.request(VIRTIO_BLK_T_IN, sector, { writable: [{ address: guest.allocate(512), length: 512 }] })
assert.equal((await guest.flush()).status, 0)
// The thread may not have counted the flush out yet.
await eventually('the reads are in flight, and nothing else', () => String(plane.inFlight) === '0,3')

const isRight = (error: unknown): boolean => error instanceof DrainTimeoutError && error.code === 'ERR_TIMEOUT' &&
  /after 50 ms .*: 3 on queue 1$/.test(error.message) && String(error.inFlight) === '0,3'
await assert.rejects(plane.drain({ timeout: 50 }), isRight)
assert.throws(() => plane.drainSync({ timeout: 50 }), isRight)
await assert.rejects(plane.drain({ signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })

// A pause that fails is none: both queues are served on.
await assert.rejects(plane.pause({ timeout: 50 }), isRight)
assert.equal(plane.state, 'running')
assert.equal((await other.flush()).status, 0)
assert.equal((await guest.flush()).status, 0)
console.log('as it should be')
process.exit(0)
