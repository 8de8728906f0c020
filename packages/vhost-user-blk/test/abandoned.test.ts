// A server whose disk does not give requests back.
import assert from 'node:assert/strict'
import { test } from 'uvu'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import { eventually } from '../../../test/support/eventually.ts'
import { faulty } from '../../virtio-blk-dataplane/test/support/faulty-engine.ts'
import { serve } from '../src/index.ts'
import { newImage, newPath } from './support/scratch.ts'

const stuck = faulty({ rules: [{ operation: 'read', fault: { kind: 'never' } }] })

test('requests that do not end are told of when their front-end goes; the next one is served; and the end of the server says so', async () => {
  const [socketPath, path] = [newPath(), newImage()]
  const lines: string[] = []
  const server = await serve({ path, socketPath, engine: stuck, queues: 2, stopTimeout: 100, log: (line) => lines.push(line) })
  const driver = await BlockDriver.connect({ socketPath, queues: 2 })
  const reads = [0, 512, 1024].map((offset) => driver.read(offset, 512).catch((error: unknown) => error))
  await eventually('all are in flight', () => server.plane.inFlight.reduce((one, other) => one + other) === 3)
  await driver.close({ timeout: 0 })
  for (const error of await Promise.all(reads)) assert.equal((error as { code?: string }).code, 'ERR_BLOCK_CLOSED')
  await eventually('the session is over', () => lines.length === 2)
  assert.match(lines[1]!, /^the session ended: what was in flight did not end in 100 ms: given up with 2 on queue 0, 1 on queue 1 in flight/)

  const next = await BlockDriver.connect({ socketPath, queues: 2 })
  await next.write(4096, new Uint8Array(512).fill(7))
  await next.flush()
  assert.equal(server.plane.state, 'running')
  const read = next.read(0, 512).catch((error: unknown) => error)
  await eventually('it is in flight', () => server.plane.inFlight.includes(1))
  await assert.rejects(server.close(), { name: 'VhostUserError', code: 'ERR_VHOST_USER_ABANDONED', message: /given up with 1 on queue/ })
  assert.equal(server.plane.state, 'closed')
  assert.equal((await read as { code?: string }).code, 'ERR_BLOCK_DISCONNECTED')
  await next.close()
  await assert.rejects(serve({ path, socketPath: newPath() }), { code: 'ERR_IMAGE_LOCKED' })
})

test.run()
