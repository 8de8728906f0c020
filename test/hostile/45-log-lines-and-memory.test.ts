// What a guest or a front-end makes happen as often as it likes must not fill a disk with log lines, nor memory.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import { eventually } from '../support/eventually.ts'
import { hostile } from '../support/hostile.ts'
import { NOWHERE } from '../support/hostile-guest.ts'
import type { Running } from '../support/processes.ts'

const define = hostile()

/** Lines of one session: of refused messages or of faults, 32 at most, and a few more. */
const LINES_MAX = 40

/** Where the server's log stands, once all that it has written is here: by a line that it always writes when it is asked to. */
async function position (program: Running): Promise<number> {
  const { length } = program.output
  program.signal('SIGHUP')
  await eventually('the answer to SIGHUP', () => /bytes now\n/.test(program.output.slice(length)))
  return program.output.length
}

/** What the server says meanwhile, beside that sessions begin and end. */
async function saidDuring (program: Running, body: () => Promise<void>): Promise<string[]> {
  const from = await position(program)
  await body()
  const lines = program.output.slice(from, await position(program)).split('\n')
  return lines.filter((line) => !/^$|a front-end connected|the session ended|bytes now/.test(line))
}

/** Bytes that a process has in memory. */
function residentMemory (pid: number): number {
  return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * 4096
}

define('messages that are refused, without end: a few lines are logged, and no memory is kept', async ({ connect, program }) => {
  const guest = await connect()
  const refuse = async (count: number): Promise<void> => {
    for (let sent = 0; sent < count; sent++) await guest.front.send(99, 0, { payload: new Uint8Array(1024), fds: [guest.queue.kick.fd] })
    assert.equal(await guest.front.getQueueNum(), 2)
  }
  const said = await saidDuring(program, async () => {
    await refuse(500)
    const memory = residentMemory(program.pid)
    await refuse(2000)
    assert.ok(residentMemory(program.pid) - memory < 48 << 20, 'memory does not grow with them')
    assert.equal((await guest.queue.getId()).written, 21)
  })
  assert.ok(said.length < LINES_MAX, `${said.length} lines`)
})

define('a ring that is broken again and again: a few lines are logged', async ({ connect, program }) => {
  const guest = await connect()
  const { queue } = guest
  const said = await saidDuring(program, async () => {
    for (let times = 0; times < LINES_MAX; times++) {
      if (times > 0) await queue.restart()
      queue.offer([{ address: NOWHERE, length: 16 }])
      queue.kick.signal()
      await queue.isBroken(0)
    }
  })
  assert.ok(said.length < LINES_MAX, `${said.length} lines`)
}, ['split'])

define('requests that fail, without end, are the guest\'s affair: nothing is logged', async ({ connect, program }) => {
  const guest = await connect()
  const free = guest.allocate(0)
  const said = await saidDuring(program, async () => {
    for (let times = 0; times < 300; times++) {
      assert.equal((await guest.queue.read(2n ** 55n, 512)).status, 1)
      guest.rewind(free)
    }
  })
  assert.deepEqual(said, [])
})

test.run()
