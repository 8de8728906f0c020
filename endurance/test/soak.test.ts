import assert from 'node:assert/strict'
import { test } from 'uvu'
import { testWith } from '../../test/support/programs.ts'
import { ourServer } from '../../test/support/server.ts'
import { report, soak } from '../soak/soak.ts'

const SECONDS = 45

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x100000000))
console.log(`note: SEED=${seed}`)

testWith(ourServer)(`${SECONDS} s of all that may happen: nothing is wrong, and nothing grows`, async () => {
  for (const life of await soak(SECONDS, seed)) {
    const { problems, text } = report(life)
    assert.deepEqual(problems, [], text)
    assert.ok(life.verified > 100, text)
    assert.ok(life.events.size >= 4, text)
  }
})

test.run()
