import assert from 'node:assert/strict'
import { test } from 'uvu'
import { SURFACES } from '../options.ts'
import { Program } from './program.ts'

const SECONDS = { ring: 2, request: 2, message: 2, inflight: 2, race: 5 }

for (const surface of SURFACES) {
  test(`${surface}: ${SECONDS[surface]} seconds of cases that nobody has seen find nothing`, async () => {
    const program = new Program(`--surface=${surface}`, `--seconds=${SECONDS[surface]}`)
    const status = await program.ended()
    console.log(`\nnote: ${program.output.trim().split('\n')[0]}`)
    assert.equal(status, 0, program.output)
  })
}

test.run()
