import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { getAffinity } from '@node-vmm/libc'
import { test } from 'uvu'
import { Image } from '../src/image.ts'
import { DataPlane, DataPlaneError, type DataPlaneErrorCode, type DataPlaneOptions } from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { runChild } from './support/child.ts'
import { Guest } from './support/guest.ts'
import { Scratch } from './support/image.ts'
import { throwing } from './support/throwing-engine.ts'
import { turning } from './support/turning-engine.ts'

const scratch = new Scratch()
process.on('exit', () => scratch.remove())
const path = scratch.image('disk.img', 64)
/** For what always ends, in milliseconds. */
const timeout = 60_000

const ends: (() => Promise<void> | void)[] = []
test.after.each(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A data plane that is closed after the test. */
function make (options: Partial<DataPlaneOptions> = {}): DataPlane {
  const plane = DataPlane.create({ path, ...options })
  ends.push(() => plane.close())
  return plane
}

/** A guest that is closed after the test, and after the data plane. */
function guest (): Guest {
  const made = new Guest()
  ends.unshift(() => made.close())
  return made
}

const fails = (code: DataPlaneErrorCode, text?: RegExp) => (error: unknown): boolean =>
  error instanceof DataPlaneError && error.code === code && error.name === 'DataPlaneError' && (text === undefined || text.test(error.message))

function isLocked (path: string): boolean {
  try {
    Image.open({ path }).close()
    return false
  } catch (error) {
    if ((error as DataPlaneError).code === 'ERR_IMAGE_LOCKED') return true
    throw error
  }
}

for (const where of ['submit', 'reap', 'exit'] as const) {
  test(`the death of the thread (${where}) is reported, and nothing waits for it`, async () => {
    const deaths: DataPlaneError[] = []
    const path = scratch.image(`${where}.img`, 64)
    const plane = make({ path, engine: throwing(where), onDeath: (error) => deaths.push(error) })
    const player = guest()
    await plane.start([player.setup])
    player.flush()
    await eventually('the death is told', () => deaths.length > 0)
    const text = where === 'exit' ? /thread died/ : new RegExp(`the data-plane thread died: ${where} went wrong`)
    assert.ok(fails('ERR_THREAD', text)(deaths[0]), String(deaths[0]))
    if (where !== 'exit') {
      assert.throws(() => plane.drainSync({ timeout }), fails('ERR_THREAD'))
    }
    await assert.rejects(plane.drain({ timeout }), fails('ERR_THREAD'))
    await assert.rejects(plane.pause({ timeout }), fails('ERR_THREAD'))
    await assert.rejects(plane.start([player.setup]), fails('ERR_THREAD'))
    await assert.rejects(plane.setCall(0, undefined), fails('ERR_THREAD'))
    await assert.rejects(plane.stop(), fails('ERR_THREAD'))
    await plane.close()
    assert.equal(deaths.length, 1)
    // The image is free again, as soon as the kernel is done with what was in flight.
    await eventually('the image is free', () => !isLocked(path))
  })
}

test('a drain that blocks its thread notices that the data-plane thread dies', async () => {
  const plane = make({ path: scratch.image('blocked.img', 64), engine: throwing('reap') })
  const player = guest()
  await plane.start([player.setup])
  await plane.pause()
  player.flush()
  plane.resume()
  assert.throws(() => {
    for (const end = Date.now() + timeout; Date.now() < end;) plane.drainSync({ timeout })
  }, fails('ERR_THREAD'))
})

test('bug: what the runtime keeps for views of guest memory was never freed, for the event loop of the thread did not turn', async () => {
  const ended = new Int32Array(new SharedArrayBuffer(4))
  const plane = make({ path: scratch.image('turning.img', 64), queues: 2, engine: turning(ended.buffer) })
  const players = [guest(), guest()]
  await plane.start(players.map(({ setup }) => setup))
  for (let round = 1; round <= 3; round++) {
    // The other queue is served all the time: its thread never ends.
    await plane.stopQueue(0)
    await eventually('the event loop turned', () => Atomics.load(ended, 0) === round)
    await plane.startQueue(0, players[0]!.setup)
  }
})

test('an engine module that cannot be loaded fails the start, and another start is possible', async () => {
  const deaths: DataPlaneError[] = []
  const plane = make({ engine: { module: 'file:///no/such/module.js' }, onDeath: (error) => deaths.push(error) })
  for (let attempt = 1; attempt <= 2; attempt++) {
    await assert.rejects(plane.start([guest().setup]), fails('ERR_THREAD', /module/))
    assert.equal(deaths.length, attempt)
  }
})

test('cpus: the thread runs where it is told to', async () => {
  const [cpu, ...others] = getAffinity()
  if (others.length === 0) return console.log('skipped: one processor is all there is')
  const allowed = (): string[] => readdirSync('/proc/self/task').map((task) => {
    try {
      return /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync(`/proc/self/task/${task}/status`, 'utf8'))![1]!
    } catch {
      return 'it has just ended'
    }
  })
  assert.equal(allowed().filter((list) => list === String(cpu)).length, 0)
  const plane = make({ cpus: [[cpu!]] })
  const player = guest()
  await plane.start([player.setup])
  await player.flush()
  assert.ok(allowed().includes(String(cpu)))
  const wrong = make({ path: scratch.image('other.img', 8), cpus: [[1000]] })
  await assert.rejects(wrong.start([guest().setup]), fails('ERR_THREAD', /1000/))
})

const waysToEnd: readonly (readonly [way: string, status: number, stdout: RegExp])[] = [
  ['exit while it starts', 7, /^$/],
  ['exit while it runs', 7, /^the threads are done\n$/],
  ['exit while disks share a thread', 7, /^$/],
  ['exit with requests in flight', 7, /^in flight: 0,10\n$/],
  ['an uncaught error', 1, /^$/],
  ['end without a start', 0, /^$/],
  ['end after a close', 0, /^closed\n$/]
]
test('a process with a data plane ends promptly, however it ends', async () => {
  const run = async (way: string, status: number, stdout: RegExp): Promise<void> => {
    const image = scratch.image(`${way}.img`, 64)
    const ended = await runChild(new URL('./support/exit-child.ts', import.meta.url), [way, image])
    assert.equal(ended.status, status, `${way}: ${ended.stderr}`)
    assert.match(ended.stdout, stdout, way)
  }
  const ways = waysToEnd.map((way) => () => run(...way))
  const worker = async (): Promise<void> => {
    for (let next = ways.shift(); next !== undefined; next = ways.shift()) await next()
  }
  await Promise.all([worker(), worker()])
})

test.run()
