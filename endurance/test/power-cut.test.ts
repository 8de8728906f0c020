import assert from 'node:assert/strict'
import { test } from 'uvu'
import { cleanUp } from '../../test/support/temporary.ts'
import { ourServer } from '../../test/support/server.ts'
import { testWith } from '../../test/support/programs.ts'
import { campaign, choices, describe } from '../power-cut/campaign.ts'
import { LIES } from '../power-cut/volatile-engine.ts'

/** A disk that lies is found out in most runs. */
const LYING_RUNS = 30

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x100000000))
console.log(`note: SEED=${seed}`)

testWith(ourServer)('10 power cuts: nothing is lost that was acknowledged as stable', async () => {
  let acknowledged = 0
  await campaign(seed, 10, choices(), (outcome) => {
    assert.deepEqual(outcome.violations, [], describe(outcome.plan))
    acknowledged += outcome.acknowledged
    return 'go on'
  })
  assert.ok(acknowledged > 100, `${acknowledged} changes acknowledged`)
})

for (const lie of LIES) {
  test(`a disk that ${lie} is found out`, async () => {
    let lost = 0
    await campaign(seed, LYING_RUNS, choices(lie), ({ violations }) => {
      lost += violations.length
      return lost > 0 ? 'enough' : 'go on'
    })
    assert.ok(lost > 0, `nothing was lost in ${LYING_RUNS} runs`)
  })
}

test.after(cleanUp)
test.run()
