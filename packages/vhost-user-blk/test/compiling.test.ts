import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { compileAfterBoot } from '../src/compiling.ts'

const test = suite('compiling')
const isMeasured = process.versions.node.startsWith('20.')

const budgetOf = (flags: string | undefined): number => Number(/--interrupt-budget=(\d+)/.exec(flags ?? '')?.[1])

if (isMeasured) {
  test('V8 compiles late until a guest has booted, and as by itself from then on', async () => {
    const byItself = budgetOf(spawnSync(process.execPath, ['--v8-options'], { encoding: 'utf8' }).stdout)
    const flags: string[] = []
    let requests = 0
    compileAfterBoot(() => requests, (flag) => flags.push(flag))
    assert.deepEqual(flags.map(budgetOf), [4 * byItself])
    requests = 4999
    await sleep(600)
    assert.equal(flags.length, 1)
    requests = 5000
    await eventually('the guest has booted', () => flags.length > 1)
    await sleep(300)
    assert.deepEqual(flags.map(budgetOf), [4 * byItself, byItself])
  })
} else {
  test('V8 is left alone', () => {
    const flags: string[] = []
    compileAfterBoot(() => 0, (flag) => flags.push(flag))
    assert.deepEqual(flags, [])
  })
}

test.run()
