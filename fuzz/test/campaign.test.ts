import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import { setTimeout } from 'node:timers/promises'
import { campaign } from '../campaign.ts'
import { makeCase, type Surface } from '../surface.ts'
import { Program } from './program.ts'

/** A surface whose product fails when it meets a step that is a multiple of 7 after one that is a multiple of 5. */
function brittle (opened: { count: number } = { count: 0 }): Surface {
  return {
    name: 'brittle',
    stepsMax: 60,
    open () {
      opened.count++
      return {
        play ({ steps }, tell) {
          let met = false
          for (const step of steps) {
            tell(`step ${step % 35}`)
            if (met && step % 7 === 0) throw new Error('it broke')
            met ||= step % 5 === 0
          }
        },
        close: () => { opened.count-- }
      }
    }
  }
}

test('a case is what its seed and its number say', () => {
  assert.deepEqual(makeCase(3, 1000, 50), makeCase(3, 1000, 50))
  assert.notDeepEqual(makeCase(3, 1000, 50), makeCase(3, 1001, 50))
  assert.notDeepEqual(makeCase(3, 1000, 50), makeCase(4, 1000, 50))
})

test('a failure is found, made small and told, and its number finds it again', async () => {
  const opened = { count: 0 }
  const { failure } = await campaign(brittle(opened), { seed: 1, cases: 1000 })
  assert.equal(failure?.error.message, 'it broke')
  assert.equal(failure.game.steps.length, 2)
  assert.equal(failure.isFlaky, false)
  assert.deepEqual(failure.story, failure.game.steps.map((step) => `step ${step % 35}`))
  assert.equal(opened.count, 0, 'each player was closed')
  const again = await campaign(brittle(), { seed: 1, first: failure.number, cases: 1 })
  assert.deepEqual(again.failure?.game, failure.game)
})

test('what fails once only is told, too', async () => {
  let failures = 0
  const surface: Surface = {
    name: 'flaky', stepsMax: 3, open: () => ({ play: () => { if (failures++ === 0) throw new Error('once') }, close () {} })
  }
  const { failure } = await campaign(surface, { seed: 1, cases: 5 })
  assert.equal(failure?.error.message, 'once')
  assert.equal(failure.isFlaky, true)
})

test('without a failure it ends after its cases, or its time', async () => {
  const surface: Surface = { name: 'sound', stepsMax: 3, open: () => ({ play () {}, close () {} }) }
  assert.equal((await campaign(surface, { seed: 1, cases: 5 })).played, 5)
  const { played, milliseconds } = await campaign(surface, { seed: 1, milliseconds: 50 })
  assert.ok(played > 1 && milliseconds >= 50)
})

test('a case that ends the process is told with the command that repeats it', async () => {
  const program = new Program('--surface=ring', '--seed=7', '--seconds=60')
  process.kill(await childOf(program.child.pid!), 'SIGSEGV')
  assert.equal(await program.ended(), 1, program.output)
  assert.match(program.output, /ring: seed 7, case \d+ ended the process by SIGSEGV\nagain: npm run fuzz -- --surface=ring --seed=7 --case=\d+/)
})

async function childOf (pid: number): Promise<number> {
  for (const until = Date.now() + 60_000; Date.now() < until; await setTimeout(20)) {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const children = readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' ').filter((child) => child !== '')
      // The loader of TypeScript may have started a compiler, too.
      const child = children.find((child) => commandLine(child).includes('run-surface'))
      if (child !== undefined) return Number(child)
    }
  }
  throw new Error('no child was started')
}

function commandLine (pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}

test('options that make no sense are told, with status 1', async () => {
  const program = new Program('--surface=rings')
  assert.equal(await program.ended(), 1)
  assert.match(program.output, /--surface is one of .*\nnpm run fuzz -- --help lists the options/)
})

test.run()
