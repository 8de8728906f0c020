import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { compileAfterBoot, type CompilingOptions } from '../src/compiling.ts'

const test = suite('compiling')
const isMeasured = process.versions.node.startsWith('20.')

const budgetOf = (flags: string | undefined): number => Number(/--interrupt-budget=(\d+)/.exec(flags ?? '')?.[1])

interface Compiling {
  /** In the order in which they were set. */
  readonly budgets: number[]
  readonly connected: () => void
}

function compiling (options: Partial<CompilingOptions> = {}): Compiling {
  const budgets: number[] = []
  const connected = compileAfterBoot({ requests: () => 0, setFlags: (flag) => budgets.push(budgetOf(flag)), chosen: [], ...options })
  return { budgets, connected }
}

if (isMeasured) {
  const byItself = budgetOf(spawnSync(process.execPath, ['--v8-options'], { encoding: 'utf8' }).stdout)

  test('V8 compiles late until a guest has booted, and as by itself from then on', async () => {
    let requests = 0
    const { budgets, connected } = compiling({ requests: () => requests })
    assert.deepEqual(budgets, [4 * byItself])
    connected()
    requests = 4999
    await sleep(600)
    assert.equal(budgets.length, 1)
    requests = 5000
    await eventually('the guest has booted', () => budgets.length > 1)
    connected()
    await sleep(300)
    assert.deepEqual(budgets, [4 * byItself, byItself])
  })

  test('a guest that hardly uses its disk has booted after a while, too', async () => {
    const { budgets, connected } = compiling({ bootMilliseconds: 300 })
    connected()
    await eventually('the guest has booted', () => budgets.length > 1)
    assert.deepEqual(budgets, [4 * byItself, byItself])
  })

  test('as long as there is no guest nobody looks for requests', async () => {
    let looks = 0
    const { connected } = compiling({ requests: () => looks++, bootMilliseconds: 300 })
    await sleep(600)
    assert.equal(looks, 0)
    connected()
    await eventually('a look', () => looks > 0)
  })

  for (const option of ['--interrupt-budget=1000', '--interrupt_budget=1000', '--interrupt-budget']) {
    test(`a user's own ${option} stays`, () => {
      assert.deepEqual(compiling({ chosen: ['--expose-gc', option] }).budgets, [])
    })
  }

  test('an option with a similar name is no choice', () => {
    assert.equal(compiling({ chosen: ['--interrupt-budget-for-maglev=1000'] }).budgets.length, 1)
  })
} else {
  test('V8 is left alone', () => {
    assert.deepEqual(compiling().budgets, [])
  })
}

test.run()
