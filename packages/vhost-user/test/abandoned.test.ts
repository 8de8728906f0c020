// A device that gives a queue up whose requests do not end: the session is over, its memory stays, the next one is served.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { FrontEnd, listen, type Listener, VhostUserError } from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { connect, Eventfds, guestMemory, mappings, type Pair, RecordingDevice, startRing } from './support/session.ts'

const dir = mkdtempSync(join(tmpdir(), 'vhost-user-'))
process.on('exit', () => rmSync(dir, { recursive: true }))
let sockets = 0

const abandoned = (): VhostUserError => new VhostUserError('ERR_VHOST_USER_ABANDONED', 'given up with 3 requests')
const isAbandoned = { code: 'ERR_VHOST_USER_ABANDONED', message: 'given up with 3 requests' }

const fds = new Eventfds()
const ram = guestMemory()
test.after(() => {
  fds.close()
  ram.close()
})

/** The session is over because of that, with the memory of the queue still mapped, and the device is as new. */
async function endsAbandoned ({ session, device, front }: Pair, mapped: number): Promise<void> {
  const failure = await session.closed
  assert.deepEqual({ code: (failure as VhostUserError).code, message: failure!.message }, isAbandoned)
  assert.equal(mappings(), mapped)
  assert.equal(device.look().at(-1), 'reset')
  front.close()
}

test('a queue that is given up when it is to stop ends the session', async () => {
  const pair = connect()
  const before = mappings()
  await startRing(pair, ram, fds)
  pair.device.onStop = async () => { throw abandoned() }
  await assert.rejects(pair.front.getVringBase(0), { code: 'ERR_VHOST_USER_CLOSED' })
  await endsAbandoned(pair, before + 1)
})

test('a queue that is given up when another one starts ends the session', async () => {
  const pair = connect()
  await startRing(pair, ram, fds)
  const before = mappings()
  pair.device.startQueue = () => { throw abandoned() }
  pair.device.onStop = async () => { throw abandoned() }
  await assert.rejects(startRing(pair, ram, fds, 1), { code: 'ERR_VHOST_USER_CLOSED' })
  await endsAbandoned(pair, before)
})

test('a queue that is given up when all start again on other memory ends the session', async () => {
  const pair = connect()
  await startRing(pair, ram, fds)
  pair.device.startQueue = () => { throw abandoned() }
  await assert.rejects(pair.front.setMemTable(ram.regions), { code: 'ERR_VHOST_USER_CLOSED' })
  assert.deepEqual((await pair.session.closed as VhostUserError).code, 'ERR_VHOST_USER_ABANDONED')
  pair.front.close()
})

for (const when of ['the front-end goes', 'the listener is closed'] as const) {
  test(`a queue is given up when ${when}: ${when === 'the front-end goes' ? 'the next one is served' : 'it says so'}`, async () => {
    const device = new RecordingDevice()
    const ends: (Error | undefined)[] = []
    const path = join(dir, `${sockets++}.sock`)
    const listener: Listener = listen({ path, device, onSessionEnd: (failure) => ends.push(failure) })
    const front = FrontEnd.connect(path)
    await startRing({ front } as Pair, ram, fds)
    device.onStop = async () => { throw abandoned() }
    if (when === 'the front-end goes') {
      front.close()
      await eventually('the session is over', () => ends.length === 1)
      device.onStop = async () => {}
      const next = FrontEnd.connect(path)
      await startRing({ front: next } as Pair, ram, fds)
      assert.equal(await next.getVringBase(0), 5)
      next.close()
      assert.equal(await listener.close(), undefined)
    } else {
      assert.equal((await listener.close() as VhostUserError).code, 'ERR_VHOST_USER_ABANDONED')
      front.close()
    }
    assert.equal((ends[0] as VhostUserError).code, 'ERR_VHOST_USER_ABANDONED')
  })
}

test.run()
