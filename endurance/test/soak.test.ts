import assert from 'node:assert/strict'
import { test } from 'uvu'
import { randomNumbers } from '../../packages/ioq/src/random.ts'
import { testWith } from '../../test/support/programs.ts'
import { ourServer } from '../../test/support/server.ts'
import { cleanUp, temporaryFolder } from '../../test/support/temporary.ts'
import { live } from '../soak/life.ts'
import { report, soak } from '../soak/soak.ts'
import { program } from '../soak/subject.ts'

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

testWith(ourServer)('a server that dies ends the life of its guest', async () => {
  const subject = await program(temporaryFolder())
  const life = live(subject, SECONDS, randomNumbers(seed))
  setTimeout(() => { void subject.kill() }, 1000)
  await assert.rejects(life, /failed: /)
  await cleanUp()
})

test.run()
